"""Previews a data set of risk reports: its rows as text, and a contact sheet with a row per level."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path

from PIL import Image

from vidrisk.data.case_photos import CasePhoto, read_case_photos
from vidrisk.data.cases import Case, Cases
from vidrisk.data.io import write_new_file
from vidrisk.data.sheet import THUMBNAIL_PX, check_sheet, draw_crossed_out, font_for, sheet_row, spread, stack_rows
from vidrisk.data.table import first_three
from vidrisk.decode.messages import PhotoSettings
from vidrisk.decode.pool import DecodePool, default_workers
from vidrisk.runtimes.contract.errors import SettingsError

log = logging.getLogger(__name__)

MAX_ROWS = 1000
MAX_SHOWN_CHARS = 60
_GREY = (128, 128, 128)


def rows_of_cases(cases: Cases, count: int) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the first rows of cases as text for printing.

    Raises:
        SettingsError: a count outside 1 to 1000.
    """
    if not 1 <= count <= MAX_ROWS:
        raise SettingsError(f"{count} rows to show", allowed=f"1 to {MAX_ROWS}")
    fields = cases.scheme.fields
    columns = ["id", "split", "photos", *(field.label for field in fields)]
    rows = [
        [case.id, case.split or "", str(len(case.photos)), *(_shorten(case.fields[field.name]) for field in fields)]
        for case in cases.cases[:count]
    ]
    return columns, rows


def cases_sheet(cases: Cases, path_png: str | Path, *, per_level: int = 8) -> tuple[str, ...]:
    """Draw a PNG with one row per level: its number of cases and the first photo of some of them, spread evenly.

    Returns:
        Photos that cannot be read (they are crossed out), each with the reason.

    Raises:
        DataError: the file exists, or cannot be written.
        SettingsError: ``per_level`` outside 1 to 100, or a name that does not end in ``.png``.
        RuntimeFailure: decode workers cannot be started.
    """
    path_png = Path(path_png)
    check_sheet(path_png, per_level)
    counts = cases.level_counts()
    counts |= {"": len(cases) - sum(counts.values())} if len(cases) > sum(counts.values()) else {}
    names = {level: level or "–" for level in counts}
    font = font_for("".join(names.values()))
    unreadable: list[str] = []
    rows = []
    with DecodePool(default_workers()) as pool:
        for level, count in counts.items():
            shown = [
                _first_photo(case) for case in spread([case for case in cases.cases if case.level == level], per_level)
            ]
            read = read_case_photos(shown, pool, PhotoSettings(THUMBNAIL_PX, THUMBNAIL_PX))
            photos = [photo for _, found in read for photo in found]
            unreadable += [photo.title for photo in photos if photo.jpeg is None]
            rows.append(sheet_row(names[level], count, [_cell(photo) for photo in photos], font))
    buffer = io.BytesIO()
    stack_rows(rows).save(buffer, "PNG")
    write_new_file(path_png, buffer.getvalue())
    if unreadable:
        log.warning(
            "%s: photos that cannot be read: %d (%s)", cases.root.name, len(unreadable), first_three(unreadable)
        )
    return tuple(unreadable)


def _first_photo(case: Case) -> Case:
    return replace(case, photos=case.photos[:1])


def _cell(photo: CasePhoto) -> Image.Image:
    if photo.jpeg is None:
        return draw_crossed_out(1)
    cell = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX), _GREY)
    with Image.open(io.BytesIO(photo.jpeg.data), formats=("JPEG",)) as image:
        cell.paste(image, ((THUMBNAIL_PX - image.width) // 2, (THUMBNAIL_PX - image.height) // 2))
    return cell


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"
