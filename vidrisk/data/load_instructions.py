"""Files of instruction data → instructions: ids made unique, images found, what is missing counted and said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidrisk.data.connected import smallest_connected
from vidrisk.data.formats.json_lists import first_character_of, json_lines_of, listed_in, records_of
from vidrisk.data.instruction_formats import FORMATS, First, InstructionFormat, format_from_first
from vidrisk.data.instruction_formats.dataset_info import format_told
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

    An image may be in any number of records: each keeps its questions. Where a record has fewer markers than images,
    those that lack one are put in front of its first question.

    Args:
        source: a ``.json`` or ``.jsonl`` file of one of ``FORMATS``.
        images: the folder that paths are relative to; None for that of the file.
        name: of the format; None recognises it.
        strict: refuse images that are missing and records that cannot be used; else they are left out, counted and
            named.

    Raises:
        DataError: no file, none of the formats, damaged JSON, a path that leaves the folder; with ``strict``, what is
            left out otherwise; nothing that can be used.
        SettingsError: an unknown format, or no folder of images.
    """
    source = Path(source)
    if not source.is_file():
        raise DataError(f"{source} does not exist", allowed=f"a file: {', '.join((*JSON_SUFFIXES, *LINES_SUFFIXES))}")
    root = (Path(images) if images is not None else source.parent).resolve()
    if not root.is_dir():
        raise SettingsError(f"images in {images}", allowed="a folder")
    chosen = _format_named(name) if name is not None else _recognised(source)
    maker = _Maker(Places(root), split_from_name(source.stem))
    items = [made for told in chosen.read(source) if (made := maker.instruction(told))]
    left_out = {"images that are not there": maker.missing, "records that cannot be used": maker.left_out}
    notes = notes_of_left_out(source.name, left_out, strict=strict)
    if not items:
        raise DataError(
            f"{source.name} has no record that can be used", allowed=f"conversations about images under {root}"
        )
    return Instructions(root, tuple(_with_groups(items)), tuple(maker.missing), tuple(maker.left_out), tuple(notes))


def _with_groups(items: Sequence[Instruction]) -> Iterator[Instruction]:
    """Instructions that share an image, directly or through others, in one group: the name of an image of it."""
    shown = [item for item in items if item.images]
    names = {
        key: photo.name for item in shown for key, photo in zip(keys_of_photos(item.images), item.images, strict=True)
    }
    groups = iter(smallest_connected([keys_of_photos(item.images) for item in shown]))
    return (replace(item, group=names[next(groups)]) if item.images else item for item in items)


class _Maker:
    """Makes instructions of what files tell."""

    def __init__(self, places: Places, split: SplitName | None) -> None:
        self._places, self._split = places, split
        self._ids: dict[str, int] = {}
        self._number = 0
        self.missing: list[str] = []
        self.left_out: list[str] = []

    def instruction(self, told: ToldConversation) -> Instruction | None:
        """Return the instruction; None where it cannot be used, which is noted."""
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


def _format_named(name: str) -> InstructionFormat:
    if name not in FORMATS:
        raise SettingsError(f"format {name!r}", allowed=", ".join(FORMATS))
    return FORMATS[name]


def _recognised(source: Path) -> InstructionFormat:
    first = _first_of(source)
    found = first and format_from_first(first._replace(told=format_told(source)))
    if not found:
        raise DataError(
            f"{source.name} is of no known format",
            allowed=", ".join(f"{known.name} ({known.title})" for known in FORMATS.values()),
            fix="name the format, to be told what is missing",
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
    record = next((record for _, _, record in listed_in(source, ("annotations",))), None)
    return First("object", record) if record is not None else None
