"""Open a bundle's graphs, and choose the fastest runtime and variant on this machine by measuring them once.

The choice is cached in the user's cache folder under the bundle's digest and a description of the machine: a second
start costs nothing, and a changed bundle, engine version or thread count is measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vidrisk.runtimes.chain import chain_runners, frames_of
from vidrisk.runtimes.contract.bundle import Bundle, VariantName
from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure
from vidrisk.runtimes.contract.stages import Stage
from vidrisk.runtimes.folders import cache_folder, is_private_folder, make_private_folder, open_private, write_private
from vidrisk.runtimes.gpu import visible_gpu
from vidrisk.runtimes.registry import (
    BUNDLE_RUNTIMES,
    GPU_RUNTIMES,
    check_runtime,
    engine_version,
    exact_runtimes,
    pairs_for,
)
from vidrisk.runtimes.runner import Arrays, Runner
from vidrisk.runtimes.timing import seconds_in_turns

log = logging.getLogger(__name__)

PROBE_BATCH = 8
PROBE_ROUNDS = 5
WEIGHTY = 0.95  # share of a window's multiply-accumulates

OpenGraph = Callable[..., Runner]  # signature of ``open_runner``


@dataclass(frozen=True)
class Choice:
    """Runtime and variant, with the measured milliseconds per frame (None if nothing had to be measured)."""

    runtime: str
    variant: VariantName
    ms_per_frame: float | None = None


def open_runner(
    bundle: Bundle, stage: str, *, runtime: str, variant: VariantName, threads: int | None = None
) -> Runner:
    """Open the graph of one stage of a bundle, with its constants.

    Raises:
        SettingsError: the runtime cannot read bundles.
        MissingExtra: its package is not installed.
        BundleError, RuntimeFailure: there is no such stage or variant, or the engine refuses the file.
    """
    check_runtime(runtime)
    described = bundle.manifest.stage(stage)
    every = bundle.constants() if described.constants else {}
    return BUNDLE_RUNTIMES[runtime](
        bundle.path(stage, variant),
        described.inputs,
        described.outputs,
        threads=threads,
        constants={name: every[name] for name in described.constants},
    )


def choose(
    bundle: Bundle,
    *,
    runtime: str = "auto",
    variant: str = "auto",
    threads: int | None = None,
    opened: OpenGraph = open_runner,
) -> Choice:
    """Resolve ``auto`` to the fastest installed runtime and passed variant, measured on this machine for this bundle.

    Args:
        bundle: the bundle to run.
        runtime: a name of ``BUNDLE_RUNTIMES`` or ``auto``.
        variant: a variant of the bundle or ``auto``, which considers only variants that passed the gate.
        threads: threads of the engine; None for its default.
        opened: opens a graph to measure it; may be a function that builds missing engines.

    Raises:
        SettingsError: the runtime cannot read bundles.
        MissingExtra: no runtime is installed.
        BundleError: no variant passed the gate, or the given one does not exist.
    """
    runtimes = exact_runtimes() if runtime == "auto" else (runtime,)
    if not runtimes:
        raise MissingExtra("onnxruntime", "cpu")
    candidates = _candidates(bundle, runtimes, variant)
    if len(candidates) == 1:
        return candidates[0]
    cache = cache_folder() / "choices" / f"{_choice_key(bundle, candidates, threads)}.json"
    known = _read_choice(cache, candidates)
    if known:
        return known
    best = rank_choices(bundle, candidates, threads, opened)[0]
    _write_choice(cache, best)
    return best


def _candidates(bundle: Bundle, runtimes: Sequence[str], variant: str) -> list[Choice]:
    """Return the pairs of runtime and variant to consider.

    Raises:
        BundleError, SettingsError: as ``pairs_for``.
    """
    pairs = pairs_for(bundle, runtimes, bundle.passed if variant == "auto" else variant)
    of_runtime = {runtime: [v for r, v in pairs if r == runtime] for runtime, _ in pairs}
    return [Choice(r, v) for r, v in pairs if variant != "auto" or v in _worthwhile(of_runtime[r], r)]


def _worthwhile(variants: Sequence[VariantName], runtime: str) -> tuple[VariantName, ...]:
    """Return the variants that are worth measuring on a runtime.

    If both fp16 and fp32 exist, only fp16 is measured on a GPU, and only fp32 on a processor, which computes fp16
    slowly. The other one would only cost the time to measure it and, on a GPU, to build its engine.
    """
    slower = "fp32" if runtime in GPU_RUNTIMES else "fp16"
    return tuple(v for v in variants if v != slower or not {"fp32", "fp16"} <= set(variants))


def rank_choices(
    bundle: Bundle, candidates: list[Choice], threads: int | None = None, opened: OpenGraph = open_runner
) -> list[Choice]:
    """Time every candidate on the same noise and sort them by speed.

    Timings are interleaved so that a load peak affects all candidates alike. All stages run on whole windows, or only
    the dominant stage if there is one (``_find_timed_stages``).

    Returns:
        The candidates that run here, the fastest first, each with its median milliseconds per frame.
    """
    stages = _find_timed_stages(bundle)
    frames = bundle.contract.frames
    if len(stages) == 1 and stages[0].per != "window":
        rows, probed = PROBE_BATCH, PROBE_BATCH * stages[0].group
    else:
        rows = max(1, PROBE_BATCH // frames)
        probed = rows * frames
    runners: dict[Choice, Runner] = {}
    with ExitStack() as stack:
        feed: Arrays = {}
        for candidate in candidates:
            try:
                of_stages = [
                    stack.enter_context(
                        opened(
                            bundle, stage.name, runtime=candidate.runtime, variant=candidate.variant, threads=threads
                        )
                    )
                    for stage in stages
                ]
                runner = (
                    of_stages[0] if len(stages) == 1 else stack.enter_context(chain_runners(stages, of_stages, frames))
                )
                feed = feed or _noise(runner, rows)
                runner.infer(feed)  # some engines fail only at this point
            except (RuntimeFailure, MissingExtra) as error:
                if isinstance(error, MissingExtra) and len({each.runtime for each in candidates}) == 1:
                    raise  # the user asked for this runtime by name
                log.warning("%s with %s does not run here: %s", candidate.runtime, candidate.variant, error)
                continue
            runners[candidate] = runner
        if not runners:
            raise RuntimeFailure(f"no runtime can run {bundle.root.name} here", fix="vidrisk doctor")
        seconds = seconds_in_turns(runners, feed, PROBE_ROUNDS)
    timed = [Choice(c.runtime, c.variant, round(each * 1e3 / probed, 3)) for c, each in seconds.items()]
    timed.sort(key=lambda choice: choice.ms_per_frame or 0.0)
    for choice in timed:
        log.info("%s %s: %.2f ms per frame", choice.runtime, choice.variant, choice.ms_per_frame)
    return timed


def _find_timed_stages(bundle: Bundle) -> tuple[Stage, ...]:
    """Return the stage with at least ``WEIGHTY`` of a window's multiply-accumulates, else all stages."""
    frames = bundle.contract.frames
    macs = {
        stage.name: stage.macs * (frames // frames_of(stage, frames))
        for stage in bundle.stages
        if stage.macs is not None
    }
    for stage in bundle.stages:
        if len(macs) == len(bundle.stages) and macs[stage.name] >= WEIGHTY * sum(macs.values()):
            return (stage,)
    return bundle.stages


def _noise(runner: Runner, rows: int) -> Arrays:
    """Return rows of noise for a runner: pixels of every value, everything else small."""
    rng = np.random.default_rng(0)
    feed: Arrays = {}
    for spec in runner.inputs:
        shape = (rows, *map(int, spec.shape[1:]))
        whole = np.issubdtype(np.dtype(spec.dtype), np.integer)
        feed[spec.name] = (
            rng.integers(0, 256 if spec.dtype == "uint8" else 2, shape, np.dtype(spec.dtype))
            if whole
            else rng.standard_normal(shape, np.float32).astype(spec.dtype)
        )
    return feed


def _choice_key(bundle: Bundle, candidates: list[Choice], threads: int | None) -> str:
    versions = {c.runtime: engine_version(c.runtime) for c in candidates}
    machine = (platform.machine(), platform.node(), os.cpu_count(), visible_gpu(), threads)
    described = json.dumps(
        [bundle.digest, [(c.runtime, c.variant) for c in candidates], versions, machine], sort_keys=True
    )
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def _read_choice(path: Path, candidates: list[Choice]) -> Choice | None:
    if not is_private_folder(path.parent):
        return None
    try:
        with open_private(path) as file:
            choice = Choice(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None
    return choice if any((c.runtime, c.variant) == (choice.runtime, choice.variant) for c in candidates) else None


def _write_choice(path: Path, choice: Choice) -> None:
    try:
        make_private_folder(path.parent)
        with write_private(path) as file:
            file.write(json.dumps(asdict(choice)).encode())
    except OSError as error:
        log.info("the measured choice is not cached: %s", error)  # with a read-only home every start measures again
