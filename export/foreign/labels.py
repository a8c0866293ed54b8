"""Reader of a foreign model's labels: one per line, or a YAML or JSON file for several targets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from vidrisk.export.foreign.answers import Gives
from vidrisk.runtimes.contract.contract import TARGET_NAME
from vidrisk.runtimes.contract.errors import DataError, require

KEYS = ("labels", "output", "gives", "order")


@dataclass(frozen=True)
class ForeignLabels:
    """Labels per target name, in the order of the model's outputs.

    Attributes:
        outputs: the model's output of a target, if given.
        gives: whether that is logits or probabilities, if given.
        orders: levels from the least to the most severe, if given.
    """

    labels: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, str] = field(default_factory=dict)
    gives: Mapping[str, Gives] = field(default_factory=dict)
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_labels(path: Path, target: str) -> ForeignLabels:
    """Read a labels file.

        labels.txt                      one label per line
        labels.json, labels.yaml        a list; or index → label; or target → either of them,
                                        or target → {labels: …, output: name of the model's output,
                                        gives: logits or probabilities, order: levels by severity}

    YAML scalars are text as written: ``no`` and ``010`` are labels.

    Args:
        path: the file.
        target: name of the single target, if the file names none.

    Raises:
        DataError: it cannot be read, or has no labels.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", allowed="UTF-8 text") from error
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return ForeignLabels({target: _check([line.strip() for line in text.splitlines() if line.strip()], path.name)})
    yaml: Any = require("yaml", "export")
    try:
        data = yaml.load(text, Loader=yaml.BaseLoader)  # makes only strings, lists and dictionaries
    except yaml.YAMLError as error:
        raise DataError(f"{path.name} cannot be read: {str(error).splitlines()[0]}", allowed="YAML or JSON") from error
    if isinstance(data, list) or (isinstance(data, dict) and _is_indexed(data)):
        return ForeignLabels({target: _labels_from_data(data, path.name)})
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path.name} has no labels", allowed="a list, or lists by target name")
    labels, outputs, gives, orders = {}, {}, {}, {}
    for name, value in data.items():
        if not re.fullmatch(TARGET_NAME, name):
            raise DataError(f"{path.name}: target {name!r}", allowed="lower-case letters, digits and _, a letter first")
        if isinstance(value, dict) and not _is_indexed(value):
            unknown = sorted(set(value) - set(KEYS))
            if unknown or "labels" not in value:
                raise DataError(
                    f"{path.name}: {name} has {unknown[0] if unknown else 'no labels'!r}", allowed=", ".join(KEYS)
                )
            if "output" in value:
                outputs[name] = str(value["output"])
            if "gives" in value:
                if value["gives"] not in get_args(Gives):
                    raise DataError(f"{path.name}: {name} gives {value['gives']!r}", allowed=", ".join(get_args(Gives)))
                gives[name] = value["gives"]
            if "order" in value:
                orders[name] = _labels_from_data(value["order"], path.name)
            value = value["labels"]
        labels[name] = _labels_from_data(value, path.name)
    return ForeignLabels(labels, outputs, gives, orders)


def _labels_from_data(data: Any, name: str) -> tuple[str, ...]:
    """Return labels from a list, or from a mapping of index → label.

    Raises:
        DataError: it is neither, an index is missing, or a label is not text.
    """
    if isinstance(data, Mapping) and _is_indexed(data):
        by_index = {int(key): value for key, value in data.items()}
        missing = sorted(set(range(len(by_index))) - set(by_index))
        if missing:
            raise DataError(f"{name} has no label for output {missing[0]}", allowed="indices from 0 on")
        return _check([by_index[index] for index in range(len(by_index))], name)
    if not isinstance(data, list):
        raise DataError(f"{name}: {data!r}", allowed="a list of labels")
    return _check(data, name)


def _is_indexed(data: Mapping[str, Any]) -> bool:
    return bool(data) and all(key.isdecimal() for key in data)


def _check(labels: Sequence[Any], name: str) -> tuple[str, ...]:
    wrong = [label for label in labels if not isinstance(label, str) or not label.strip()]
    if wrong:
        raise DataError(f"{name} has a label {wrong[0]!r}", allowed="text", fix="quote it, or leave it out")
    twice = [label for label in labels if labels.count(label) > 1]
    if len(labels) < 2 or twice:
        raise DataError(
            f"{name} has {f'{twice[0]!r} twice' if twice else f'{len(labels)} labels'}",
            allowed="at least two labels, all different",
        )
    return tuple(labels)
