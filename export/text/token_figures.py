"""Distance between two models at every token of the reference answers, one sample in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk.export.gate.text_report import TokenFigures
from vidrisk.export.text.references import TextReference
from vidrisk.export.text.samples import GateSample
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.text.sampling import log_probabilities

FIRST_TOKENS = 20  # most probable tokens that are compared at the first token of an answer
LogProbabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class KeptProbabilities:
    """Log-probabilities of all tokens at every position of the answers.

    There is one ``(answer, vocabulary)`` float32 file per sample.
    """

    folder: Path
    count: int

    def of(self, number: int) -> LogProbabilities:
        found: LogProbabilities = np.load(self.folder / f"{number}.npy", mmap_mode="r", allow_pickle=False)
        return found

    def forget(self) -> None:
        """Delete the files."""
        for number in range(self.count):
            (self.folder / f"{number}.npy").unlink(missing_ok=True)


def keep_probabilities(
    reference: TextReference,
    samples: Sequence[GateSample],
    folder: Path,
    what: str = "",
    on_progress: OnProgress = ignore_progress,
) -> KeptProbabilities:
    """Compute the log-probabilities of a model, and store them in a new folder.

    Raises:
        DataError: the logits' shape does not match the answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(samples):
        on_progress(what, number, len(samples))
        logits = reference.logits(sample.parts, sample.answer)
        if logits.ndim != 2 or len(logits) != len(sample.answer):
            raise DataError(
                f"{sample.name}: logits {list(logits.shape)} of an answer",
                allowed=f"[{len(sample.answer)}, vocabulary]",
            )
        with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are refused by name
            np.save(
                folder / f"{number}.npy", log_probabilities(logits.astype(np.float32, copy=False)), allow_pickle=False
            )
    return KeptProbabilities(folder, len(samples))


def compare_tokens(before: KeptProbabilities, after: KeptProbabilities, samples: Sequence[GateSample]) -> TokenFigures:
    """Compare two models on the samples that both were run on.

    Raises:
        DataError: vocabularies of different sizes.
    """
    apart, places, same, divergence = 0.0, 0, 0, 0.0
    likelihood = np.zeros(2)
    first_apart: list[float] = []
    first_mean: list[float] = []
    for number, sample in enumerate(samples):
        one, other = before.of(number), after.of(number)
        if one.shape != other.shape:
            raise DataError(
                f"{sample.name}: a vocabulary of {other.shape[1]} tokens", allowed=f"{one.shape[1]}, as before"
            )
        places += len(one)
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            return TokenFigures(len(samples), places, math.inf, math.inf, math.inf, math.inf, 0.0, math.nan, math.inf)
        difference = np.abs(one - other)
        apart = max(apart, float(difference.max()))
        likely = np.argsort(-one[0], kind="stable")[:FIRST_TOKENS]
        first_apart.append(float(difference[0, likely].max()))
        first_mean.append(float(difference[0, likely].mean()))
        same += int((one.argmax(axis=1) == other.argmax(axis=1)).sum())
        divergence += float((np.exp(one) * (one - other)).sum(dtype=np.float64))
        likelihood += [values[np.arange(len(one)), sample.answer].sum(dtype=np.float64) for values in (one, other)]
    perplexities = np.exp(np.minimum(-likelihood / places, 700))  # beyond the range of float64
    return TokenFigures(
        len(samples),
        places,
        apart,
        max(first_apart),
        float(np.mean(first_mean)),
        max(0.0, divergence / places),
        same / places,
        float(perplexities[0]),
        float(perplexities[1]),
    )
