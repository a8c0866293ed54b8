"""Search for the pixels that a foreign model was trained on, by its answers to labelled samples.

Every candidate is a scale, a channel order and a geometry. A wrong one costs accuracy, or at least certainty:
candidates are ranked by the likelihood of the true labels, each at its own best temperature, and compared sample by
sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vidrisk.calibration.temperature import fit_temperature
from vidrisk.export.foreign.classifier import Asked, logits_of
from vidrisk.export.foreign.pixels import GEOMETRIES, ForeignPixels, candidate_pixels
from vidrisk.export.foreign.session import Computes
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.paired import mcnemar_p
from vidrisk.runtimes.shares import binomial_tail

Frames = npt.NDArray[np.uint8]
Truth = Mapping[str, npt.NDArray[np.int64]]
FrameReader = Callable[[ForeignPixels], Frames]  # (N, H, W, 3) or (N, T, H, W, 3) of the samples, for a pixel contract
BATCH = 16
PROBE_SAMPLES = 128
SURE_ERRORS = 2.0  # standard errors by which one candidate must be better than another
SURE_P = 0.05
CHANCE_P = 0.01
CLEARLY_P = 1e-3
GIVE_PIXELS = "say it in a pixel file: scale, or mean and std; channels; resize"
SWAPPED = 0.8  # share of the answers that are right under other labels


@dataclass(frozen=True)
class KnownAnswer:
    """One image with a known label; its frames are read anew for each candidate.

    Attributes:
        read: pixel contract → frames (1, H, W, 3).
    """

    name: str
    target: str
    label: str
    read: FrameReader


@dataclass(frozen=True)
class Row:
    """Result of one candidate.

    Attributes:
        top1: share of right answers, 0–1, the mean over targets.
        surprise: mean negative log-likelihood of the true labels, per sample and target.
        said: predicted label indices per target.
        wrong: its wrong predictions for known answers, in words.
        unsigned: targets whose single column is read as a logit but lies in 0–1, as a probability does.
    """

    pixels: ForeignPixels
    top1: float
    surprise: float
    right: npt.NDArray[np.bool_]
    surprises: npt.NDArray[np.float64]
    said: Truth
    wrong: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.pixels}: {self.top1:.1%}"


@dataclass(frozen=True)
class Probe:
    """The chosen contract, the reason, and the results of all candidates, best first."""

    pixels: ForeignPixels
    reason: str
    rows: tuple[Row, ...]


def probe_pixels(
    classifier: Asked,
    read: FrameReader,
    truth: Truth,
    checks: Sequence[KnownAnswer] = (),
    given: ForeignPixels | None = None,
) -> Probe:
    """Choose the pixel contract of a model, or check a given one.

    Args:
        classifier: the model.
        read: reads frames of labelled samples; called once per geometry.
        truth: label indices per target, in the order of the classifier's labels.
        checks: images whose labels are known.
        given: the user's contract; it must not be clearly worse than another candidate.

    Raises:
        DataError: no candidate is better than chance, two are indistinguishable, a known answer is predicted wrongly,
            or the given contract is clearly wrong.
    """
    session = classifier.session()
    if given is not None:
        frames = read(given)
        mine = _row(classifier, session, given, frames, truth, checks)
        can_be_beaten = mine.wrong or mcnemar_p(0, int((~mine.right).sum())) < CLEARLY_P
        candidates = _same_geometry(classifier, given) if can_be_beaten else []
        rows = [mine, *(_row(classifier, session, pixels, frames, truth, checks) for pixels in candidates)]
        rows.sort(key=lambda row: row.surprise)
        return Probe(given, _check_given(classifier, mine, rows, truth), tuple(rows))
    rows = []
    for geometry in GEOMETRIES:
        several = candidate_pixels(classifier.image, geometry)
        frames = read(several[0])
        rows += [_row(classifier, session, pixels, frames, truth, checks) for pixels in several]
    rows.sort(key=lambda row: row.surprise)
    _check_chance(classifier, rows, truth)
    allowed = [row for row in rows if not row.wrong]
    if not allowed or (rows[0].wrong and is_better(rows[0], allowed[0])):
        raise _wrong_answer(classifier, rows[0])
    best = _simplest_geometry(allowed)
    rivals = [row for row in allowed if _arithmetic(row) != _arithmetic(best)]
    undecided = next((row for row in rivals if not is_better(best, row)), None)
    if undecided is not None:
        raise DataError(
            f"{len(best.right)} samples do not show the normalisation of {classifier.name}: {best}, {undecided}",
            fix=GIVE_PIXELS,
        )
    second = f", the next best {rivals[0]}" if rivals else ""
    return Probe(best.pixels, f"chosen by {len(best.right)} samples: {best.top1:.1%} right{second}", tuple(rows))


def is_better(one: Row, other: Row) -> bool:
    """Return whether samples prove one candidate better, by right answers or by the likelihood of the true labels."""
    lost, gained = int((one.right & ~other.right).sum()), int((~one.right & other.right).sum())
    if lost > gained and mcnemar_p(gained, lost) < SURE_P:
        return True
    difference = other.surprises - one.surprises
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.inf
    return bool(difference.mean() > SURE_ERRORS * max(error, 1e-9))


def _same_geometry(classifier: Asked, given: ForeignPixels) -> list[ForeignPixels]:
    """Return candidates with other arithmetic that read the same frames."""
    found = [
        replace(each, spec=replace(given.spec, mean=each.spec.mean, std=each.spec.std))
        for each in candidate_pixels(classifier.image, "squash")
    ]
    return [each for each in found if (each.spec, each.channels) != (given.spec, given.channels)]


def _row(
    classifier: Asked,
    session: Computes,
    pixels: ForeignPixels,
    frames: Frames,
    truth: Truth,
    checks: Sequence[KnownAnswer],
) -> Row:
    logits = _logits(classifier, session, pixels, frames)
    right, surprises = [], []
    for target, indices in truth.items():
        sure = probabilities_from_logits(logits[target], fit_temperature(logits[target], indices))
        likely = np.take_along_axis(sure, indices[:, None], axis=1)[:, 0].astype(np.float64)
        right.append(logits[target].argmax(axis=1) == indices)
        surprises.append(-np.log(np.maximum(np.nan_to_num(likely), 1e-12)))
    wrong = tuple(said for check in checks if (said := _describe_mistake(classifier, session, pixels, check)))
    unsigned = tuple(
        target
        for target, answer in classifier.answers.items()
        if answer.scale == "binary logits" and ((logits[target][:, 1] >= 0) & (logits[target][:, 1] <= 1)).all()
    )
    return Row(
        pixels,
        float(np.mean(right)),
        float(np.mean(surprises)),
        np.all(right, axis=0),
        np.mean(surprises, axis=0),
        {target: logits[target].argmax(axis=1) for target in truth},
        wrong,
        unsigned,
    )


def _logits(
    classifier: Asked, session: Computes, pixels: ForeignPixels, frames: Frames
) -> dict[str, npt.NDArray[np.float32]]:
    parts = [
        logits_of(classifier, session, pixels.prepare(frames[begin : begin + BATCH], classifier.image))
        for begin in range(0, len(frames), BATCH)
    ]
    return {target: np.concatenate([part[target] for part in parts]) for target in parts[0]}


def _describe_mistake(classifier: Asked, session: Computes, pixels: ForeignPixels, check: KnownAnswer) -> str:
    """Return a message on a wrong prediction for an image with a known label, or an empty string if it is right."""
    logits = _logits(classifier, session, pixels, check.read(pixels))[check.target]
    labels = classifier.answers[check.target].labels
    said = labels[int(logits[0].argmax())]
    sure = float(probabilities_from_logits(logits).max())
    return "" if said == check.label else f"{check.name} is {check.label!r}, but the model says {said!r} ({sure:.0%})"


def _check_given(classifier: Asked, mine: Row, rows: Sequence[Row], truth: Truth) -> str:
    if mine.wrong:
        raise _wrong_answer(classifier, mine, next((row for row in rows if not row.wrong), None))
    if mine.unsigned and not _beats_chance(mine, truth):
        raise _no_better_than_chance(classifier, mine)
    best = max(rows, key=lambda row: row.top1)
    lost, gained = int((best.right & ~mine.right).sum()), int((~best.right & mine.right).sum())
    if lost > gained and mcnemar_p(gained, lost) < CLEARLY_P:
        raise DataError(
            f"the given pixels look wrong: {mine} of {len(mine.right)} samples right, and {best}",
            fix=f"correct {classifier.pixel_file}",
        )
    _check_chance(classifier, [mine], truth)
    return f"given; {mine.top1:.1%} of {len(mine.right)} samples right"


def _wrong_answer(classifier: Asked, row: Row, better: Row | None = None) -> DataError:
    other = f"; with {better.pixels} it is right" if better else ""
    return DataError(
        f"{row.wrong[0]} with {row.pixels}{other}",
        fix=f"correct {classifier.pixel_file}, the order of the labels, or the known answer",
    )


def _simplest_geometry(rows: Sequence[Row]) -> Row:
    """Return the best row, or the uncropped one of the same arithmetic if samples do not distinguish them."""
    best = rows[0]
    whole = next(
        (row for row in rows if _arithmetic(row) == _arithmetic(best) and row.pixels.spec.resize == "squash"), best
    )
    return best if is_better(best, whole) else whole


def _arithmetic(row: Row) -> tuple[object, ...]:
    return row.pixels.spec.mean, row.pixels.spec.std, row.pixels.channels


def _beats_chance(row: Row, truth: Truth) -> bool:
    """Return whether right answers exceed those of always giving the most frequent labels, beyond chance."""
    several = np.stack(list(truth.values()), axis=1)
    most = np.unique(several, axis=0, return_counts=True)[1].max() / len(several)
    return most < 1 and binomial_tail(len(row.right) - int(row.right.sum()), len(row.right), 1 - float(most)) < CHANCE_P


def _no_better_than_chance(classifier: Asked, row: Row) -> DataError:
    if row.unsigned:
        answer = classifier.answers[row.unsigned[0]]
        return DataError(
            f"output {answer.output!r} of {classifier.name} gives 0 to 1 for all {len(row.right)} samples: read as a "
            f"logit, that is always {answer.labels[1]!r}",
            allowed="logits, below 0 for the first label",
            fix=f"if it is a probability, write in the labels file, under {row.unsigned[0]}: gives: probabilities",
        )
    return DataError(
        f"the model is no better than chance on {len(row.right)} samples; the best pixels are {row}",
        fix="correct the order of the labels, give samples of every label, or state the normalisation in "
        f"{classifier.pixel_file}",
    )


def _check_chance(classifier: Asked, rows: Sequence[Row], truth: Truth) -> None:
    if _beats_chance(rows[0], truth):
        return
    for target, indices in truth.items():
        labels = classifier.answers[target].labels
        counts = max(
            (_confusion(row.said[target], indices, len(labels)) for row in rows), key=lambda c: int(c.max(axis=1).sum())
        )
        order = counts.argmax(axis=1)
        if len(set(order.tolist())) == len(order) and counts.max(axis=1).sum() > SWAPPED * counts.sum():
            column = int(np.flatnonzero(order != np.arange(len(order)))[0])
            raise DataError(
                f"column {column} of {target} is called {labels[column]!r}, but answers {labels[order[column]]!r}",
                fix="bring the labels into the order of the model's outputs: "
                + ", ".join(labels[index] for index in order),
            )
    raise _no_better_than_chance(classifier, rows[0])


def _confusion(said: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], labels: int) -> npt.NDArray[np.int64]:
    """Count how often each label was predicted (rows) for each true one (columns)."""
    counts = np.zeros((labels, labels), np.int64)
    np.add.at(counts, (said, truth), 1)
    return counts
