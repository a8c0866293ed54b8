"""``predictions.parquet``: the lines of ``predictions.jsonl`` as one flat table, for pandas, Polars and DuckDB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vidrisk.files.lines import json_from_value
from vidrisk.inference.predictions import PREDICTIONS, Prediction, read_predictions
from vidrisk.jobs.folder import refuse_folders_without, replace_file
from vidrisk.runtimes.contract.errors import DataError, require

PARQUET = "predictions.parquet"
ROWS_PER_GROUP = 16_384

_COLUMNS = {
    "path": "string",
    "start_s": "float64",
    "end_s": "float64",
    "label": "string",
    "score": "float32",
    "uncertain": "bool",
    "severity": "float32",
    "level": "string",
    "defect": "string",
    "risk": "string",
    "advice": "string",
    "description": "string",
    "state": "string",
    "id": "string",
    "reason": "string",
    "report": "string",
}

_Labels = list[tuple[str, str]]  # target and label


def write_parquet(out: Path) -> Path:
    """Write ``OUT/predictions.parquet`` beside the predictions of a finished run, completely or not at all.

    Memory does not grow with the number of predictions. There is one row per prediction, in the same order, with the
    columns of ``Prediction``; None is null. The probability of every label is a float32 column of its own,
    ``probability/<target>/<label>``: a nested column would reach pandas as one Python dictionary per row, and could not
    be filtered, sorted or averaged directly. The labels that cannot be excluded are a list of strings,
    ``candidates/<target>``, null if the target has no threshold; the labels that hold for a multi-label target are
    ``labels/<target>``. A generated report is JSON in a column of its own; probabilities that its engine did not report
    are NaN. Text that is not valid UTF-8, such as bytes of a path or a lone surrogate in a server's answer, is written
    as escapes (``\\udcff``), because Parquet's text is UTF-8.

    Raises:
        MissingExtra: pyarrow is not installed.
        DataError: the folder holds no predictions, or a line is invalid or has other labels than the first.
        VidriskError: the folder cannot be written.
    """
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    refuse_folders_without(out / PREDICTIONS)
    first = next((each for each in read_predictions(out) if each.targets), None)
    labels = _labels_of(first)
    names = [f"probability/{target}/{label}" for target, label in labels]
    lists = [("candidates", target) for target in dict.fromkeys(target for target, _ in labels)]
    lists += [("labels", target) for target in (first.labels if first else ())]
    of_lists = dict.fromkeys(map("/".join, lists), arrow.list_(arrow.string()))
    schema = arrow.schema(_COLUMNS | of_lists | dict.fromkeys(names, "float32"))
    predictions = read_predictions(out)
    with replace_file(out / PARQUET) as path, path.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
        while rows := _rows_of(islice(predictions, ROWS_PER_GROUP), labels, lists):
            writer.write(arrow.table(dict(zip(schema.names, rows, strict=True)), schema))
    return out / PARQUET


def _labels_of(prediction: Prediction | None) -> _Labels:
    return [(target, label) for target, scores in prediction.targets.items() for label in scores] if prediction else []


def _rows_of(predictions: Iterable[Prediction], labels: _Labels, lists: Sequence[tuple[str, str]]) -> list[Any]:
    """Return the columns of one row group, in order; empty if no prediction is left."""
    fixed: list[tuple[Any, ...]] = []
    probabilities = []
    for prediction in predictions:
        if prediction.targets and _labels_of(prediction) != labels:
            raise DataError(f"the lines of {PREDICTIONS} have different labels", fix="run it again into another folder")
        report = None if prediction.report is None else json_from_value(prediction.report)
        fixed.append(
            (
                *(_storable(getattr(prediction, name)) for name in list(_COLUMNS)[:-1]),
                report,
                *(getattr(prediction, what).get(target) for what, target in lists),
            )
        )
        probabilities.append(
            np.array([prediction.targets.get(target, {}).get(label, np.nan) for target, label in labels], np.float32)
        )
    return [*zip(*fixed, strict=True), *np.stack(probabilities, axis=1)] if fixed else []


def _storable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
