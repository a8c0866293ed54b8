"""Tests of damaged files of every format: they are read or refused in one line, without traceback or hang."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trees
from drawn_tables import table_for

from vidrisk.data.formats import FORMATS, Format, format_of
from vidrisk.data.formats.fit import fit_table
from vidrisk.data.formats.format import Reading, Writing
from vidrisk.frames import is_media
from vidrisk.runtimes.contract.errors import VidriskError

# A small data set of each format that is only read: makes it in a folder, and returns what is read.
SAMPLES: dict[str, Callable[[Path], Path]] = {
    "ucf101": lambda folder: trees.write_ucf101(folder / "ucf"),
    "something": lambda folder: trees.write_ssv2(folder / "ssv2"),
    "hmdb51": lambda folder: trees.write_hmdb51(folder / "hmdb51"),
    "ava": lambda folder: trees.write_ava(folder / "ava"),
}
PIECES = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b'"',
    b"<",
    b"]]>",
    b"{",
    b"}",
    b"[",
    b",",
    b"-1",
    b"NaN",
    b"1e999",
    b"null",
    b"../",
    b"\n",
    b"\r",
    b"999999999999999999999",
    b"&a;",
    "é".encode(),
    b"\x80",
)
QUICK, MANY = 60, 2000
HANG_S = 30


@pytest.mark.parametrize("known", FORMATS.values(), ids=lambda known: known.name)
def test_damaged_files_are_read_or_are_one_line(known: Format, tmp_path: Path) -> None:
    read_damaged(known, tmp_path, QUICK)


@pytest.mark.slow(minutes=5)
@pytest.mark.parametrize("known", FORMATS.values(), ids=lambda known: known.name)
def test_two_thousand_damaged_files_are_read_or_are_one_line(known: Format, tmp_path: Path) -> None:
    read_damaged(known, tmp_path, MANY)


def read_damaged(known: Format, folder: Path, count: int) -> None:
    """Read a data set repeatedly, each time with one of its own files damaged in a different way."""
    source = data_set_of(known, folder)
    files = (
        [source]
        if source.is_file()
        else sorted(path for path in source.rglob("*") if path.is_file() and not is_media(path))
    )
    files = files or sorted(path for path in source.rglob("*") if path.is_file())
    draw = random.Random(0)
    refused = 0
    for number in range(count):
        path = files[number % len(files)]
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, draw))
        signal.alarm(HANG_S)  # a hang ends the process, which the test reports
        try:
            format_of(source)
            known.read(
                source,
                Reading(
                    known.tasks[0],
                    known.splits[0] if known.splits else 0,
                    rate=24.0 if "rate" in known.options else None,
                    made=folder / f"made{number}",
                ),
            )
        except VidriskError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000, str(error)
        finally:
            signal.alarm(0)
            path.write_bytes(whole)
            shutil.rmtree(folder / f"made{number}", ignore_errors=True)
    assert refused or known.name == "yolo-classify"  # its folders are the labels: no file of it is read


def data_set_of(known: Format, folder: Path) -> Path:
    """Write a data set of a format and return its path."""
    if known.name in SAMPLES:
        return SAMPLES[known.name](folder)
    assert known.write is not None
    fitted, _ = fit_table(table_for(known, folder / "media"), known)
    destination = (folder if known.copies else folder / "media") / f"set{known.suffix}"
    known.write(fitted, destination, Writing())
    return destination


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """Return the content cut off, or with pieces inserted, overwritten or removed."""
    if draw.random() < 0.1:
        return whole[: draw.randrange(len(whole) + 1)]
    for _ in range(draw.randint(1, 4)):
        begin = draw.randrange(len(whole) + 1)
        end = min(len(whole), begin + draw.choice((0, 0, 1, 1, 5, 40)))
        piece = draw.choice(PIECES) if draw.random() < 0.8 else whole[begin:end] * draw.randint(1, 3)
        whole = whole[:begin] + piece + whole[end:]
    return whole
