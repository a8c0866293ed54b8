"""Predictions of a run as a table of labels, for people to correct in any tool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidrisk.data import Sample, Table
from vidrisk.data.formats.format import SCORE
from vidrisk.data.table import TARGETS, Label
from vidrisk.files.lines import DIGITS
from vidrisk.frames import Interval
from vidrisk.inference.predictions import PREDICTIONS, Prediction, read_predictions
from vidrisk.jobs.summary import read_summary
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import DataError


def is_run_output(folder: Path) -> bool:
    """Tell whether a folder holds predictions."""
    return (folder / PREDICTIONS).is_file()


def table_from_predictions(out: Path, root: Path | None = None) -> tuple[Table, str]:
    """Read the predictions of an output folder.

    Args:
        out: output folder of a run.
        root: folder that names of samples are relative to; None takes the common folder of all inputs.

    Returns:
        A table with the predicted labels and, in the column ``score``, the model's confidence in the first target; and
            the model's name. An input with one window is a whole file.

    Raises:
        DataError: no prediction with labels, a file outside ``root``, or a damaged line.
    """
    predictions = [each for each in read_predictions(out) if each.targets]
    if not predictions:
        raise DataError(f"{out} holds no prediction with labels", fix="name the output folder of a classifier's run")
    paths = [Path(each.path) for each in predictions]
    root = (root or _common_folder(paths)).resolve()
    outside = [path for path in paths if not path.is_relative_to(root)]
    if outside:
        raise DataError(f"{outside[0]} lies outside {root}", fix="name the folder above all inputs")
    summary = read_summary(out)
    model = str(summary.provenance.get("model", out.name))
    windows = Counter(paths)
    samples = tuple(
        _sample(each, path, root, is_part=windows[path] > 1) for each, path in zip(predictions, paths, strict=True)
    )
    task: LabelTask = "action+risk" if summary.task == "action+risk" else "risk" if summary.task == "risk" else "action"
    order = {str(target["name"]): tuple(target["labels"]) for target in summary.targets if target["name"] != "level"}
    return Table(root, task, samples, label_order=order), model


def _sample(prediction: Prediction, path: Path, root: Path, *, is_part: bool) -> Sample:
    labels: dict[str, Label] = {}
    for target in sorted(prediction.targets, key=lambda name: TARGETS.index(name) if name in TARGETS else len(TARGETS)):
        scores: Mapping[str, Any] = prediction.targets[target]
        holding = prediction.labels.get(target)
        labels[target] = max(scores, key=scores.__getitem__) if holding is None else tuple(holding)
    part = None
    if is_part and prediction.start_s is not None and prediction.end_s is not None:
        part = Interval(prediction.start_s, prediction.end_s)
    return Sample(
        path, path.relative_to(root).as_posix(), labels, interval=part, extra={SCORE: f"{prediction.score:.{DIGITS}g}"}
    )


def _common_folder(paths: list[Path]) -> Path:
    first = paths[0].parent
    return next(folder for folder in (first, *first.parents) if all(path.is_relative_to(folder) for path in paths))
