"""Pipeline from files to predictions, as generators.

    source → decode → batch → encode → window → head
    inputs   DecodePool   encode_frames          predict

Decoding runs in processes, the encoder in a thread, or two if the engine is concurrent, everything else in the caller's
thread. Batches of frames are filled across files, so inputs end in arbitrary order; results within an input are in
order of time. Problems with one file do not end the pipeline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace

from vidrisk import __version__
from vidrisk.decode.messages import Input, Read, ReadSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import Limits
from vidrisk.files.cache import array_cache, key_of
from vidrisk.frames import Decoder, FrameChoice, decoder_versions
from vidrisk.inference.encode import FeatureSink, encode_frames
from vidrisk.inference.feature_cache import KeptFeatures
from vidrisk.inference.head import Answer, predict
from vidrisk.inference.meter import Meter
from vidrisk.inference.model import Classifier
from vidrisk.inference.plan import overlap_cost
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import SettingsError, SpecError
from vidrisk.runtimes.contract.specs import TimeSpec

_log = logging.getLogger(__name__)

BATCH_FRAMES = 32
MAX_SLOTS = 64
MAX_MEMORY_MB = 2048


def time_from_contract(contract: Contract, window_s: float | None, stride_s: float | None) -> TimeSpec | None:
    """Return the contract's moments in the requested windows, ``window_s`` long and ``stride_s`` apart.

    None keeps the contract's value.

    Raises:
        SettingsError: a stride without a window, or longer than it; a length that is not a positive number.
    """
    if window_s is None and stride_s is None:
        return contract.time
    if window_s is None and contract.time:
        window_s = contract.time.window_s
    try:
        return TimeSpec(contract.frames, window_s, stride_s)
    except SpecError as error:
        raise SettingsError(error.what, allowed=error.allowed, fix="change the window or the stride") from error


def read_settings_for(
    classifier: Classifier,
    *,
    window_s: float | None = None,
    stride_s: float | None = None,
    decoder: Decoder = "auto",
    frames: FrameChoice = "all",
    static_levels: float = 0.0,
    max_memory_mb: int = MAX_MEMORY_MB,
    batch_frames: int = BATCH_FRAMES,
    feature_cache: bool = False,
    moments: int = 1,
) -> ReadSettings:
    """Return the settings for reading a model's inputs.

    A batch is encoded while decode processes fill their slots. ``moments`` is the number of moments read per moment
    that the model takes.

    Raises:
        SettingsError: as ``time_from_contract``.
    """
    contract = classifier.contract
    time = time_from_contract(contract, window_s, stride_s)
    time = time and replace(time, frames=time.frames * moments)  # set first, since the cache key includes it
    reading = ReadSettings(
        contract.pixel, time, decoder, frames, static_levels, max_memory_mb, slots=min(batch_frames, MAX_SLOTS)
    )
    if frames == "keyframes" and classifier.plan.compares_frames:
        _log.warning(
            "this model compares consecutive frames, and with keyframes several of them are the same frame: "
            "evaluate it with keyframes before you rely on it"
        )
    if not feature_cache:
        return reading
    width = classifier.width
    if width is None:
        _log.warning("the feature cache is not used: this model has no feature per frame")
        return reading
    specs = replace(reading, max_memory_mb=0, slots=0).to_json()  # without settings that do not affect features
    salt = key_of(classifier.encoder_identity, specs, __version__, *decoder_versions())
    return replace(reading, cache_salt=salt, features=width)


def stream_answers(
    inputs: Iterable[Input],
    classifier: Classifier,
    pool: DecodePool,
    reading: ReadSettings,
    *,
    batch_frames: int = BATCH_FRAMES,
    limits: Limits | None = None,
    meter: Meter | None = None,
    sinks: Sequence[FeatureSink] = (),
    on_batch: Callable[[], None] = lambda: None,
    tap: Callable[[Iterable[Read]], Iterable[Read]] = lambda reads: reads,
    expected_frames: int = 0,
) -> Generator[Answer, None, None]:
    """Yield each input with its predictions when it ends. Close the generator to stop.

    ``on_batch`` is called after every batch, because a single input may be hours long; ``tap`` sees what is read before
    it is encoded. For ``expected_frames`` see ``encode_frames``.

    Raises:
        RuntimeFailure: the engine failed, or decode processes cannot be started.
    """
    meter = meter or Meter()
    if cost := overlap_cost(classifier.plan, reading.time):
        _log.warning("%s", cost)
    sinks = [*sinks, KeptFeatures(array_cache())] if reading.cache_salt else sinks
    with closing(pool.read(inputs, reading, limits=limits, meter=meter)) as reads:
        encoded = encode_frames(tap(reads), classifier, batch_frames, meter, sinks, expected_frames)
        yield from predict(encoded, classifier, meter, on_batch, sinks)
