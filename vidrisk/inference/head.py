"""Answers for windows and inputs: the model's output per window, and the final state of inputs without one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vidrisk.decode.messages import InputEnd, Request
from vidrisk.inference.encode import Encoded, EncodedAgain, EncodedEnd, EncodedWindow, FeatureSink
from vidrisk.inference.meter import Meter
from vidrisk.inference.model import Classifier
from vidrisk.inference.predictions import Prediction, prediction_from_probabilities
from vidrisk.inference.windows import stack_parts

NO_ANSWER = "the model gives no finite answer"


@dataclass(frozen=True)
class Answer:
    """The predictions of one input.

    Attributes:
        end: final state, which takes the model's output into account.
        count: number of predictions.
        predictions: in order of time; can be iterated once.
    """

    input: Request
    end: InputEnd
    count: int
    predictions: Iterator[Prediction]


_Scores = tuple[tuple[float | None, float | None], dict[str, npt.NDArray[np.float32]]]


def predict(
    batches: Iterable[list[Encoded]],
    classifier: Classifier,
    meter: Meter,
    on_batch: Callable[[], None] = lambda: None,
    sinks: Sequence[FeatureSink] = (),
) -> Iterator[Answer]:
    """Run the stages that run per window on each batch; yield each input with its predictions when it ends.

    A window for which the model computes non-finite values has no prediction. Its input ends as ``partial``, or as
    ``corrupt`` if no window is left. The sinks are notified of every end.
    """
    contract = classifier.contract
    answers: defaultdict[int, list[_Scores]] = defaultdict(list)
    unanswered: Counter[int] = Counter()
    for batch in batches:
        windows = [item for item in batch if isinstance(item, EncodedWindow)]
        if windows:
            with meter.measure("head"):
                logits = classifier.answer(stack_parts(windows, classifier.plan.window_takes), len(windows))
                probabilities = classifier.probabilities_from_logits(logits)
            meter.windows += len(windows)
            on_batch()
            is_finite = np.all([np.isfinite(of_target).all(axis=1) for of_target in probabilities.values()], axis=0)
            for position, window in enumerate(windows):
                if is_finite[position]:
                    scores = {name: of_target[position] for name, of_target in probabilities.items()}
                    answers[window.input_id].append((window.interval_s, scores))
                else:
                    unanswered[window.input_id] += 1
        for item in batch:
            if isinstance(item, EncodedAgain):
                answers.pop(item.input_id, None)
                unanswered.pop(item.input_id, None)
            elif isinstance(item, EncodedEnd):
                number, path = item.input_id, item.input.path
                of_input = answers.pop(number, [])
                end = _judge_end(item.end, len(of_input), unanswered.pop(number, 0))
                for sink in sinks:
                    sink.finish(number, end)
                yield Answer(
                    item.input,
                    end,
                    len(of_input),
                    (
                        prediction_from_probabilities(
                            contract,
                            path,
                            interval_s,
                            scores,
                            classifier.uncertainty,
                            end.state,
                            reason=end.reason,
                            content=end.content,
                            decision=classifier.decision,
                        )
                        for interval_s, scores in of_input
                    ),
                )


def _judge_end(end: InputEnd, predictions: int, unanswered: int) -> InputEnd:
    """Return the end of an input for which the model gave so many predictions and unusable windows."""
    if not unanswered:
        return end
    windows = predictions + unanswered
    reason = NO_ANSWER + (f" in {unanswered} of {windows} windows" if windows > 1 else "")
    return replace(
        end, state="partial" if predictions else "corrupt", reason="; ".join(filter(None, (reason, end.reason)))
    )
