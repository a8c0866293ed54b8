"""Reads the columns of a manifest that number its labels, which give the order of a model's outputs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from vidrisk.data.text import label_from_text, trim_text

ID_COLUMNS = {"action": "action_id", "defect": "defect_class_id"}  # column by target; levels have an order of their own
_ID = re.compile(r"[0-9]{1,9}")


def labels_beside_ids(labels: str, ids: str) -> list[tuple[str, str]]:
    """Return the (label, id) pairs of a row; none if it has no label.

    A multi-label row has two JSON lists, and so several pairs.
    """
    if labels.startswith("[") and ids.startswith("["):
        try:
            pairs = list(zip(json.loads(labels), json.loads(ids), strict=True))
        except (ValueError, TypeError, RecursionError):
            return [(labels, ids)]
        return [(str(label), str(number)) for label, number in pairs]
    return [(labels, ids)] if trim_text(labels) else []


def labels_from_ids(cells: Iterable[tuple[str, str]]) -> dict[int, str]:
    """Sort labels by their ids.

    Args:
        cells: label and id of every row.

    Returns:
        Labels by id, in the order of the ids. Empty if a cell is not an id, a label has two ids or an id has two
        labels: then the column means something else, or ``find_odd_row`` finds the row that differs.
    """
    ids: dict[str, int] = {}
    for label, text in cells:
        number = _id_from_text(text)
        if number is None or ids.setdefault(label_from_text(label), number) != number:
            return {}
    by_id = {number: label for label, number in ids.items()}
    return {number: by_id[number] for number in sorted(by_id)} if len(by_id) == len(ids) else {}


def find_odd_row(cells: Sequence[tuple[str, str]]) -> int | None:
    """Find the first row whose id differs from that of its label.

    It is only looked for if at least half of the rows agree on one id per label.

    Args:
        cells: label and id of every row.

    Returns:
        Index of the row, or None if all rows agree, fewer than half do, or the column numbers samples (no id occurs
        twice and some label has several).
    """
    pairs = [(label_from_text(label), _id_from_text(text)) for label, text in cells]
    counts = Counter((label, number) for label, number in pairs if number is not None)
    labels, numbers = {label for label, _ in counts}, {number for _, number in counts}
    if max(counts.values(), default=0) == 1 and len(numbers) == len(counts) > len(labels):
        return None
    id_of: dict[str, int] = {}
    label_of: dict[int, str] = {}
    for (label, number), _ in counts.most_common():
        if label not in id_of and number not in label_of:
            id_of[label], label_of[number] = number, label
    odd = [index for index, (label, number) in enumerate(pairs) if number is None or id_of.get(label) != number]
    return odd[0] if odd and 2 * len(odd) <= len(pairs) else None


def _id_from_text(text: str) -> int | None:
    return int(trim_text(text)) if _ID.fullmatch(trim_text(text)) else None
