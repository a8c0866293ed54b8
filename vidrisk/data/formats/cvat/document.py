"""Writes CVAT's XML, version 1.1: labels with their attributes, annotations, and escapes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape, quoteattr

from vidrisk.data.formats.cvat.elements import UNDEFINED, labels_from_value
from vidrisk.data.io import LABEL_COLUMNS
from vidrisk.data.table import Label
from vidrisk.runtimes.contract.errors import DataError

_ILLEGAL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def value_from_labels(label: Label | None) -> str:
    """Format labels as the value of an attribute; ``labels_from_value`` reads them back."""
    if label is None:
        return UNDEFINED
    if isinstance(label, str) and labels_from_value(label) == (label,):
        return label
    return json.dumps([label] if isinstance(label, str) else list(label), ensure_ascii=False)


class LabelsUsed:
    """The labels of a task, with the attributes of each; attributes with few values are selected from a list."""

    def __init__(self) -> None:
        self._labels: dict[str, dict[str, set[str]]] = {}

    def add(self, label: str, attributes: Mapping[str, str]) -> None:
        known = self._labels.setdefault(label, {})
        for name, value in attributes.items():
            known.setdefault(name, set()).add(value)

    def __str__(self) -> str:
        lines = ["<labels>"]
        for label, attributes in sorted(self._labels.items()):
            lines.append(f"<label><name>{text_of(label)}</name><type>any</type><attributes>")
            for name, values in attributes.items():
                is_list = name in LABEL_COLUMNS.values() and not any(value.startswith("[") for value in values)
                choices = [UNDEFINED, *sorted(values - {UNDEFINED})] if is_list else [""]
                lines.append(
                    f"<attribute><name>{text_of(name)}</name><mutable>False</mutable>"
                    f"<input_type>{'select' if is_list else 'text'}</input_type>"
                    f"<default_value>{text_of(choices[0])}</default_value>"
                    f"<values>{text_of(chr(10).join(choices))}</values></attribute>"
                )
            lines.append("</attributes></label>")
        return "\n".join([*lines, "</labels>"])


def document(meta: str, items: Iterable[str]) -> bytes:
    """Return a whole file from the content of ``<meta>`` and images or tracks."""
    return "\n".join(
        [
            '<?xml version="1.0" encoding="utf-8"?>',
            "<annotations>",
            "<version>1.1</version>",
            f"<meta>{meta}</meta>",
            *items,
            "</annotations>",
            "",
        ]
    ).encode()


def attributes_text(attributes: Mapping[str, str]) -> str:
    """Format the attributes of an annotation."""
    return "".join(
        f"<attribute name={quote_value(name)}>{text_of(value)}</attribute>" for name, value in attributes.items()
    )


def text_of(value: str) -> str:
    """Escape a text.

    Raises:
        DataError: a character that XML cannot represent.
    """
    found = _ILLEGAL.search(value)
    if found:
        raise DataError(f"XML cannot represent the character {found[0]!r} of {value[:40]!r}", fix="remove it")
    return escape(value, {"\r": "&#13;"})


def quote_value(value: str) -> str:
    """Escape and quote a value.

    Raises:
        DataError: a character that XML cannot represent.
    """
    text_of(value)
    return quoteattr(value, {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"})
