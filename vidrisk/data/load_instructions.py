"""Loads files of instruction data: makes ids unique, finds the images, and counts and reports what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidrisk.data.connected import smallest_connected
from vidrisk.data.formats.json_lists import first_character_of, json_lines_of, records_of, records_of_lists
from vidrisk.data.instruction_formats import FORMATS, First, InstructionFormat, format_from_first
from vidrisk.data.instruction_formats.dataset_info import read_named_format
from vidrisk.data.instruction_formats.reader import ToldConversation
from vidrisk.data.instructions import Instruction, Instructions, Turn, problem_of_turns
from vidrisk.data.notes import notes_of_left_out
from vidrisk.data.photo_paths import find_photos, keys_of_photos
from vidrisk.data.places import Places
from vidrisk.data.report_prompts import PHOTO
from vidrisk.data.table import SplitName, split_from_name
from vidrisk.runtimes.contract.errors import DataError, SettingsError

JSON_SUFFIXES, LINES_SUFFIXES = (".json",), (".jsonl", ".ndjson")


def load_instructions(
    source: str | Path, *, images: str | Path | None = None, name: str | None = None, strict: bool = False
) -> Instructions:
    """Read instruction data.

    An image may be in any number of records, and every record keeps its questions. If a record has fewer markers than
    images, the missing markers are put in front of its first question.

    Args:
        source: a ``.json`` or ``.jsonl`` file of one of ``FORMATS``.
        images: the folder that paths are relative to; None selects that of the file.
        name: name of the format; None detects it.
        strict: refuse missing images and records that cannot be used; otherwise they are left out, counted and named.

    Raises:
        DataError: a missing file, an unknown format, damaged JSON, a path that leaves the folder; with ``strict``,
            whatever is left out otherwise; no usable record.
        SettingsError: an unknown format name, or a missing image folder.
    """
    source = Path(source)
    if not source.is_file():
        raise DataError(f"{source} does not exist", allowed=f"a file: {', '.join((*JSON_SUFFIXES, *LINES_SUFFIXES))}")
    root = (Path(images) if images is not None else source.parent).resolve()
    if not root.is_dir():
        raise SettingsError(f"images in {images}", allowed="a folder")
    chosen = _find_format(name) if name is not None else _detect_format(source)
    maker = _Maker(Places(root), split_from_name(source.stem))
    items = [made for told in chosen.read(source) if (made := maker.instruction(told))]
    left_out = {"missing images": maker.missing, "records that cannot be used": maker.left_out}
    notes = notes_of_left_out(source.name, left_out, strict=strict)
    if not items:
        raise DataError(
            f"{source.name} has no record that can be used", allowed=f"conversations about images under {root}"
        )
    return Instructions(root, tuple(_with_groups(items)), tuple(maker.missing), tuple(maker.left_out), tuple(notes))


def _with_groups(items: Sequence[Instruction]) -> Iterator[Instruction]:
    """Group instructions that share an image, directly or through others; a group is named after one of its images."""
    shown = [item for item in items if item.images]
    names = {
        key: photo.name for item in shown for key, photo in zip(keys_of_photos(item.images), item.images, strict=True)
    }
    groups = iter(smallest_connected([keys_of_photos(item.images) for item in shown]))
    return (replace(item, group=names[next(groups)]) if item.images else item for item in items)


class _Maker:
    """Builds instructions from the records of a file."""

    def __init__(self, places: Places, split: SplitName | None) -> None:
        self._places, self._split = places, split
        self._ids: dict[str, int] = {}
        self._number = 0
        self.missing: list[str] = []
        self.left_out: list[str] = []

    def instruction(self, told: ToldConversation) -> Instruction | None:
        """Build the instruction, or record it and return None if it cannot be used."""
        self._number += 1
        files, absent = find_photos(told.images, self._places, told.where, "images")
        self.missing += [f"{name} ({told.where})" for name in absent]
        if len(files) < len(told.images):
            return None
        turns = _with_markers(told.turns, len(files))
        problem = told.problem or ("it is about a video" if told.videos else problem_of_turns(turns, len(files)))
        if problem:
            self.left_out.append(f"{told.where}: {problem}")
            return None
        return Instruction(
            self._unique(told.id or str(self._number)), tuple(files), turns, self._split, where=told.where
        )

    def _unique(self, wanted: str) -> str:
        name = wanted
        while name in self._ids:
            self._ids[wanted] += 1
            name = f"{wanted}#{self._ids[wanted]}"
        self._ids[name] = 1
        return name


def _with_markers(turns: tuple[Turn, ...], images: int) -> tuple[Turn, ...]:
    lacking = images - sum(turn.text.count(PHOTO) for turn in turns)
    first = next((place for place, turn in enumerate(turns) if turn.role == "user"), None)
    if lacking <= 0 or first is None:
        return turns
    asked = Turn("user", f"{PHOTO}\n" * lacking + turns[first].text)
    return (*turns[:first], asked, *turns[first + 1 :])


def _find_format(name: str) -> InstructionFormat:
    if name not in FORMATS:
        raise SettingsError(f"format {name!r}", allowed=", ".join(FORMATS))
    return FORMATS[name]


def _detect_format(source: Path) -> InstructionFormat:
    if source.is_file() and not source.stat().st_size:
        raise DataError(f"{source.name} is empty (0 bytes)", fix="get the file again")
    first = _first_of(source)
    found = first and format_from_first(first._replace(told=read_named_format(source)))
    if not found:
        raise DataError(
            f"{source.name} matches no known format",
            allowed=", ".join(f"{known.name} ({known.title})" for known in FORMATS.values()),
            fix="name the format; the error then says what is missing",
        )
    return found


def _first_of(source: Path) -> First | None:
    record: dict[str, Any] | None
    if source.suffix.lower() in LINES_SUFFIXES:
        record = next((record for _, record in json_lines_of(source)), None)
        return First("lines", record) if record is not None else None
    if source.suffix.lower() not in JSON_SUFFIXES:
        return None
    if first_character_of(source) == "[":
        record = next((record for _, record in records_of(source)), None)
        return First("list", record) if record is not None else None
    record = next((record for _, _, record in records_of_lists(source, ("annotations",))), None)
    return First("object", record) if record is not None else None
