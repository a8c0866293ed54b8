"""Maps the columns of a table of cases to their meaning, by name and never by position.

Case, white space, underscores, full-width forms and a leading ``data_`` do not matter. Fields are found by their name,
their label or their ``columns`` in the scheme. If several columns could mean the same, the first name listed wins and
the others are extra columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vidrisk.data.columns import GROUP, PATH, SPLIT
from vidrisk.data.scheme import Scheme, fold_name
from vidrisk.runtimes.contract.errors import DataError

PATHS = (
    "all_image_paths",
    "image_paths",
    "more_image_paths",
    "images",
    "photos",
    "all_photos",
    "所有图片路径",
    "图片列表",
    "照片",
)
PATH_OF_CASE = (*PATH, "photo", "photo_path", "original_image_path", "照片路径")
CASE_IDS = ("case_id", "defect_id", "缺陷编号", "案例编号")  # rows with the same id are one case
IMAGE_IDS = ("image_id", "id", "图片编号")  # rows with the same id are one case if they agree
FILE_ID, INDEX = ("file_id",), ("defect_index",)  # together they form the id of a case
BUILDING = ("building", "building_id", "楼栋", "建筑", "建筑物", "房屋", "file_id")
CONVERSATIONS, METADATA = "conversations", "metadata"
IGNORED = ("original_image_paths",)  # its photos are also named in another column


@dataclass(frozen=True)
class CaseColumns:
    """The column for each kind of value, or None if there is no such column.

    Attributes:
        ids: columns whose cells, joined, form the id.
        is_case_id: whether rows with the same id must be one case.
        fields: columns by the name of the field.
        extra: all other columns.
    """

    ids: tuple[str, ...]
    is_case_id: bool
    path: str | None
    paths: str | None
    fields: Mapping[str, str]
    split: str | None
    group: str | None
    conversations: str | None
    extra: tuple[str, ...]


def columns_of_cases(
    header: Sequence[str], scheme: Scheme, source: str, *, labelled: bool, has_photos: bool
) -> CaseColumns:
    """Find the columns of a table of cases.

    With ``labelled``, every field that the scheme requires must have a column. ``has_photos`` says whether the rows
    contain the photos themselves.

    Raises:
        DataError: neither a column for photos nor one for the text that may replace them; a required field without a
            column.
    """
    fields = {
        field.name: column
        for field in scheme.fields
        if (column := find_column(header, (field.name, field.label, *field.columns)))
    }
    conversations = find_column(header, (CONVERSATIONS, "messages"))
    taken = set(fields.values())
    free = [column for column in header if column not in taken]
    path, paths = find_column(free, PATH_OF_CASE), find_column(free, PATHS)
    text = scheme.text_field and fields.get(scheme.text_field)
    if not (path or paths or has_photos or text or conversations):
        raise DataError(
            f"{source} has no column for photos; found: {', '.join(header)}", allowed=", ".join((*PATH, *PATHS))
        )
    lacking = [field for field in scheme.fields if field.required and field.name not in fields]
    if labelled and lacking and not conversations:
        raise DataError(
            f"{source} has no column for {lacking[0].name}; found: {', '.join(header)}",
            allowed=", ".join((lacking[0].name, lacking[0].label, *lacking[0].columns)),
            fix="rename the column, or name it in the scheme",
        )
    file_id, index = find_column(free, FILE_ID), find_column(free, INDEX)
    case_id, image_id = find_column(free, CASE_IDS), find_column(free, IMAGE_IDS)
    ids = (case_id,) if case_id else (file_id, index) if file_id and index else (image_id,) if image_id else ()
    group = find_column(free, GROUP) or find_column(free, BUILDING)
    split = find_column(free, SPLIT)
    used = {*taken, *ids, path, paths, find_column(free, GROUP), split, conversations, *IGNORED}
    used -= {group} - {find_column(free, GROUP)}  # keep the building column as an extra, too, for group_by
    return CaseColumns(
        ids,
        bool(case_id or (file_id and index)),
        path,
        paths,
        fields,
        split,
        group,
        conversations,
        tuple(column for column in header if column not in used),
    )


def find_column(header: Sequence[str], names: Sequence[str]) -> str | None:
    """Find the column of the first name that is present; among its columns, prefer an exact spelling."""
    by_text: dict[str, list[str]] = {}
    for column in header:
        by_text.setdefault(fold_name(column.strip().casefold().removeprefix("data_")), []).append(column)
    for name in names:
        matches = by_text.get(fold_name(name), [])
        if matches:
            return name if name in matches else matches[0]
    return None
