"""Versions of the files that vidrisk writes, and the common rule for reading them.

Every record holds the version of its file, ``"version": "1.1"``, major and minor. A record without a version is 1.0, as
vidrisk 0.1.0 wrote it. (``bundle.json`` has ``schema_version`` and ``schema_minor`` instead.)

    an older minor version   missing keys have their defaults
    this version             an unknown key is an error: damage or a typo
    a newer minor version    unknown keys are ignored
    another major version    refused with a one-line error

A new key therefore needs a default and a new minor version; removing a key or changing its meaning needs a new major
version.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from vidrisk.runtimes.contract.errors import DataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import BaseModel

VERSION = "version"
FIRST = (1, 0)
UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's error types of models and of dataclasses

Model = TypeVar("Model", bound="BaseModel")


@dataclass(frozen=True)
class FileVersion:
    """Version of one kind of file, as written by this version of vidrisk.

    Attributes:
        file: name of the file, for errors.
    """

    file: str
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    def stamp(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record with its version as the last key, which keeps the path at the beginning of a line."""
        return {**record, VERSION: str(self)}

    def is_newer(self, version: object) -> bool:
        """Tell whether a record may hold keys that this version does not know.

        Args:
            version: version in the record; None if it has none.

        Raises:
            DataError: it is of another major version, or not a version.
        """
        major, minor = self._parse(version)
        if major != self.major:
            raise DataError(
                f"{self.file} has version {version}",
                allowed=f"{self.major}.x",
                fix="use a newer vidrisk" if major > self.major else "make it again",
            )
        return minor > self.minor

    def read(self, record: object, known: Collection[str], needed: Collection[str]) -> dict[str, Any]:
        """Return the known keys of a record.

        Args:
            record: the record, with its version.
            known: keys of this version.
            needed: keys without a default.

        Raises:
            DataError: the record is of another major version, a needed key is missing, or a record of this version or
                an older one has an unknown key.
        """
        if not isinstance(record, Mapping):
            raise DataError(f"{self.file} holds a {type(record).__name__}", allowed="a mapping")
        is_newer = self.is_newer(record.get(VERSION))
        missing = [key for key in needed if key not in record]
        other = [key for key in record if key not in known and key != VERSION]
        if missing or (other and not is_newer):
            what = f"lacks {missing[0]!r}" if missing else f"has {other[0]!r}"
            raise DataError(f"{self.file} does not have the keys of this version: it {what}", allowed=", ".join(known))
        return {key: value for key, value in record.items() if key in known}

    def read_fields(self, record: object, kind: type[DataclassInstance]) -> dict[str, Any]:
        """Return the keys of a record that are fields of a dataclass; fields with defaults may be missing.

        Raises:
            DataError: as ``read``.
        """
        needed = [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]
        return self.read(record, [field.name for field in fields(kind)], needed)

    def read_model(self, record: object, model: type[Model]) -> Model:
        """Validate a record as a model, applying the same rule at every depth.

        Raises:
            DataError: it is of another major version.
            ValidationError: it does not match the model.
        """
        if not isinstance(record, Mapping):
            return model.model_validate(record)
        is_newer = self.is_newer(record.get(VERSION))
        return model_from_record(
            model, {key: value for key, value in record.items() if key != VERSION}, is_newer=is_newer
        )

    def _parse(self, version: object) -> tuple[int, int]:
        if version is None:
            return FIRST
        found = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", version) if isinstance(version, str) else None
        if not found:
            raise DataError(f"{self.file} has version {version!r}", allowed=f"such as {self}", fix="make it again")
        return int(found[1]), int(found[2])


def model_from_record(model: type[Model], record: Mapping[str, Any], *, is_newer: bool) -> Model:
    """Validate a record as a model; in a newer version, ignore unknown keys at every level.

    Raises:
        ValidationError, VidriskError: raised by the model.
    """
    from pydantic import ValidationError  # not imported by code that only reads JSON lines

    while True:
        try:
            return model.model_validate(record)
        except ValidationError as error:
            unknown = [place for each in error.errors() if (place := _place_of_unknown_key(each["type"], each["loc"]))]
            if not is_newer or not unknown:
                raise
            record = copy.deepcopy(record)
            for place in unknown:
                _drop(record, place)


def _place_of_unknown_key(kind: str, place: tuple[int | str, ...]) -> tuple[int | str, ...] | None:
    """Return the location of an unknown key, such as a new variant's name; None for other kinds of errors."""
    if kind == "literal_error" and place[-1:] == ("[key]",):
        return place[:-1]
    return place if kind in UNKNOWN_KEY else None


def _drop(record: Any, place: tuple[int | str, ...]) -> None:
    """Remove one key from nested mappings and lists, if its container still exists."""
    *above, last = place
    for key in above:
        if isinstance(record, Mapping) and key not in record:
            continue  # the tag of a union
        record = record[key]
    if isinstance(record, dict):
        record.pop(last, None)


PREDICTIONS = FileVersion("predictions.jsonl", 1, 4)
SEGMENTS = FileVersion("segments.jsonl", 1, 2)
SUMMARY = FileVersion("summary.json", 1, 1)
LEDGER = FileVersion("ledger.sqlite", 1, 1)
CONFIG = FileVersion("config.yaml", 1, 3)
LABELS = FileVersion("labels.json", 1, 1)
PROMPT = FileVersion("prompt.json", 1, 1)
CHAT = FileVersion("chat.json", 1, 1)
COMPOSED = FileVersion("vidrisk in config.json", 1, 1)
METRICS = FileVersion("metrics.json", 1, 3)
SPLIT = FileVersion("split.parquet", 1, 1)
CHECKPOINT = FileVersion("state.json", 1, 2)
EVALUATION = FileVersion("an evaluation", 1, 5)
VERIFICATION = FileVersion("a verification", 1, 1)
BENCH = FileVersion("a bench", 1, 1)
GATE = FileVersion("gate.json", 1, 5)
INBOX = FileVersion("inbox.sqlite", 1, 1)
COMPARISON = FileVersion("comparison.json", 1, 0)
MODEL_COMPARISON = FileVersion("a comparison of models", 1, 1)
COMPARED = FileVersion("comparison.jsonl", 1, 0)
TUNE_LOG = FileVersion("tune.jsonl", 1, 0)
TUNE = FileVersion("tune.json", 1, 0)
CASE_INDEX = FileVersion("an index of cases", 1, 0)
