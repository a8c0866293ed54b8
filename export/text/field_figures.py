"""Answers written by the schema, and the changes of their fields between two models."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vidrisk.export.gate.text_report import ChangedAnswer, FieldFigures
from vidrisk.export.text.samples import GateSample, ReportForm
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.paired import drop_interval_points, mcnemar_p
from vidrisk.runtimes.text.engine import TextEngine
from vidrisk.runtimes.text.requests import Prompt, Request

MOST_EXAMPLES = 60  # changed answers that are stored in full


@dataclass(frozen=True)
class Answers:
    """A model's answers to all samples.

    Attributes:
        fields: by sample; None if the answer is not complete.
        scores: ``float32 (N, levels)``: log-probability of each level at the place where the answer names one; NaN if
            unknown.
        tokens_per_s: speed of writing, over all answers.
    """

    fields: tuple[dict[str, str] | None, ...]
    scores: npt.NDArray[np.float32]
    tokens_per_s: float


def write_answers(
    engine: TextEngine,
    samples: Sequence[GateSample],
    form: ReportForm,
    limit: int,
    what: str = "",
    on_progress: OnProgress = ignore_progress,
) -> Answers:
    """Make an engine write the answer of every sample, always with the most probable token that the schema allows.

    Args:
        engine: the engine.
        samples: to answer.
        form: of the answers.
        limit: tokens of an answer.
        what: name of the step, for ``on_progress``.
        on_progress: called as answers are written.

    Raises:
        SettingsError, RuntimeFailure: from the engine.
    """
    levels, fields, written = form.levels, [], 0
    scores = np.full((len(samples), len(levels)), np.nan, np.float32)
    begin = time.perf_counter()
    requests = (
        Request(Prompt(sample.parts, sample.constant), limit=limit, schema=form.schema, comparison=form.comparison)
        for sample in samples
    )
    for number, answer in enumerate(engine.answers(requests)):
        on_progress(what, number, len(samples))
        fields.append(form.fields_from_text(answer.text) if answer.is_whole else None)
        written += len(answer.tokens)
        if answer.compared is not None:
            scores[number] = [answer.compared[level] for level in levels]
    return Answers(tuple(fields), scores, written / max(time.perf_counter() - begin, 1e-9))


def compare_answers(before: Answers, after: Answers, samples: Sequence[GateSample], form: ReportForm) -> FieldFigures:
    """Compare the answers of two models to the same samples.

    An incomplete answer agrees with none, and is wrong.
    """
    count = len(samples)
    pairs = [(one, other) for one, other in zip(before.fields, after.fields, strict=True) if one is not None]
    agreement = {
        name: _share([other is not None and one[name] == other[name] for one, other in pairs]) for name in form.choices
    }
    known = [number for number, sample in enumerate(samples) if sample.truth.get(form.level) in form.levels]
    was_right, is_right = (
        np.array([_is_right(answers.fields[number], samples[number], form) for number in known], bool)
        for answers in (before, after)
    )
    lost, gained = int((was_right & ~is_right).sum()), int((~was_right & is_right).sum())
    changes = [change for number in range(count) if (change := _change(number, before, after, samples[number], form))]
    return FieldFigures(
        samples=count,
        complete_before=_share([each is not None for each in before.fields]),
        complete_after=_share([each is not None for each in after.fields]),
        agreement=agreement,
        level=form.level,
        length_drift={name: drift for name in form.texts if math.isfinite(drift := _drift(name, before, after))},
        accuracy_before=_share(was_right),
        accuracy_after=_share(is_right),
        drop_points=100 * (lost - gained) / len(known) if known else math.nan,
        interval_points=drop_interval_points(lost, gained, len(known)),
        p_value=mcnemar_p(lost, gained),
        judged=len(known),
        changed=len(changes),
        examples=tuple(changes[:MOST_EXAMPLES]),
        tokens_per_s=after.tokens_per_s,
    )


def at_places(figures: FieldFigures, places: Sequence[int]) -> FieldFigures:
    """Return figures of a subset of the samples, with the examples' indices among all samples."""
    return replace(figures, examples=tuple(replace(each, index=places[each.index]) for each in figures.examples))


def _share(values: Sequence[bool] | npt.NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _is_right(fields: Mapping[str, str] | None, sample: GateSample, form: ReportForm) -> bool:
    return fields is not None and fields[form.level] == sample.truth[form.level]


def _drift(name: str, before: Answers, after: Answers) -> float:
    """Return the change of a text's mean length, over samples with two complete answers.

    It is NaN if all were empty before.
    """
    pairs = [
        (len(one[name]), len(other[name]))
        for one, other in zip(before.fields, after.fields, strict=True)
        if one and other
    ]
    total = sum(one for one, _ in pairs)
    return sum(other for _, other in pairs) / total - 1 if total else math.nan


def _change(number: int, before: Answers, after: Answers, sample: GateSample, form: ReportForm) -> ChangedAnswer | None:
    one, other = before.fields[number], after.fields[number]
    changed = tuple(name for name in form.choices if one and other and one[name] != other[name])
    if not changed and (one is None) == (other is None):
        return None
    return ChangedAnswer(number, sample.name, changed, dict(sample.truth), one or {}, other or {})
