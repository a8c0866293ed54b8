"""Draws a contact sheet of a table, with one row of thumbnails per class."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidrisk.data.io import check_vacant, write_new_file
from vidrisk.data.table import Sample, Table
from vidrisk.frames import kind_of, read_clips
from vidrisk.runtimes.contract.errors import DataError, SettingsError, UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

log = logging.getLogger(__name__)

_T = TypeVar("_T")

STRIP_FRAMES = 4
THUMBNAIL_PX = 96
LABEL_PX = 200
GAP_PX = 4
FONT_PX = 16
MAX_ROWS = 60
BACKGROUND, INK, GREY = (255, 255, 255), (20, 20, 20), (150, 150, 150)
FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
CJK_FONTS = (
    "NotoSansCJK*",
    "NotoSansSC*",
    "SourceHanSans*",
    "wqy-*",
    "DroidSansFallback*",
    "PingFang*",
    "msyh*",
    "simhei*",
    "Hiragino Sans GB*",
    "STHeiti*",
    "uming*",
    "ukai*",
)


def contact_sheet(table: Table, path_png: str | Path, *, per_class: int = 8) -> None:
    """Draw a PNG with one row per class of the table's first target, its name and its number of samples.

    Each row shows up to ``per_class`` samples, spread evenly over the class by name: a photo as one thumbnail, a clip
    or a part of it as a strip of four frames, an unreadable file as a grey cell with a cross. At most the first 60
    classes are drawn.

    Raises:
        DataError: an empty table, or a file that exists already or cannot be written.
        SettingsError: ``per_class`` outside 1 to 100, or a name that does not end in ``.png``.
    """
    path_png = Path(path_png)
    check_sheet(path_png, per_class)
    if not table.samples:
        raise DataError(f"{table.root.name} has no samples to show", fix="name data that has some")
    target = table.target_names[0]
    counts = table.label_counts(target)
    if len(counts) > MAX_ROWS:
        log.warning("the sheet shows the first %d of %d classes", MAX_ROWS, len(counts))
    rows = []
    font = font_for("".join(counts))
    for label in list(counts)[:MAX_ROWS]:
        members = sorted((s for s in table.samples if label in s.labels_of(target)), key=lambda sample: sample.order)
        rows.append(sheet_row(label, len(members), [_cell(sample) for sample in spread(members, per_class)], font))
    buffer = io.BytesIO()
    stack_rows(rows).save(buffer, "PNG")
    write_new_file(path_png, buffer.getvalue())


def draw_captioned_sheet(samples: Sequence[tuple[Sample, str]], path_png: Path) -> None:
    """Draw a PNG with one row per sample: a caption, its name, and its photo or frames.

    Raises:
        DataError, SettingsError: as ``check_sheet``; no sample.
    """
    check_sheet(path_png, 1)
    if not samples:
        raise DataError("there is no sample to show", fix="name data that has some")
    font = font_for("".join(f"{caption}{sample.name}" for sample, caption in samples))
    rows = [
        draw_captioned_row((caption, sample.title), [_cell(sample)], font) for sample, caption in samples[:MAX_ROWS]
    ]
    buffer = io.BytesIO()
    stack_rows(rows).save(buffer, "PNG")
    write_new_file(path_png, buffer.getvalue())


def check_sheet(path_png: Path, per_class: int) -> None:
    """Check the path of a sheet and the number of thumbnails per row.

    Raises:
        DataError: the file exists.
        SettingsError: ``per_class`` outside 1 to 100, or a name that does not end in ``.png``.
    """
    if not 1 <= per_class <= 100:
        raise SettingsError(f"{per_class} thumbnails per class", allowed="1 to 100")
    if path_png.suffix.lower() != ".png":
        raise SettingsError(f"the sheet's name {path_png.name}", allowed="a name that ends in .png")
    check_vacant(path_png)


def spread(members: Sequence[_T], most: int) -> list[_T]:
    """Choose at most ``most`` members, spread evenly."""
    n = min(most, len(members))
    return [members[i * len(members) // n] for i in range(n)]


def _cell(sample: Sample) -> Image.Image:
    """Draw one thumbnail, or a strip of them side by side."""
    clip = kind_of(sample.path) == "video"
    pixel = PixelSpec(height=THUMBNAIL_PX, width=THUMBNAIL_PX, resize="pad")
    try:
        read = next(read_clips(sample.path, pixel, TimeSpec(frames=STRIP_FRAMES) if clip else None, sample.interval))
    except UnreadableError as error:
        log.warning("%s cannot be read: %s", sample.name, error)
        return draw_crossed_out(STRIP_FRAMES if clip else 1)
    if read.note:
        log.warning("%s: %s", sample.name, read.note)
    return Image.fromarray(np.concatenate(list(read.frames), axis=1))


def draw_crossed_out(frames: int) -> Image.Image:
    """Draw the cell of a file that cannot be read."""
    width, height = frames * THUMBNAIL_PX, THUMBNAIL_PX
    cell = Image.new("RGB", (width, height), GREY)
    draw = ImageDraw.Draw(cell)
    draw.line((0, 0, width, height), fill=INK, width=2)
    draw.line((0, height, width, 0), fill=INK, width=2)
    return cell


def sheet_row(label: str, count: int, cells: Sequence[Image.Image], font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw a label, a count and cells side by side."""
    return draw_captioned_row((label, f"n = {count}"), cells, font)


def draw_captioned_row(
    lines: tuple[str, str], cells: Sequence[Image.Image], font: ImageFont.FreeTypeFont
) -> Image.Image:
    """Draw a line of text in black, a grey one below it, and cells beside them."""
    row = Image.new("RGB", (LABEL_PX + sum(cell.width + GAP_PX for cell in cells), THUMBNAIL_PX + GAP_PX), BACKGROUND)
    draw = ImageDraw.Draw(row)
    draw.text((GAP_PX, THUMBNAIL_PX // 3), _fit_label(lines[0], font), fill=INK, font=font)
    draw.text((GAP_PX, THUMBNAIL_PX // 3 + FONT_PX + GAP_PX), _fit_label(lines[1], font), fill=GREY, font=font)
    x = LABEL_PX
    for cell in cells:
        row.paste(cell, (x, GAP_PX // 2))
        x += cell.width + GAP_PX
    return row


def stack_rows(rows: Sequence[Image.Image]) -> Image.Image:
    """Stack rows below one another."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), BACKGROUND)
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height
    return sheet


def _fit_label(label: str, font: ImageFont.FreeTypeFont) -> str:
    """Return the label on one line, cut to the label column.

    Characters that the font lacks are escaped (``\\u7f3a``).
    """
    text = label if label.isascii() or _is_cjk(font) else label.encode("ascii", "backslashreplace").decode()
    text = " ".join(text.split())
    if font.getlength(text) <= LABEL_PX - 2 * GAP_PX:
        return text
    while text and font.getlength(text + "...") > LABEL_PX - 2 * GAP_PX:
        text = text[:-1]
    return text + "..."


def _is_cjk(font: ImageFont.FreeTypeFont) -> bool:
    return isinstance(font.path, str) and any(Path(font.path).match(pattern) for pattern in CJK_FONTS)


def font_for(text: str) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font, or for non-ASCII text a system font with Chinese characters, if one is installed."""
    if not text.isascii():
        for folder in (Path(name).expanduser() for name in FONT_FOLDERS):
            for pattern in CJK_FONTS:
                for path in sorted(folder.rglob(pattern)) if folder.is_dir() else ():
                    try:
                        return ImageFont.truetype(str(path), FONT_PX)
                    except OSError:
                        continue
        log.warning("no font with Chinese characters is installed: such labels are written as codes")
    font = ImageFont.load_default(FONT_PX)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise DataError("Pillow was built without FreeType", fix="pip install --force-reinstall pillow")
    return font
