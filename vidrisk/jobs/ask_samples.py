"""Classification of the samples of a table through the pipeline that ``infer`` runs: one answer per sample."""

from __future__ import annotations

from contextlib import closing, nullcontext
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vidrisk.data import Table
from vidrisk.decode.messages import Input
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import Limits
from vidrisk.inference.input_views import ONE_VIEW, Views
from vidrisk.inference.model import Classifier
from vidrisk.inference.stream import stream_answers
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress

Scores = dict[str, npt.NDArray[np.float64]]  # per target


@dataclass(frozen=True)
class SampleAnswers:
    """The model's answers, by the sample's place in the table.

    Attributes:
        mean: probabilities ``(C,)`` per target, averaged over windows and views.
        own: probabilities of the model's own view alone, if there are several views.
        failed: samples without an answer.
        spans_s: begin and end of the part that was answered, on the clip's timeline.
        notes: reservations with which samples were read.
    """

    mean: dict[int, Scores] = field(default_factory=dict)
    own: dict[int, Scores] = field(default_factory=dict)
    failed: dict[int, dict[str, str]] = field(default_factory=dict)
    spans_s: dict[int, tuple[float, float]] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)


def ask_samples(
    classifier: Classifier,
    table: Table,
    settings: InferSettings,
    on_progress: OnProgress = ignore_progress,
    *,
    pool: DecodePool | None = None,
    views: Views = ONE_VIEW,
) -> SampleAnswers:
    """Classify all samples of a table.

    A sample that lacks the answer of a view fails: its mean would be over other views.

    Args:
        classifier: that answers.
        table: with the samples.
        settings: of the run.
        on_progress: reports the number of samples done.
        pool: that decodes; None makes one with ``settings.workers``.
        views: of each sample.

    Raises:
        SettingsError: views that the model cannot answer.
    """
    asked = SampleAnswers()
    targets = classifier.contract.targets
    inputs = (Input(index, str(sample.path), sample.interval) for index, sample in enumerate(table.samples))
    reading = settings.for_reading(classifier, views)
    with (
        nullcontext(pool) if pool else DecodePool(settings.workers) as opened,
        closing(
            stream_answers(
                inputs,
                classifier,
                opened,
                reading,
                batch_frames=settings.batch_frames,
                limits=Limits(settings.file_timeout_s),
                tap=views.split,
            )
        ) as results,
    ):
        for done, answer in enumerate(results):
            on_progress("evaluating", done, len(table))
            index, predictions, end = answer.input.id, list(answer.predictions), answer.end
            if not predictions or (views.count > 1 and len(predictions) != views.windows):
                asked.failed[index] = {**table.samples[index].identity, "state": end.state, "reason": end.reason}
                continue
            if predictions[0].start_s is not None:
                asked.spans_s[index] = (
                    min(p.start_s or 0.0 for p in predictions),
                    max(p.end_s or 0.0 for p in predictions),
                )
            if end.reason:
                asked.notes[index] = end.reason
            found = {
                target.name: np.array([[p.targets[target.name][label] for label in target.labels] for p in predictions])
                for target in targets
            }
            if views.count == 1:
                asked.mean[index] = {name: scores.mean(axis=0) for name, scores in found.items()}
                continue
            means = {target.name: views.mean(found[target.name], target.labels) for target in targets}
            asked.mean[index] = {name: mean for name, (mean, _) in means.items()}
            asked.own[index] = {name: one for name, (_, one) in means.items()}
    return asked
