"""Schemes: the levels of a risk and the fields of a report, as defined in ``scheme.yaml``.

    name: three-levels
    language: zh                    # zh or en: of prompts and labels
    levels:                         # from the least to the most severe; one without a severity is off the scale
      - {name: 轻微, aliases: [minor], severity: 0, colour: "#f2c037", response: 90 天内, advice: 复查}
    fields:                         # of a report, in their order
      - {name: level, label: 风险等级, kind: level, required: true, columns: [risk_level]}
      - {name: part, label: 部位, kind: choice, choices: [墙, 梁]}
      - {name: risk, label: 风险, max_chars: 300}
    text_field: risk                # shown to the model if a case has no photo

``prompts`` may replace the texts of the prompt, see ``report_prompts``.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vidrisk.data.text import INVISIBLE, label_from_text, trim_text
from vidrisk.runtimes.contract.errors import DataError, SpecError

MAX_LEVELS, MAX_FIELDS, MAX_ALIASES, MAX_CHOICES = 30, 30, 50, 200
MAX_NAME_CHARS, MAX_TEXT_CHARS = 60, 4000
_ENDS = " \t\"'“”‘’`*。．.,，;；:：!！()（）[]【】"  # stripped from the ends of a level

_Name = Field(min_length=1, max_length=MAX_NAME_CHARS)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RiskLevel(_Frozen):
    """One level.

    Attributes:
        aliases: other spellings.
        severity: 0 to 100; None for a level that is off the scale, such as an observation.
        colour: ``#rrggbb``, or '' for none.
        response: time in which something has to be done, in words.
        advice: default advice, for reports without a more specific one.
    """

    name: str = _Name
    aliases: tuple[str, ...] = Field(default=(), max_length=MAX_ALIASES, strict=False)
    severity: float | None = Field(default=None, ge=0, le=100, strict=False, allow_inf_nan=False)
    colour: str = Field(default="", pattern=r"^(#[0-9a-fA-F]{6})?$")
    response: str = Field(default="", max_length=MAX_NAME_CHARS)
    advice: str = Field(default="", max_length=MAX_TEXT_CHARS)


class ReportField(_Frozen):
    """One field of a report.

    Attributes:
        name: in JSON and in code.
        label: for people, in the language of the data.
        kind: ``text``, ``level`` (one of the scheme's levels) or ``choice`` (one of ``choices``).
        required: whether an answer without it is refused.
        max_chars: maximum number of characters of a text.
        columns: its other names, in tables and in answers.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    label: str = Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^【】*:：\r\n\"]+$")
    kind: Literal["text", "level", "choice"] = "text"
    choices: tuple[str, ...] = Field(default=(), max_length=MAX_CHOICES, strict=False)
    required: bool = False
    max_chars: int = Field(default=500, ge=1, le=MAX_TEXT_CHARS)
    columns: tuple[str, ...] = Field(default=(), max_length=MAX_ALIASES, strict=False)


class Prompts(_Frozen):
    """Texts that replace the built-in ones; '' keeps the built-in text.

    Attributes:
        system: may contain ``{levels}`` and ``{fields}``.
        photos: for a case with photos; may contain ``{count}``.
        text: for a case without a photo; must contain ``{text}``.
    """

    system: str = Field(default="", max_length=MAX_TEXT_CHARS)
    photos: str = Field(default="", max_length=MAX_TEXT_CHARS)
    text: str = Field(default="", max_length=MAX_TEXT_CHARS)

    @field_validator("photos", "text")
    @classmethod
    def _without_space_around(cls, value: str) -> str:
        """Strip white space: a YAML block ends in a new line, and inference must repeat the trained prompt exactly."""
        return value.strip()

    @model_validator(mode="after")
    def _has_places(self) -> Prompts:
        for name, places in (("system", {"levels", "fields"}), ("photos", {"count"}), ("text", {"text"})):
            unknown = set(re.findall(r"\{(\w+)\}", getattr(self, name))) - places
            if unknown:
                raise SpecError(
                    f"prompts.{name} contains {{{sorted(unknown)[0]}}}",
                    allowed=", ".join(f"{{{place}}}" for place in sorted(places)),
                )
        if self.text and "{text}" not in self.text:
            raise SpecError(
                "prompts.text lacks {text}, so the model would not get the description", fix="put {text} into it"
            )
        return self


class Scheme(_Frozen):
    """Validated levels and fields.

    Attributes:
        text_field: the field that is given to a model instead of photos; None if cases always have photos.

    Raises:
        SpecError: a repeated name or alias, no field of the kind level, severities that decrease, choices for another
            kind than choice.
    """

    name: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,59}$")
    language: Literal["zh", "en"] = "zh"
    title: str = Field(default="", max_length=200)
    levels: tuple[RiskLevel, ...] = Field(min_length=2, max_length=MAX_LEVELS, strict=False)
    fields: tuple[ReportField, ...] = Field(min_length=1, max_length=MAX_FIELDS, strict=False)
    text_field: str | None = None
    prompts: Prompts = Prompts()

    @model_validator(mode="after")
    def _consistent(self) -> Scheme:
        _refuse_repeats("levels", ((level.name, (level.name, *level.aliases)) for level in self.levels))
        _refuse_repeats("fields", ((field.name, (field.name, field.label, *field.columns)) for field in self.fields))
        severities = [level.severity for level in self.levels if level.severity is not None]
        if severities != sorted(severities):
            raise SpecError(
                f"levels have the severities {', '.join(f'{value:g}' for value in severities)}",
                allowed="the least severe first",
                fix="order the levels",
            )
        if not any(field.kind == "level" for field in self.fields):
            raise SpecError(
                "no field is of the kind level", fix="add one, such as {name: level, label: level, kind: level}"
            )
        for field in self.fields:
            if (field.kind == "choice") != bool(field.choices):
                raise SpecError(
                    f"field {field.name} of the kind {field.kind} has {len(field.choices)} choices",
                    allowed="choices only for the kind choice",
                )
            if field.kind == "choice":
                _refuse_repeats(f"choices of {field.name}", ((choice, (choice,)) for choice in field.choices))
        if self.text_field is not None and self.find_field(self.text_field) is None:
            raise SpecError(
                f"text_field is {self.text_field!r}", allowed=", ".join(field.name for field in self.fields)
            )
        return self

    def __repr__(self) -> str:
        return f"Scheme({self.name}: {', '.join(self.level_names)}; {', '.join(field.name for field in self.fields)})"

    __str__ = __repr__

    @cached_property
    def answer_fields(self) -> tuple[ReportField, ...]:
        """The fields in the order of a JSON answer: levels first, and so no level depends on generated text."""
        return tuple(sorted(self.fields, key=lambda field: field.kind != "level"))

    @property
    def level_names(self) -> tuple[str, ...]:
        return tuple(level.name for level in self.levels)

    @property
    def level_fields(self) -> tuple[ReportField, ...]:
        return tuple(field for field in self.fields if field.kind == "level")

    @cached_property
    def _levels_by_text(self) -> dict[str, RiskLevel]:
        return {fold_name(text): level for level in self.levels for text in (level.name, *level.aliases)}

    @cached_property
    def _fields_by_text(self) -> dict[str, ReportField]:
        return {fold_name(text): field for field in self.fields for text in (field.name, field.label, *field.columns)}

    def level_from_text(self, text: str) -> RiskLevel | None:
        """Find the level that a text names, in any of its spellings, or None if there is none."""
        return self._levels_by_text.get(fold_name(text)) or self._levels_by_text.get(fold_name(text.strip(_ENDS)))

    def find_field(self, text: str) -> ReportField | None:
        """Find a field by its name, its label or one of its columns, or return None."""
        return self._fields_by_text.get(fold_name(text))

    def list_allowed_values(self, field: ReportField) -> tuple[str, ...]:
        """Return the values of a field of the kind level or choice, with '' if it is not required; empty for texts."""
        values = self.level_names if field.kind == "level" else field.choices
        return (*values, "") if values and not field.required else values

    def value_from_text(self, field: ReportField, text: str) -> str | None:
        """Convert a text to a value of a field, or return None if the field does not allow it.

        A level or a choice is returned by its name. Texts lose only the white space around them; a text that is too
        long is not allowed.
        """
        text = label_from_text(text)
        if not text:
            return None if field.required else ""
        if field.kind == "level":
            level = self.level_from_text(text)
            return level.name if level else None
        if field.kind == "choice":
            names = {fold_name(choice): choice for choice in field.choices}
            return names.get(fold_name(text)) or names.get(fold_name(text.strip(_ENDS)))
        return text if len(text) <= field.max_chars else None

    def check_fields(self, values: Mapping[str, str], where: str) -> dict[str, str]:
        """Return a valid value for every field, by name, in the order of the scheme; '' for a missing value.

        Raises:
            DataError: a value that is not allowed, or a missing one that is required; the message begins with
                ``where``.
        """
        found = {}
        for field in self.fields:
            text = values.get(field.name, "")
            value = self.value_from_text(field, text)
            if value is None:
                raise DataError(
                    f"{where}: {problem_of(field, text)}",
                    allowed=self.describe_allowed_values(field),
                    fix=_fix_of(field, text),
                )
            found[field.name] = value
        return found

    def describe_allowed_values(self, field: ReportField) -> str:
        """Describe the values that a field allows, for an error message."""
        names = [value for value in self.list_allowed_values(field) if value]
        if names:
            return ", ".join(names)
        return f"1 to {field.max_chars} characters" if field.required else f"up to {field.max_chars} characters"

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of an answer, for constrained generation.

        Properties are in the order of ``answer_fields``, all are required and no others are allowed; the length of
        every string is limited.
        """
        properties: dict[str, Any] = {}
        for field in self.answer_fields:
            values = self.list_allowed_values(field)
            properties[field.name] = (
                {"enum": list(values)}
                if values
                else {"type": "string", **({"minLength": 1} if field.required else {}), "maxLength": field.max_chars}
            )
        return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}

    def to_json(self) -> str:
        """Return the scheme as JSON, which ``scheme_from_text`` reads back."""
        return json.dumps(self.model_dump(exclude_defaults=True), ensure_ascii=False)


def problem_of(field: ReportField, text: str) -> str:
    """Describe why a field does not allow a text."""
    if not trim_text(text):
        return f"{field.name} is empty"
    if field.kind == "text":
        return f"{field.name} has {len(label_from_text(text))} characters"
    return f"{field.name} is {label_from_text(text)[:40]!r}"


def _fix_of(field: ReportField, text: str) -> str:
    if not trim_text(text):
        return f"fill it, or let the scheme not require {field.name}"
    if field.kind == "text":
        return f"shorten it, or raise max_chars of {field.name} in the scheme"
    return "correct the row, or name the scheme that the data are written in"


def fold_name(text: str) -> str:
    """Normalize a text for comparing names: without case, full-width forms, white space and underscores."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().replace("_", " ").split()).strip(INVISIBLE)


def _refuse_repeats(what: str, items: Iterable[tuple[str, Iterable[str]]]) -> None:
    owners: dict[str, str] = {}
    named: set[str] = set()
    for owner, texts in items:
        if owner in named:
            raise SpecError(f"{what}: {owner[:40]!r} occurs twice", allowed="every name once")
        named.add(owner)
        for text in texts:
            if not fold_name(text):
                raise SpecError(f"{what}: {owner!r} has an empty name")
            if owners.setdefault(fold_name(text), owner) != owner:
                raise SpecError(
                    f"{what}: {text[:40]!r} means both {owners[fold_name(text)]!r} and {owner!r}",
                    allowed="every name once",
                )
        if label_from_text(owner) != owner:
            raise SpecError(f"{what}: {owner!r} has white space around it, or is not composed (NFC)")
