"""The answers for one target on both sides of a hop: predictions, right ones, and changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vidrisk.calibration.decisions import fit_decisions
from vidrisk.export.gate.outputs import FloatArray, Ints
from vidrisk.runtimes.contract.contract import NONE_HOLDS, Target
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits

Bools = npt.NDArray[np.bool_]
NOT_FINITE = -1  # the answer if a logit is not finite; it is never right


@dataclass(frozen=True)
class Sides:
    """One target before and after a hop.

    Multi-label targets are decided, on both sides, at the thresholds that are best for the probabilities before.

    Attributes:
        sure_before, sure_after: probabilities ``(N, C)``, after the temperature of each side.
        truth: ``int64 (N,)``, or ``(N, C)`` of a multi-label target; negative if unlabelled.
    """

    target: Target
    sure_before: FloatArray
    sure_after: FloatArray
    truth: Ints

    @classmethod
    def of(
        cls,
        target: Target,
        before: FloatArray,
        after: FloatArray,
        truth: Ints,
        temperature: float = 1.0,
        matched: float = 1.0,
    ) -> Sides:
        """Make sides from the logits before and after.

        Args:
            target: the target.
            before: logits before.
            after: logits after.
            truth: labels of the samples.
            temperature: of the logits before.
            matched: of the logits after.
        """
        return cls(
            target,
            probabilities_from_logits(before, temperature, multi_label=target.multi_label),
            probabilities_from_logits(after, matched, multi_label=target.multi_label),
            truth,
        )

    @cached_property
    def decision(self) -> npt.NDArray[np.float64]:
        """Thresholds ``(C,)`` of a multi-label target."""
        return fit_decisions(self.sure_before, self.truth) if self.target.multi_label else np.zeros(0)

    @cached_property
    def answers_before(self) -> Ints:
        """Predictions before: label indices ``(N, 1)``, or 1 and 0 per label ``(N, C)``."""
        return self._answers(self.sure_before)

    @cached_property
    def answers_after(self) -> Ints:
        """Predictions after, in the same form."""
        return self._answers(self.sure_after)

    @cached_property
    def labelled(self) -> Bools:
        """Samples with a label ``(N,)``."""
        return np.asarray((self.truth.reshape(len(self.truth), -1) >= 0).all(axis=1))

    @cached_property
    def right_before(self) -> Bools:
        """Labelled samples ``(N,)`` whose whole answer is right before."""
        return self._right(self.answers_before)

    @cached_property
    def right_after(self) -> Bools:
        """Labelled samples ``(N,)`` whose whole answer is right after."""
        return self._right(self.answers_after)

    @cached_property
    def changed(self) -> Bools:
        """Samples ``(N,)`` whose answer changes."""
        return np.asarray((self.answers_before != self.answers_after).any(axis=1))

    def answer_before(self, sample: int) -> tuple[str, float]:
        """Return the answer to one sample before, in words, and its confidence; '' and NaN if it is not finite."""
        return self._in_words(self.answers_before[sample], self.sure_before[sample])

    def answer_after(self, sample: int) -> tuple[str, float]:
        """Return the answer to one sample after, in words, and its confidence; '' and NaN if it is not finite."""
        return self._in_words(self.answers_after[sample], self.sure_after[sample])

    def truth_of(self, sample: int) -> str:
        """Return the truth of one sample in words; '' if it is unlabelled."""
        return self._text(self.truth.reshape(len(self.truth), -1)[sample])

    def _answers(self, sure: FloatArray) -> Ints:
        finite = np.isfinite(sure).all(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            found = sure >= self.decision if self.target.multi_label else sure.argmax(axis=1)[:, None]
        return np.where(finite, found, NOT_FINITE).astype(np.int64)

    def _right(self, answers: Ints) -> Bools:
        return np.asarray(self.labelled & (answers == self.truth.reshape(len(answers), -1)).all(axis=1))

    def _in_words(self, answer: Ints, sure: FloatArray) -> tuple[str, float]:
        if (answer == NOT_FINITE).any():
            return "", math.nan
        if not self.target.multi_label:
            return self._text(answer), float(sure.max())
        return self._text(answer), float(np.where(answer == 1, sure, 1 - sure).min())

    def _text(self, answer: Ints) -> str:
        if (answer < 0).any():
            return ""
        if not self.target.multi_label:
            return self.target.labels[int(answer[0])]
        return " + ".join(self.target.labels[label] for label in np.flatnonzero(answer == 1)) or NONE_HOLDS
