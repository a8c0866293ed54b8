from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidrisk.data.table import SPLITS
from vidrisk.demo import (
    ADVICE,
    CLIP_FRAMES,
    CLIP_SIDE,
    MOTIONS,
    PHOTOS,
    cell_photos,
    motion_table,
    photo_table,
    render_clip,
)
from vidrisk.frames import read_clips
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec


def picture(path: Path, seed: int = 0, side: int = 150) -> Path:
    """Write a smooth picture that differs everywhere, so that every motion shows."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(path)
    return path


def frames_of(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    clip = next(read_clips(path, PixelSpec(CLIP_SIDE, CLIP_SIDE), TimeSpec(CLIP_FRAMES)))
    return clip.frames.astype(np.float64)


@pytest.mark.parametrize("pair", range(len(MOTIONS) // 2))
def test_every_second_motion_is_the_reversal_of_the_one_before(tmp_path: Path, pair: int) -> None:
    photo = picture(tmp_path / "p.png")
    there, back = (frames_of(_rendered(photo, motion, tmp_path)) for motion in MOTIONS[2 * pair : 2 * pair + 2])
    assert there.shape == (CLIP_FRAMES, CLIP_SIDE, CLIP_SIDE, 3)
    reversed_apart, as_is_apart = np.abs(there - back[::-1]).mean(), np.abs(there - back).mean()
    assert reversed_apart < 3 and as_is_apart > 4 * reversed_apart
    assert np.abs(there[0] - there[-1]).mean() > 10


def _rendered(photo: Path, motion: str, folder: Path) -> Path:
    render_clip(photo, motion, folder / f"{motion}.mp4", seed=3)
    return folder / f"{motion}.mp4"


def test_photo_table_is_split_without_overlap() -> None:
    pytest.importorskip("elpv_dataset", reason="the extra demo is not installed")
    photos = cell_photos()
    assert photos == cell_photos() and len(photos) == 2624
    table = photo_table(photos)
    assert len(table) == PHOTOS and table.target_names == ("level",)
    parts = {split: {s.path for s in table.of_split(split).samples} for split in SPLITS}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == PHOTOS
    assert {name: round(len(part) / PHOTOS, 1) for name, part in parts.items()} == {
        "train": 0.6,
        "val": 0.2,
        "test": 0.2,
    }
    assert all(set(table.of_split(split).label_counts("level")) == set(ADVICE) for split in SPLITS)
    assert all(s.advice == ADVICE[s.labels["level"]] and s.path.is_file() for s in table.samples)


def test_motion_table_renders_every_motion_from_pictures_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidrisk.demo.PHOTOS", 2)
    monkeypatch.setattr("vidrisk.demo.CLIPS_PER_MOTION", 4)
    photos = [(picture(tmp_path / f"{number:02}.png", number, 40), "none") for number in range(2 + 4 * len(MOTIONS))]
    told: list[int] = []
    table = motion_table(photos, tmp_path / "clips", lambda what, done, total: told.append(total))
    assert table.label_counts("action") == dict.fromkeys(sorted(MOTIONS), 4)
    stems = [sample.path.stem for sample in table.samples]
    assert len(set(stems)) == len(stems) and {"00", "01"}.isdisjoint(stems)
    assert set(told) == {4 * len(MOTIONS)}
    assert Counter(s.split for s in table.samples).keys() == set(SPLITS)
    assert table.of_split("train").label_counts("action").keys() == set(MOTIONS)
