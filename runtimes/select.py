"""Opening a bundle's graphs, and choosing the runtime and variant that are fastest here, by measuring them once.

The choice is kept in the user's cache folder under the bundle's digest and a description of the machine, so that a second
start costs nothing and a changed bundle, engine version or thread count measures again.
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

from vidrisk.runtimes.bundle import Bundle, VariantName
from vidrisk.runtimes.errors import BundleError, MissingExtra, RuntimeFailure, SettingsError
from vidrisk.runtimes.folders import cache_folder
from vidrisk.runtimes.gpu import visible_gpu
from vidrisk.runtimes.registry import (
    BUNDLE_RUNTIMES,
    GPU_RUNTIMES,
    engine_version,
    exact_runtimes,
)
from vidrisk.runtimes.runner import Runner
from vidrisk.runtimes.timing import seconds_in_turns

log = logging.getLogger(__name__)

PROBE_BATCH = 8
PROBE_ROUNDS = 5

OpenGraph = Callable[..., Runner]  # as ``open_runner``


@dataclass(frozen=True)
class Choice:
    """A runtime and a variant, and the milliseconds per frame that decided for them (None when nothing had to be measured)."""

    runtime: str
    variant: VariantName
    ms_per_frame: float | None = None


def open_runner(bundle: Bundle, graph: str, *, runtime: str, variant: VariantName, threads: int | None = None) -> Runner:
    """Open one graph (``encoder`` or ``head``) of a bundle.

    Raises:
        SettingsError: a runtime that cannot read bundles.
        MissingExtra: its package is not installed.
        BundleError, RuntimeFailure: no such variant, or the engine refuses the file.
    """
    _check_runtime(runtime)
    tensors = bundle.manifest.graphs["encoder" if graph == "encoder" else "head"]
    return BUNDLE_RUNTIMES[runtime](bundle.path(graph, variant), tensors.inputs, tensors.outputs, threads=threads)


def _check_runtime(runtime: str) -> None:
    if runtime not in BUNDLE_RUNTIMES:
        raise SettingsError(f"runtime {runtime!r} cannot run a bundle", allowed=f"auto, {', '.join(BUNDLE_RUNTIMES)}")


def choose(bundle: Bundle, *, runtime: str = "auto", variant: str = "auto", threads: int | None = None,
           opened: OpenGraph = open_runner) -> Choice:
    """Settle ``auto``: the fastest installed runtime and passed variant, as measured on this machine for this bundle.

    Args:
        runtime: a name of ``BUNDLE_RUNTIMES`` or ``auto``.
        variant: a variant of the bundle or ``auto``, which considers only variants that passed the gate.
        opened: opens a graph to measure it; one that builds missing engines may be given.

    Raises:
        SettingsError: a runtime that cannot read bundles.
        MissingExtra: no runtime is installed.
        BundleError: no variant passed the gate, or the one asked for does not exist.
    """
    if runtime != "auto":
        _check_runtime(runtime)
    runtimes = exact_runtimes() if runtime == "auto" else (runtime,)
    if not runtimes:
        raise MissingExtra("onnxruntime", "cpu")
    variants = bundle.passed if variant == "auto" else tuple(v for v in bundle.manifest.variants if v == variant)
    if not variants:
        allowed = ", ".join(bundle.manifest.variants if variant != "auto" else bundle.passed) or "none"
        raise BundleError(f"{bundle.root.name} has no {'passed variant' if variant == 'auto' else variant}", allowed=allowed)
    candidates = [Choice(r, v) for r in runtimes for v in _worthwhile(variants, r)]
    if len(candidates) == 1:
        return candidates[0]
    cache = cache_folder() / "choices" / f"{_choice_key(bundle, candidates, threads)}.json"
    known = _read_choice(cache, candidates)
    if known:
        return known
    best = ranked(bundle, candidates, threads, opened)[0]
    _write_choice(cache, best)
    return best


def _worthwhile(variants: Sequence[VariantName], runtime: str) -> tuple[VariantName, ...]:
    """Floating point is fp16 on a GPU, and fp32 on a processor, which computes fp16 slowly: where there are both, the other one
    would only cost the time to measure it, and on a GPU to build its engine."""
    slower = "fp32" if runtime in GPU_RUNTIMES else "fp16"
    return tuple(v for v in variants if v != slower or not {"fp32", "fp16"} <= set(variants))


def ranked(bundle: Bundle, candidates: list[Choice], threads: int | None = None,
           opened: OpenGraph = open_runner) -> list[Choice]:
    """Time every candidate's encoder on the same noise, in turns so that a busy moment hits all alike.

    Returns:
        The candidates that run here, the fastest first, each with its median milliseconds per frame.
    """
    shape = (PROBE_BATCH, *bundle.contract.pixel.frame_shape)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    runners: dict[Choice, Runner] = {}
    with ExitStack() as stack:
        for candidate in candidates:
            try:
                runner = stack.enter_context(
                    opened(bundle, "encoder", runtime=candidate.runtime, variant=candidate.variant, threads=threads))
                runner.infer({"frames": frames})  # some fail only now
            except (RuntimeFailure, MissingExtra) as error:
                if isinstance(error, MissingExtra) and len({each.runtime for each in candidates}) == 1:
                    raise  # what was asked for by name
                log.warning("%s with %s does not run here: %s", candidate.runtime, candidate.variant, error)
                continue
            runners[candidate] = runner
        if not runners:
            raise RuntimeFailure(f"no runtime can run {bundle.root.name} here", fix="vidrisk doctor")
        seconds = seconds_in_turns(runners, {"frames": frames}, PROBE_ROUNDS)
    timed = [Choice(c.runtime, c.variant, round(each * 1e3 / PROBE_BATCH, 3)) for c, each in seconds.items()]
    timed.sort(key=lambda choice: choice.ms_per_frame or 0.0)
    for choice in timed:
        log.info("%s %s: %.2f ms per frame", choice.runtime, choice.variant, choice.ms_per_frame)
    return timed


def _choice_key(bundle: Bundle, candidates: list[Choice], threads: int | None) -> str:
    versions = {c.runtime: engine_version(c.runtime) for c in candidates}
    machine = (platform.machine(), platform.node(), os.cpu_count(), visible_gpu(), threads)
    described = json.dumps([bundle.digest, [(c.runtime, c.variant) for c in candidates], versions, machine], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def _read_choice(path: Path, candidates: list[Choice]) -> Choice | None:
    try:
        choice = Choice(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return choice if any((c.runtime, c.variant) == (choice.runtime, choice.variant) for c in candidates) else None


def _write_choice(path: Path, choice: Choice) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps(asdict(choice)), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        log.info("the measured choice is not kept: %s", error)  # a read-only home costs a measurement per start, no more
