"""Something-Something V2 (Goyal et al. 2017, https://arxiv.org/abs/1706.04261): label ids and JSON lists.

    labels/labels.json                  {"Holding something next to something": "19", …}
    labels/train.json, validation.json  [{"id": "78687", "template": "Holding [something] next to [something]", …}, …]
    labels/test.json                    [{"id": "1420"}, …], without labels
    20bn-something-something-v2/78687.webm

Older downloads name the lists ``something-something-v2-train.json`` and so on. Ids are those of labels.json, which are
the model's outputs. Published accuracies are on validation.json, because test.json has no labels: it is the test split
here, and val is taken from train.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from vidrisk.data.formats.format import Format, Listed, Reading
from vidrisk.data.formats.json_lists import object_of, records_of
from vidrisk.data.formats.lists import find_list, head_of, list_in
from vidrisk.data.formats.media_files import Homes
from vidrisk.data.formats.rows import Row, samples_from_rows
from vidrisk.data.table import SplitName
from vidrisk.data.text import label_from_text
from vidrisk.runtimes.contract.errors import DataError

OFFICIAL = "something-something-v2-"
LIST_FOLDERS = ("labels", "", "annotations")
VIDEO_FOLDERS = ("20bn-something-something-v2", "", "videos", "videos/20bn-something-something-v2")
SNIFFED_BYTES = 2**16
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_FIX = "unpack the label files of the download there: labels.json, train.json and validation.json"


def is_something(source: Path) -> bool:
    """Return whether a folder has the lists; generic names (train.json) count only if their records have templates."""
    lists = ("train", "validation")
    if list_in(source, [f"{OFFICIAL}{what}.json" for what in lists], LIST_FOLDERS):
        return True
    plain = [list_in(source, [f"{what}.json"], LIST_FOLDERS) for what in lists]
    return any(path is not None and _has_templates(path) for path in plain)


def read_something(root: Path, reading: Reading) -> Listed:
    """Read the lists; validation.json is the test split."""
    paths = {what: find_list(root, _names(what), LIST_FOLDERS, fix=_FIX) for what in ("labels", "train", "validation")}
    ids = label_ids(paths["labels"])
    rows = chain(rows_from_list(paths["train"], ids, "train"), rows_from_list(paths["validation"], ids, "test"))
    homes = Homes.of(root, reading.media)
    found = samples_from_rows(rows, homes.files(VIDEO_FOLDERS))
    notes = [f"Something-Something V2: test is {paths['validation'].name}, on which accuracies are published"]
    test = list_in(root, _names("test"), LIST_FOLDERS)
    if test:
        notes.append(f"{test.name}: {sum(1 for _ in records_of(test))} rows without labels are not used")
    order = {"action": tuple(sorted(ids, key=ids.__getitem__))}
    return Listed(homes.root, found.samples, found.absent, homes.places(VIDEO_FOLDERS), order, (*notes, *found.notes))


def label_ids(path: Path) -> dict[str, int]:
    """Read labels.json: ids by label, without brackets. Ids are numbers, mostly written as strings.

    Raises:
        DataError: an id that is not a number, a repeated label or id, a gap in the ids.
    """
    ids: dict[str, int] = {}
    for written, value in object_of(path).items():
        label = label_from_template(written)
        if not label or label in ids:
            raise DataError(f"{path.name} has the label {written[:80]!r} twice, or empty", fix="keep one of them")
        text = value.strip() if isinstance(value, str) else str(value)
        if not isinstance(value, (str, int)) or isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", text):
            raise DataError(
                f"{path.name}: the id of {written[:80]!r} is {str(value)[:80]!r}", allowed="a whole number from 0"
            )
        ids[label] = int(text)
    first: dict[int, str] = {}
    for label, number in ids.items():
        if first.setdefault(number, label) != label:
            raise DataError(
                f"{path.name} has the id {number} twice, of {first[number][:80]!r} and of {label[:80]!r}",
                allowed="ids from 0 on, each once",
                fix="get the file again",
            )
    missing = min(set(range(len(ids))).difference(ids.values()), default=None)
    if missing is not None or not ids:
        numbers = f", with ids from {min(ids.values())} to {max(ids.values())}, without {missing}" if ids else ""
        raise DataError(
            f"{path.name} has {len(ids)} labels{numbers}",
            allowed="ids from 0 on, each once",
            fix="get the file again: it may be cut off",
        )
    return ids


def rows_from_list(path: Path, ids: Mapping[str, int], split: SplitName) -> Iterator[Row]:
    """Read train.json or validation.json.

    Raises:
        DataError: an empty list, a record without an id or a template, a template that is not a label.
    """
    labels = {label: label for label in ids}  # one string per label, however many rows there are
    where = ""
    for where, record in records_of(path):
        template = record.get("template")
        video = _video_id(record, where)
        if not isinstance(template, str):
            raise DataError(
                f"{where} (id {video}) has no template",
                allowed="train and validation lists, whose records have one",
                fix="take train.json and validation.json: rows of test.json have no labels",
            )
        label = labels.get(label_from_template(template))
        if label is None:
            raise DataError(
                f"{where} (id {video}): the template {template[:120]!r} is not a label of labels.json",
                fix="take labels.json and the lists from one download",
            )
        yield Row(where, f"{video}.webm", {"action": label}, split)
    if not where:
        raise DataError(
            f"{path.name} lists no video", allowed='[{"id": "78687", "template": …}, …]', fix="get the file again"
        )


def label_from_template(template: str) -> str:
    """Strip the brackets: ``Holding [something] next to [something]`` → ``Holding something next to something``."""
    return label_from_text(template.replace("[", "").replace("]", ""))


def _video_id(record: Mapping[str, Any], where: str) -> str:
    value = record.get("id")
    text = str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not _ID.fullmatch(text):
        raise DataError(
            f"{where} has the id {str(value)[:80]!r}", allowed='the name of a video without .webm, such as "78687"'
        )
    return text


def _names(what: str) -> tuple[str, str]:
    return f"{what}.json", f"{OFFICIAL}{what}.json"


def _has_templates(path: Path) -> bool:
    head = head_of(path, SNIFFED_BYTES)
    return b'"template"' in head and b'"id"' in head


FORMAT = Format(
    "something",
    "Something-Something V2",
    ("action",),
    "something-something-v2-train.json, labels/train.json",
    is_something,
    read_something,
)
