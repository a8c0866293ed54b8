"""COCO (https://cocodataset.org/#format-data): images, annotations with boxes, and categories, in one JSON object.

    annotations/instances_train2017.json    {"images": […], "annotations": […], "categories": […]}
    train2017/000000000009.jpg              or images/train2017/, images/, beside the lists
    train/_annotations.coco.json            as Roboflow writes it, with the photos beside it

The categories of the boxes of an image are its labels; with crops every box is a photo of its own. The names of the
lists give the split. Category ids number the model's outputs. A category whose ``supercategory`` is the name of a
target (``risk_level``) belongs to that target, all others to the target of the task.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidrisk.data.formats.class_names import orders_that_say_something
from vidrisk.data.formats.coco.coco_writer import CARRIES, NONE_OF, write_coco
from vidrisk.data.formats.crops import samples_from_boxes
from vidrisk.data.formats.fields import fields_from_values, find_target, with_splits
from vidrisk.data.formats.format import SCORE, SCORED, Format, Listed, Reading, format_counts
from vidrisk.data.formats.json_lists import is_number, records_of_lists
from vidrisk.data.formats.lists import head_of
from vidrisk.data.formats.media_files import Homes, MediaFiles, safe_name
from vidrisk.data.formats.rows import Found, Row, samples_from_rows
from vidrisk.data.table import SPLIT_WORDS, TARGETS_OF, Label, SplitName, split_from_name
from vidrisk.data.text import label_from_text
from vidrisk.decode.cuts import Box
from vidrisk.runtimes.contract.errors import DataError

SNIFFED_BYTES = 2**16
MAX_LISTS = 100
LIST_FOLDERS = ("annotations", "", "train", "valid", "val", "validation", "test")
_MEMBER = re.compile(rb'"(images|annotations|categories|caption)"\s*:')


@dataclass
class _Image:
    where: str
    name: str
    attributes: Mapping[str, Any]
    none_of: tuple[str, ...]
    boxes: list[tuple[int, Box | None]] = field(default_factory=list)  # category, and box in pixels


@dataclass
class _Content:
    """Content of a list."""

    images: dict[str, _Image] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)  # supercategories
    notes: Counter[str] = field(default_factory=Counter)


def is_coco(source: Path) -> bool:
    """Return whether a file, or a list in a folder, begins like those of COCO; captions have no categories."""
    return _is_list(source) if source.is_file() else any(map(_is_list, _lists_in(source)))


def read_coco(source: Path, reading: Reading) -> Listed:
    """Read every list; photos are looked for in ``reading.media``, or around the lists."""
    lists = [source] if source.is_file() else [path for path in _lists_in(source) if _is_list(path)]
    if not lists:
        raise DataError(
            f"{source.name} has no COCO list",
            allowed='a .json with "images", "annotations" and "categories", '
            f"in {', '.join(folder or 'the folder itself' for folder in LIST_FOLDERS)}",
        )
    top = lists[0].parent if source.is_file() else source
    top = top.parent if source.is_file() and top.name == "annotations" else top
    homes = Homes.of(top, reading.media)
    notes: Counter[str] = Counter()
    categories: dict[int, tuple[str, str]] = {}
    rows: list[tuple[Row, Box | None]] = []
    places: dict[str, None] = {}
    for path in lists:
        content = _content_of(path)
        notes.update(content.notes)
        _add_categories(categories, content, path)
        folders = _folders_of(path, top)
        places |= dict.fromkeys(homes.places(folders))
        rows += _rows_from(content, homes.files(folders), _split_of(path), reading, notes)
    kept, taken = with_splits([row for row, _ in rows])
    notes.update(taken)
    found = _samples(list(zip(kept, (box for _, box in rows), strict=True)), MediaFiles(homes.root), reading)
    orders: dict[str, tuple[str, ...]] = {}
    for number in sorted(categories):
        name, group = categories[number]
        target = find_target(group) or reading.target
        notes["categories with the name of another one (they are one label)"] += name in orders.get(target, ())
        orders[target] = tuple(dict.fromkeys((*orders.get(target, ()), name)))
    return Listed(
        found.root,
        found.samples,
        found.absent,
        tuple(places),
        orders_that_say_something(orders, found.samples),
        (*found.notes, *format_counts(notes)),
    )


def _samples(rows: list[tuple[Row, Box | None]], files: MediaFiles, reading: Reading) -> Found:
    if not reading.crops:
        return samples_from_rows((row for row, _ in rows), files, kinds=("image",), multi_label=reading.multi_label)
    return samples_from_boxes(
        [(row, box) for row, box in rows if box is not None], files, reading.made, multi_label=reading.multi_label
    )


def _content_of(path: Path) -> _Content:
    content = _Content()
    boxes: list[tuple[str, str, dict[str, Any]]] = []
    for member, where, record in records_of_lists(path, ("images", "annotations", "categories")):
        if member == "images":
            key, name = _key(record.get("id")), record.get("file_name")
            if not key or not isinstance(name, str) or safe_name(name) is None:
                raise DataError(
                    f"{where} has no id, or the file_name {str(name)[:80]!r}", allowed="a path below the data set"
                )
            if key in content.images:
                raise DataError(f"{where} has the id {key} of {content.images[key].name!r}", allowed="every id once")
            told, none_of = record.get("attributes"), record.get(NONE_OF)
            content.images[key] = _Image(
                where,
                str(safe_name(name)),
                told if isinstance(told, dict) else {},
                tuple(map(str, none_of)) if isinstance(none_of, list) else (),
            )
        elif member == "categories":
            number, label = _number(record.get("id")), label_from_text(str(record.get("name", "")))
            if number is None or not label or number in content.names:
                raise DataError(
                    f"{where} {_problem_of(record, label)}", allowed='{"id": 1, "name": "crack"}, every id once'
                )
            content.names[number] = label
            content.groups[number] = label_from_text(str(record.get("supercategory") or ""))
        else:
            content.notes[SCORED] += is_number(record.get(SCORE))
            boxes.append(
                (
                    where,
                    _key(record.get("image_id")),
                    {name: record.get(name) for name in ("category_id", "bbox", "iscrowd")},
                )
            )
    used = set()
    for where, key, told_of in boxes:
        image, number = content.images.get(key), _number(told_of["category_id"])
        if image is None or number is None or number not in content.names:
            what = f"image {key!r}" if image is None else f"category {str(told_of['category_id'])[:40]!r}"
            raise DataError(
                f"{where} belongs to the {what}, which is not listed",
                fix=f"add it to {'images' if image is None else 'categories'}, "
                "or get the file again: it may be damaged",
            )
        used.add(number)
        image.boxes.append((number, None if told_of["iscrowd"] == 1 else _box(told_of["bbox"])))
    for number in [
        number for number, name in content.names.items() if number not in used and name in content.groups.values()
    ]:
        content.notes["categories without a box that only group others"] += 1
        del content.names[number]
    return content


def _rows_from(
    content: _Content, files: MediaFiles, split: SplitName | None, reading: Reading, notes: Counter[str]
) -> Iterator[tuple[Row, Box | None]]:
    """Yield a row for every image, or with crops for every box, with names relative to the root."""
    targets = TARGETS_OF[reading.task]
    target_of = {number: find_target(group) or reading.target for number, group in content.groups.items()}
    for image in content.images.values():
        name = files.find(image.name) or image.name
        fields = fields_from_values(image.attributes)
        fields.setdefault("split", split)
        kept = [(number, box) for number, box in image.boxes if target_of[number] in targets]
        notes["boxes of another task left out"] += len(image.boxes) - len(kept)
        if reading.crops:
            notes["boxes without an area, or around a crowd, left out"] += sum(box is None for _, box in kept)
            for number, box in kept:
                yield Row(image.where, name, {target_of[number]: content.names[number]}, **fields), box
            continue
        labels: dict[str, list[str]] = {
            target: [] for target in map(find_target, image.none_of) if target in targets and target
        }
        for number, _ in kept:
            labels.setdefault(target_of[number], []).append(content.names[number])
        if not labels and reading.multi_label is False:
            notes["images without a box left out"] += 1
            continue
        of_image: dict[str, Label] = {target: tuple(dict.fromkeys(names)) for target, names in labels.items()}
        yield Row(image.where, name, of_image or {reading.target: ()}, **fields), None


def _add_categories(categories: dict[int, tuple[str, str]], content: _Content, path: Path) -> None:
    for number, name in content.names.items():
        known, _ = categories.setdefault(number, (name, content.groups[number]))
        if known != name:
            raise DataError(
                f"{path.name}: the category {number} is {name}, and {known} in another list",
                fix="import the lists one by one",
            )


def _number(value: Any) -> int | None:
    """Return the id of a category, which may be written as text, or None if it is not a whole number."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _problem_of(record: Mapping[str, Any], label: str) -> str:
    """Say why a category cannot be used."""
    if "id" not in record:
        return "has no id"
    if _number(record["id"]) is None:
        return f"has the id {str(record['id'])[:40]!r}, which is no whole number"
    return f"has the id {record['id']}, which another one has" if label else "has no name"


def _box(value: Any) -> Box | None:
    """Return left, top, width and height, or None if there is no area."""
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(is_number(number) and abs(number) < 1e9 for number in value)
    ):
        return None
    left, top, width, height = map(float, value)
    return (left, top, width, height) if width > 0 and height > 0 else None


def _folders_of(path: Path, top: Path) -> list[str]:
    """Return the folders where the photos of a list may lie: beside it, or in a folder with its name."""
    stem = re.sub(r"^(instances|annotations|person_keypoints)_?|\.coco$|^_annotations", "", path.stem)
    beside = path.parent.relative_to(top).as_posix()
    beside = "" if beside in (".", "annotations") else beside
    tops = dict.fromkeys((beside, "", "images"))
    folders = [posixpath.join(top, inner) for top in tops for inner in dict.fromkeys((stem, "", "images"))]
    return list(dict.fromkeys(folder.rstrip("/") for folder in folders))


def _split_of(path: Path) -> SplitName | None:
    return split_from_name(path.stem) or SPLIT_WORDS.get(path.parent.name.casefold())


def _lists_in(folder: Path) -> list[Path]:
    try:
        found = [path for inner in LIST_FOLDERS for path in sorted((folder / inner).glob("*.json"))]
    except OSError:
        return []
    return found[:MAX_LISTS]


def _is_list(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    head, tail = head_of(path, SNIFFED_BYTES), head_of(path, SNIFFED_BYTES, from_end=True)
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    members = {match[1] for part in (head, tail) for match in _MEMBER.finditer(part)}
    return (
        begins
        and b"caption" not in members
        and {b"images", b"categories"} <= members | ({b"images"} if b'"file_name"' in head else set())
    )


def _key(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


FORMAT = Format(
    "coco",
    "COCO",
    ("risk", "action", "action+risk"),
    "annotations/instances_train.json",
    is_coco,
    read_coco,
    options=frozenset({"crops"}),
    write=write_coco,
    carries=CARRIES,
    suffix=".json",
)
