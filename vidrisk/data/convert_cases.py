"""Converts cases to a data set for training and inference: Parquet with photos in its rows, or JSONL with image files.

    OUT/train.parquet, val.parquet, test.parquet      or  OUT/train.jsonl, val.jsonl, test.jsonl, images/
    OUT/dataset_stats.json, OUT/scheme.json

Photos are decoded in supervised processes and re-encoded, rows are written as they are produced, and the folder gets
the name OUT only once it is complete.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vidrisk.data.case_photos import CasePhoto, read_case_photos
from vidrisk.data.case_tables import SCHEME_FILE
from vidrisk.data.case_writers import CaseWriter, JsonlWriter, ParquetWriter, RiskRow
from vidrisk.data.cases import Case, Cases
from vidrisk.data.report_prompts import Style, prompt_from_case
from vidrisk.data.table import SPLITS, first_three
from vidrisk.decode.jpegs import Jpeg
from vidrisk.decode.messages import PhotoSettings
from vidrisk.decode.pool import DecodePool, default_workers
from vidrisk.runtimes.contract.errors import DataError, SettingsError
from vidrisk.runtimes.contract.outputs import refuse_below_file

log = logging.getLogger(__name__)

Kind = Literal["risk-parquet", "risk-jsonl"]
STATS = "dataset_stats.json"
MAX_NAMED = 100  # photos and rows that the statistics list by name

Progress = Callable[[str, int, int], None]


@dataclass
class _Counts:
    splits: Counter[str] = field(default_factory=Counter)
    levels: dict[str, Counter[str]] = field(default_factory=dict)
    text_only: int = 0
    images: int = 0
    unreadable: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def convert_cases(
    cases: Cases,
    out: str | Path,
    kind: Kind,
    *,
    settings: PhotoSettings | None = None,
    style: Style = "json",
    strict: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a data set.

    Args:
        cases: every case must have a split; see ``split_cases``.
        out: a folder that does not exist, or is empty.
        kind: ``risk-parquet`` or ``risk-jsonl``.
        settings: size and quality of the photos.
        style: style of the answers.
        strict: refuse a photo that cannot be read; otherwise it is left out, counted and named.
        progress: called with (what, done, total).

    Returns:
        The content of ``dataset_stats.json``.

    Raises:
        SettingsError: an unknown kind, or ``out`` exists and is not an empty folder.
        DataError: cases without a split, with ``strict`` a photo that cannot be read, no usable case, no space on the
            disk.
        RuntimeFailure: decode workers cannot be started.
        MissingExtra: Parquet without pyarrow.
    """
    out, settings = Path(out), settings or PhotoSettings()
    if kind not in get_args(Kind):
        raise SettingsError(f"kind {kind!r}", allowed=", ".join(get_args(Kind)))
    without = [case.id for case in cases.cases if case.split is None]
    if without:
        raise DataError(
            f"cases without a split: {len(without)} of {len(cases)} ({first_three(without)})", fix="split them first"
        )
    counts = _Counts()
    with _stage_folder(out) as folder, ExitStack() as stack:
        pool = stack.enter_context(DecodePool(default_workers()))
        writers: dict[str, CaseWriter] = {}
        for done, (case, photos) in enumerate(read_case_photos(cases.cases, pool, settings), start=1):
            assert case.split is not None
            row = _row(cases, case, photos, style, counts, strict)
            if row is not None:
                if case.split not in writers:
                    writer = ParquetWriter if kind == "risk-parquet" else JsonlWriter
                    writers[case.split] = stack.enter_context(writer(folder, case.split, cases.scheme))
                writers[case.split].write(row)
                _count(cases, case, row, counts)
            if progress:
                progress("photos", done, len(cases))
        stack.close()
        if not sum(counts.splits.values()):
            raise DataError(f"{cases.root.name}: no case can be used: {first_three(counts.left_out)}")
        stats = _statistics(cases, counts, settings, kind, style)
        (folder / SCHEME_FILE).write_text(cases.scheme.to_json() + "\n", encoding="utf-8")
        (folder / STATS).write_text(json.dumps(stats, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for what, names in (
        ("photos that cannot be read", counts.unreadable),
        ("photos with a missing part", counts.partial),
    ):
        if names:
            log.warning("%s: %s: %d (%s)", cases.root.name, what, len(names), first_three(names))
    return stats


def _row(
    cases: Cases, case: Case, photos: tuple[CasePhoto, ...], style: Style, counts: _Counts, strict: bool
) -> RiskRow | None:
    """Make a row of the photos that can be read, or return None if none of them can."""
    readable: list[tuple[str, Jpeg]] = []
    for photo in photos:
        if photo.jpeg is None:
            counts.unreadable.append(photo.title)
        else:
            readable.append((photo.source.name, photo.jpeg))
            counts.partial += [photo.title] if photo.is_partial else []
        if strict and (photo.jpeg is None or photo.is_partial):
            raise DataError(
                f"case {case.id}: {photo.title}",
                allowed="photos that can be read",
                fix="get the photo again, or convert without strict",
            )
    if photos and not readable:
        counts.left_out.append(f"{case.id}: none of its photos can be read")
        return None
    return RiskRow(
        case, tuple(readable), prompt_from_case(cases.scheme, case, photos=len(readable), style=style), style
    )


def _count(cases: Cases, case: Case, row: RiskRow, counts: _Counts) -> None:
    assert case.split is not None
    counts.splits[case.split] += 1
    counts.images += len(row.photos)
    counts.text_only += not row.photos
    for report_field in cases.scheme.level_fields:
        counts.levels.setdefault(report_field.name, Counter())[case.fields[report_field.name]] += 1


def _statistics(cases: Cases, counts: _Counts, settings: PhotoSettings, kind: Kind, style: Style) -> dict[str, Any]:
    scheme = cases.scheme
    levels = {
        name: {level: found[level] for level in (*scheme.level_names, "") if found[level]}
        for name, found in counts.levels.items()
    }
    first = next(iter(levels.values()), {})
    return {
        "version": 1,
        "kind": kind,
        "scheme": scheme.name,
        "style": style,
        "total_samples": sum(counts.splits.values()),
        **{f"{split}_samples": counts.splits[split] for split in SPLITS},
        "text_only_samples": counts.text_only,
        "images": counts.images,
        "risk_level_distribution": first,
        "levels": levels,
        "missing_images": len(cases.missing),
        "missing": list(cases.missing[:MAX_NAMED]),
        "unreadable_images": len(counts.unreadable),
        "unreadable": counts.unreadable[:MAX_NAMED],
        "partial_images": len(counts.partial),
        "partial": counts.partial[:MAX_NAMED],
        "left_out": len(cases.left_out) + len(counts.left_out),
        "left_out_rows": [*cases.left_out, *counts.left_out][:MAX_NAMED],
        "image_processing": {
            "quality": settings.quality,
            "max_size": [settings.max_width, settings.max_height],
            "compression": "snappy" if kind == "risk-parquet" else "none",
        },
        "notes": list(cases.notes),
    }


def check_new_folder(out: Path) -> None:
    """Refuse a path that a data set cannot be written to, before any data are read.

    Raises:
        SettingsError: ``out`` exists and is not an empty folder, or lies below a file.
        DataError: it cannot be read.
    """
    refuse_below_file(out)
    try:
        is_taken = out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))
    except OSError as error:
        raise DataError(f"{out} cannot be read: {error.strerror}", fix="check the permissions") from error
    if is_taken:
        raise SettingsError(f"{out} exists already", fix="choose another folder, or delete it first")


@contextmanager
def _stage_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``out``; rename it to ``out`` on success, delete it on failure.

    Raises:
        SettingsError: as ``check_new_folder``.
        DataError: it cannot be written.
    """
    check_new_folder(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name[:40]}.", dir=out.parent))
        try:
            yield staging
            staging.chmod(0o755)
            for path in staging.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            staging.replace(out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{out} cannot be written: {error.strerror or error}", fix="check free space and permissions"
        ) from error
