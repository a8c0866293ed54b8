"""Latency and throughput of classifiers, timed in turns, so that a busy moment of the machine hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vidrisk.bench.alone import Candidate, Footprint
from vidrisk.inference.model import Classifier
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.memory import available_bytes

BATCHES = (1, 4, 8, 16, 32, 64)
WORTH = 1.02  # a batch pays when it is so much faster than the best smaller one
PATIENCE = 2  # batches in a row that do not pay end the search
MEMORY_SHARE = 0.5  # of what is available, that a batch may take
SHORT_S = 0.05  # engines spin for a few milliseconds: nothing to a call that takes longer

Key = TypeVar("Key")


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: median and 95th percentile of ``rounds`` calls."""

    p50_ms: float
    p95_ms: float
    rounds: int


@dataclass(frozen=True)
class Throughput:
    """Frames per second by batch, as far as batches were enlarged; ``stopped`` says why no further."""

    frames_per_s: Mapping[int, float]
    stopped: str

    @property
    def best_batch(self) -> int:
        return max(self.frames_per_s, key=self.frames_per_s.__getitem__)

    @property
    def best_frames_per_s(self) -> float:
        return self.frames_per_s[self.best_batch]


def seconds_in_turns(
    calls: Mapping[Key, Callable[[], object]], warm_s: Mapping[Key, float], *, least: int, most: int, budget_s: float
) -> dict[Key, list[float]]:
    """Seconds of every call, in turns: from ``least`` to ``most`` rounds, as fit into the budget.

    In each turn a short call is made twice, and the second counts: during the first one the threads of the engine
    before still spin, waiting for more work.

    Args:
        warm_s: what ``second_call_s`` gave for each call: its first one, in which engines compile and allocate, lies
            behind it.

    Raises:
        RuntimeFailure: an engine failed.
    """
    if not calls:
        return {}
    is_short = {key: call_s < SHORT_S for key, call_s in warm_s.items()}
    round_s = sum(call_s * (1 + is_short[key]) for key, call_s in warm_s.items())
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(min(most, max(least, int(budget_s / round_s)))):
        for key, call in calls.items():
            seconds[key].append(second_call_s(call) if is_short[key] else _call_s(call))
    return seconds


def second_call_s(call: Callable[[], object]) -> float:
    call()
    return _call_s(call)


def _call_s(call: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    call()
    return time.perf_counter() - begin_s


def frame_latencies(classifiers: Mapping[Candidate, Classifier]) -> dict[Candidate, Latency]:
    """Of the stages that run per frame, on one; of no model that has none."""
    return _latencies(
        {
            candidate: _encoding(classifier, _noise(classifier, 1))
            for candidate, classifier in classifiers.items()
            if classifier.plan.frame
        }
    )


def clip_latencies(classifiers: Mapping[Candidate, Classifier]) -> dict[Candidate, Latency]:
    """Of all stages, on one clip."""
    return _latencies(
        {
            candidate: _classifying(classifier, _noise(classifier, classifier.contract.frames))
            for candidate, classifier in classifiers.items()
        }
    )


def _latencies(calls: Mapping[Candidate, Callable[[], object]]) -> dict[Candidate, Latency]:
    """Forty rounds are the fewest with two beyond the 95th percentile; slow models get twenty."""
    warm_s = {candidate: second_call_s(call) for candidate, call in calls.items()}
    found = {}
    for candidate, times_s in seconds_in_turns(calls, warm_s, least=20, most=40, budget_s=6).items():
        p50_ms, p95_ms = (round(float(ms), 3) for ms in np.percentile(np.array(times_s) * 1e3, (50, 95)))
        found[candidate] = Latency(p50_ms, p95_ms, len(times_s))
    return found


def throughputs(
    classifiers: Mapping[Candidate, Classifier], footprints: Mapping[Candidate, Footprint], on_progress: OnProgress
) -> dict[Candidate, Throughput]:
    """Of what takes the time, by batch: the stages that run per frame, or whole windows where more than a head runs per window.

    Batches are enlarged until that no longer pays or memory gets short; then all of them, of all
    candidates, are timed in turns.
    """
    calls: dict[tuple[Candidate, int], Callable[[], object]] = {}
    warm_s: dict[tuple[Candidate, int], float] = {}
    stopped = {}
    for done, (candidate, classifier) in enumerate(classifiers.items()):
        on_progress("batches that pay", done, len(classifiers))
        tried = _batches(classifier)
        times_s, stopped[candidate] = _enlarged(tried, footprints[candidate].bytes_per_frame)
        warm_s |= {(candidate, batch): call_s for batch, call_s in times_s.items()}
        calls |= {(candidate, batch): tried[batch] for batch in times_s}
    on_progress("throughput", 0, 1)
    rates: dict[Candidate, dict[int, float]] = {candidate: {} for candidate in classifiers}
    for (candidate, batch), seconds in seconds_in_turns(calls, warm_s, least=3, most=7, budget_s=15).items():
        rates[candidate][batch] = round(batch / statistics.median(seconds), 2)
    return {candidate: Throughput(rates[candidate], stopped[candidate]) for candidate in classifiers}


def _enlarged(calls: Mapping[int, Callable[[], object]], bytes_per_frame: int) -> tuple[dict[int, float], str]:
    """Seconds by batch as far as batches are worth timing, and why no further (empty when all are).

    Raises:
        RuntimeFailure: the engine failed at the smallest.
    """
    times_s: dict[int, float] = {}
    for batch, call in calls.items():
        rates = [size / call_s for size, call_s in times_s.items()]
        if len(rates) > PATIENCE and max(rates[-PATIENCE:]) < WORTH * max(rates[:-PATIENCE]):
            return times_s, "larger batches do not pay"
        available = available_bytes()
        if rates and available is not None and bytes_per_frame * batch > MEMORY_SHARE * available:
            return times_s, f"memory is short: {available / 1e6:.0f} MB available"
        try:
            times_s[batch] = second_call_s(call)
        except RuntimeFailure as error:
            if not times_s:
                raise
            return times_s, str(error)
    return times_s, ""


def _noise(classifier: Classifier, count: int) -> npt.NDArray[np.uint8]:
    """Frames ``uint8 (count, H, W, 3)``."""
    return np.random.default_rng(0).integers(0, 256, (count, *classifier.contract.pixel.frame_shape), dtype=np.uint8)


def _batches(classifier: Classifier) -> dict[int, Callable[[], object]]:
    """Calls by frames per batch, where windows count: of whole ones."""
    if not classifier.plan.batches_windows:
        frames = _noise(classifier, max(BATCHES))
        return {batch: _encoding(classifier, frames[:batch]) for batch in BATCHES}
    moments = classifier.contract.frames
    sizes = [batch for batch in BATCHES if batch * moments <= max(BATCHES)] or [1]
    frames = _noise(classifier, max(sizes) * moments)
    clips = frames.reshape(-1, moments, *frames.shape[1:])
    return {size * moments: _answering(classifier, clips[:size]) for size in sizes}


def _answering(classifier: Classifier, clips: npt.NDArray[np.uint8]) -> Callable[[], object]:
    return lambda: classifier.logits_from_frames(clips, len(clips) * clips.shape[1])


def _encoding(classifier: Classifier, frames: npt.NDArray[np.uint8]) -> Callable[[], object]:
    return lambda: classifier.encode(frames)


def _classifying(classifier: Classifier, clip: npt.NDArray[np.uint8]) -> Callable[[], object]:
    return lambda: classifier.classify(clip[None])
