"""Writes a data set of risk reports row by row: Parquet with the photos in its rows, or JSONL with image files.

The columns are those of RisKVA (``id``, ``image_base64``, ``original_image_path``, ``conversations``, ``metadata``),
and more for further photos and the group.
"""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from vidrisk.data.answers import answer_from_fields
from vidrisk.data.case_rows import ID_PREFIX
from vidrisk.data.cases import Case
from vidrisk.data.parquet_rows import SCHEME_KEY
from vidrisk.data.report_prompts import ReportPrompt, Style, without_markers
from vidrisk.data.scheme import Scheme, fold_name
from vidrisk.data.table import SplitName
from vidrisk.decode.jpegs import Jpeg
from vidrisk.runtimes.contract.errors import DataError, require

ROWS_PER_GROUP, BYTES_PER_GROUP = 256, 32 << 20
IMAGES = "images"
# Keys of ``metadata`` in addition to the fields, and the columns that they come from.
EXTRAS = {
    "序号": ("序号", "number"),
    "来源文件": ("source_csv", "来源文件"),
    "原始文件名": ("original_filename", "原始文件名"),
    "原状态": ("原", "原状态"),
    "现状态": ("现", "现状态"),
}


@dataclass(frozen=True)
class RiskRow:
    """One sample; ``photos`` are the name and the JPEG of each photo."""

    case: Case
    photos: tuple[tuple[str, Jpeg], ...] = field(repr=False)
    prompt: ReportPrompt = field(repr=False)
    style: Style = "json"

    def conversations(self, scheme: Scheme) -> list[dict[str, str]]:
        """Return the system, user and assistant turns; the answer contains nothing that would read as a marker."""
        answer = answer_from_fields(scheme, fields_without_markers(scheme, self.case), self.style)
        return [
            {"from": "system", "value": self.prompt.system},
            {"from": "user", "value": self.prompt.user},
            {"from": "assistant", "value": answer},
        ]

    def metadata(self, scheme: Scheme) -> dict[str, str]:
        """Return the fields by label, and the other known values of the row."""
        found = {report_field.label: self.case.fields[report_field.name] for report_field in scheme.fields}
        extra = {
            fold_name(name.strip().casefold().removeprefix("data_")): text for name, text in self.case.extra.items()
        }
        for key, names in EXTRAS.items():
            if scheme.find_field(key) is None:
                found[key] = next((extra[fold_name(name)] for name in names if fold_name(name) in extra), "")
        return found


def fields_without_markers(scheme: Scheme, case: Case) -> dict[str, str]:
    """Return the fields of a case for an answer: markers are broken up, and nothing is shortened.

    Raises:
        DataError: a value is too long once its markers are broken up.
    """
    found = {}
    for report_field in scheme.fields:
        value = case.fields[report_field.name]
        plain = without_markers(value) if report_field.kind == "text" else value
        if scheme.value_from_text(report_field, plain) is None:
            raise DataError(
                f"{case.where or case.id}: {report_field.name} has {len(plain)} characters with its markers broken up",
                allowed=scheme.describe_allowed_values(report_field),
                fix="shorten it",
            )
        found[report_field.name] = plain
    return found


class CaseWriter(AbstractContextManager["CaseWriter"], ABC):
    """Writer of the rows of one split."""

    def __init__(self, folder: Path, split: SplitName, scheme: Scheme) -> None:
        self._folder, self._split, self._scheme = folder, split, scheme

    @abstractmethod
    def write(self, row: RiskRow) -> None:
        """Write a row."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still buffered."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class ParquetWriter(CaseWriter):
    """Writer of ``<split>.parquet``, with the scheme in the file's metadata.

    The compression is snappy; a row group has at most 256 rows and 32 MB of photos.
    """

    def __init__(self, folder: Path, split: SplitName, scheme: Scheme) -> None:
        super().__init__(folder, split, scheme)
        self._arrow = arrow = require("pyarrow", "parquet")
        parquet = require("pyarrow.parquet", "parquet")
        text = arrow.string()
        labels = [report_field.label for report_field in scheme.fields]
        keys = [*labels, *(key for key in EXTRAS if scheme.find_field(key) is None)]
        self._schema = arrow.schema(
            [
                ("id", text),
                ("image_base64", text),
                ("original_image_path", text),
                ("more_images_base64", arrow.list_(text)),
                ("more_image_paths", arrow.list_(text)),
                ("conversations", arrow.list_(arrow.struct([("from", text), ("value", text)]))),
                ("metadata", arrow.struct([(key, text) for key in keys])),
                ("group", text),
            ],
            metadata={SCHEME_KEY: scheme.to_json()},
        )
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._writer = parquet.ParquetWriter(
            folder / f"{split}.parquet", self._schema, compression="snappy", use_dictionary=["group"]
        )

    def write(self, row: RiskRow) -> None:
        images = [base64.b64encode(jpeg.data).decode("ascii") for _, jpeg in row.photos]
        names = [_utf8(name) for name, _ in row.photos]
        self._rows.append(
            {
                "id": f"{ID_PREFIX}{row.case.id}",
                "image_base64": images[0] if images else None,
                "original_image_path": names[0] if names else None,
                "more_images_base64": images[1:],
                "more_image_paths": names[1:],
                "conversations": row.conversations(self._scheme),
                "metadata": row.metadata(self._scheme),
                "group": row.case.group,
            }
        )
        self._bytes += sum(map(len, images))
        if len(self._rows) >= ROWS_PER_GROUP or self._bytes >= BYTES_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()


class JsonlWriter(CaseWriter):
    """Writer of ``<split>.jsonl``, with the photos as ``images/<split>-<row>-<photo>.jpg``."""

    def __init__(self, folder: Path, split: SplitName, scheme: Scheme) -> None:
        super().__init__(folder, split, scheme)
        (folder / IMAGES).mkdir(exist_ok=True)
        self._file = (folder / f"{split}.jsonl").open("w", encoding="utf-8")
        self._count = 0

    def write(self, row: RiskRow) -> None:
        self._count += 1
        paths = []
        for place, (_, jpeg) in enumerate(row.photos, start=1):
            paths.append(f"{IMAGES}/{self._split}-{self._count:06d}-{place}.jpg")
            (self._folder / paths[-1]).write_bytes(jpeg.data)
        record: dict[str, Any] = {"id": f"{ID_PREFIX}{row.case.id}"}
        if len(paths) == 1:
            record["image"] = paths[0]
        record |= {
            "images": paths,
            "original_image_paths": [_utf8(name) for name, _ in row.photos],
            "conversations": row.conversations(self._scheme),
            "metadata": row.metadata(self._scheme),
        }
        if row.case.group:
            record["group"] = row.case.group
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


def _utf8(name: str) -> str:
    """Return a name that UTF-8 can hold; bytes that are not valid in it become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
