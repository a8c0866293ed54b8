"""Latency and throughput of classifiers, timed in turns to spread disturbances evenly over all of them."""

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
WORTH = 1.02  # factor by which a batch must be faster than the best smaller one to count as an improvement
PATIENCE = 2  # this many batches in a row without improvement end the search
MEMORY_SHARE = 0.5  # of the available memory that a batch may take
SHORT_S = 0.05  # threads of engines spin for a few milliseconds, which is negligible for longer calls

Key = TypeVar("Key")


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: median and 95th percentile of ``rounds`` calls."""

    p50_ms: float
    p95_ms: float
    rounds: int


@dataclass(frozen=True)
class Throughput:
    """Frames per second by batch size; ``stopped`` says why no larger batches were measured."""

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
    """Time every call in turns, for ``least`` to ``most`` rounds as fit into the budget.

    In each turn a short call is made twice, and only the second is timed: during the first the threads of the previous
    engine still spin, waiting for more work.

    Args:
        calls: the calls by key.
        warm_s: result of ``second_call_s`` for each call, so its first call, in which engines compile and allocate, is
            already done.
        least: minimum number of rounds.
        most: maximum number of rounds.
        budget_s: for all rounds together.

    Returns:
        Seconds of every call, by key.

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
    """Measure the stages that run per frame on one frame; models without such stages are left out."""
    return _latencies(
        {
            candidate: _encode_call(classifier, _noise(classifier, 1))
            for candidate, classifier in classifiers.items()
            if classifier.plan.frame
        }
    )


def clip_latencies(classifiers: Mapping[Candidate, Classifier]) -> dict[Candidate, Latency]:
    """Measure all stages on one clip."""
    return _latencies(
        {
            candidate: _classify_call(classifier, _noise(classifier, classifier.contract.frames))
            for candidate, classifier in classifiers.items()
        }
    )


def _latencies(calls: Mapping[Candidate, Callable[[], object]]) -> dict[Candidate, Latency]:
    """Measure the latencies of calls.

    Forty rounds are the fewest with two beyond the 95th percentile; slow models get twenty.
    """
    warm_s = {candidate: second_call_s(call) for candidate, call in calls.items()}
    found = {}
    for candidate, times_s in seconds_in_turns(calls, warm_s, least=20, most=40, budget_s=6).items():
        p50_ms, p95_ms = (round(float(ms), 3) for ms in np.percentile(np.array(times_s) * 1e3, (50, 95)))
        found[candidate] = Latency(p50_ms, p95_ms, len(times_s))
    return found


def throughputs(
    classifiers: Mapping[Candidate, Classifier], footprints: Mapping[Candidate, Footprint], on_progress: OnProgress
) -> dict[Candidate, Throughput]:
    """Measure the throughput of the dominant work by batch size.

    That work is the stages that run per frame, or whole windows if more than a head runs per window. Batches are
    enlarged until they are no longer faster or memory runs short; then all batches of all candidates are timed in
    turns.
    """
    calls: dict[tuple[Candidate, int], Callable[[], object]] = {}
    warm_s: dict[tuple[Candidate, int], float] = {}
    stopped = {}
    for done, (candidate, classifier) in enumerate(classifiers.items()):
        on_progress("best batch sizes", done, len(classifiers))
        tried = _batches(classifier)
        times_s, stopped[candidate] = _enlarge_batches(tried, footprints[candidate].bytes_per_frame)
        warm_s |= {(candidate, batch): call_s for batch, call_s in times_s.items()}
        calls |= {(candidate, batch): tried[batch] for batch in times_s}
    on_progress("throughput", 0, 1)
    rates: dict[Candidate, dict[int, float]] = {candidate: {} for candidate in classifiers}
    for (candidate, batch), seconds in seconds_in_turns(calls, warm_s, least=3, most=7, budget_s=15).items():
        rates[candidate][batch] = round(batch / statistics.median(seconds), 2)
    return {candidate: Throughput(rates[candidate], stopped[candidate]) for candidate in classifiers}


def _enlarge_batches(calls: Mapping[int, Callable[[], object]], bytes_per_frame: int) -> tuple[dict[int, float], str]:
    """Return seconds by batch for batches worth timing, and why there are no more ('' if all are).

    Raises:
        RuntimeFailure: the engine failed at the smallest batch.
    """
    times_s: dict[int, float] = {}
    for batch, call in calls.items():
        rates = [size / call_s for size, call_s in times_s.items()]
        if len(rates) > PATIENCE and max(rates[-PATIENCE:]) < WORTH * max(rates[:-PATIENCE]):
            return times_s, "larger batches are not faster"
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
    """Return random frames ``uint8 (count, H, W, 3)``."""
    return np.random.default_rng(0).integers(0, 256, (count, *classifier.contract.pixel.frame_shape), dtype=np.uint8)


def _batches(classifier: Classifier) -> dict[int, Callable[[], object]]:
    """Return calls by frames per batch; if windows are batched, only whole windows."""
    if not classifier.plan.batches_windows:
        frames = _noise(classifier, max(BATCHES))
        return {batch: _encode_call(classifier, frames[:batch]) for batch in BATCHES}
    moments = classifier.contract.frames
    sizes = [batch for batch in BATCHES if batch * moments <= max(BATCHES)] or [1]
    frames = _noise(classifier, max(sizes) * moments)
    clips = frames.reshape(-1, moments, *frames.shape[1:])
    return {size * moments: _logits_call(classifier, clips[:size]) for size in sizes}


def _logits_call(classifier: Classifier, clips: npt.NDArray[np.uint8]) -> Callable[[], object]:
    return lambda: classifier.logits_from_frames(clips, len(clips) * clips.shape[1])


def _encode_call(classifier: Classifier, frames: npt.NDArray[np.uint8]) -> Callable[[], object]:
    return lambda: classifier.encode(frames)


def _classify_call(classifier: Classifier, clip: npt.NDArray[np.uint8]) -> Callable[[], object]:
    return lambda: classifier.classify(clip[None])
