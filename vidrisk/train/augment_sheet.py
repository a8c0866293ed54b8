"""A picture of what augmentation does: some samples unchanged, and below each one its augmented versions."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image

from vidrisk.data import Table
from vidrisk.data.choice import make_balanced_order
from vidrisk.data.io import write_new_file
from vidrisk.data.sheet import THUMBNAIL_PX, check_sheet, draw_captioned_row, font_for, stack_rows
from vidrisk.frames import kind_of, read_clips
from vidrisk.models.config import Augmentation
from vidrisk.runtimes.contract.errors import DataError, SettingsError, UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec
from vidrisk.train.augment import augment_clips
from vidrisk.train.mirrors import find_misfits, refuse_misfits

log = logging.getLogger(__name__)

MOMENTS, SHOWN = 16, 4  # frames read per clip, and frames drawn
DRAWS = 4


def kinds_from_text(text: str) -> tuple[str, ...]:
    """Split ``"flip,light"`` into ``("flip", "light")``.

    Raises:
        SettingsError: an unknown kind.
    """
    kinds = tuple(kind.strip() for kind in text.split(",") if kind.strip())
    for kind in kinds:
        if kind not in get_args(Augmentation):
            raise SettingsError(f"augmentation {kind!r}", allowed=", ".join(get_args(Augmentation)))
    return kinds


def augmentation_sheet(table: Table, path_png: Path, kinds: Sequence[str], *, samples: int = 6, seed: int = 0) -> None:
    """Draw a PNG with one unchanged row per sample and ``DRAWS`` augmented rows below it; four frames per clip.

    The samples are taken from all classes in turn. Unreadable samples are left out.

    Raises:
        DataError, SettingsError: see ``check_sheet`` and ``refuse_misfits``; also if no sample can be read.
    """
    check_sheet(path_png, samples)
    targets = {target for sample in table.samples for target in sample.labels}
    refuse_misfits(find_misfits(kinds, [list(table.label_counts(target)) for target in sorted(targets)]))
    generator = torch.Generator().manual_seed(seed)
    pixel = PixelSpec(height=2 * THUMBNAIL_PX, width=2 * THUMBNAIL_PX)
    clips: list[tuple[str, str, torch.Tensor]] = []
    for sample in make_balanced_order(table, seed):
        if len(clips) == samples:
            break
        time = TimeSpec(frames=MOMENTS) if kind_of(sample.path) == "video" else None
        try:
            frames = next(read_clips(sample.path, pixel, time, sample.interval)).frames
        except UnreadableError as error:
            log.warning("%s cannot be read: %s", sample.name, error)
            continue
        caption = ", ".join(map(sample.label_text, sample.labels))
        clips.append((caption, sample.title, torch.from_numpy(np.ascontiguousarray(frames))))
    if not clips:
        raise DataError(f"{table.root.name} has no sample that can be shown", fix="give data with readable samples")
    font = font_for("".join(f"{caption}{title}" for caption, title, _ in clips))
    rows = []
    for number, (caption, title, clip) in enumerate(clips):
        rows.append(draw_captioned_row((caption, title), [_strip(clip)], font))
        for _ in range(DRAWS):
            # In one batch with others of the same shape, because some augmentations mix clips.
            batch = torch.stack(
                [
                    clip,
                    *(
                        other
                        for place, (_, _, other) in enumerate(clips)
                        if place != number and other.shape == clip.shape
                    ),
                ]
            )
            made, mirrored = augment_clips(batch, kinds, generator)
            rows.append(draw_captioned_row(("mirrored" if mirrored[0] else "", ""), [_strip(made[0])], font))
    buffer = io.BytesIO()
    stack_rows(rows).save(buffer, "PNG")
    write_new_file(path_png, buffer.getvalue())


def _strip(clip: torch.Tensor) -> Image.Image:
    """Draw some frames of a clip side by side."""
    shown = clip[np.linspace(0, len(clip) - 1, min(len(clip), SHOWN)).round().astype(int)].numpy()
    cells = [np.asarray(Image.fromarray(frame).resize((THUMBNAIL_PX, THUMBNAIL_PX))) for frame in shown]
    return Image.fromarray(np.concatenate(cells, axis=1))
