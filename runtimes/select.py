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
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from vidrisk.runtimes.bundle import Bundle, VariantName
from vidrisk.runtimes.errors import BundleError, MissingExtra, RuntimeFailure, SettingsError, is_installed
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.runtimes.ort import OnnxRuntimeRunner
from vidrisk.runtimes.runner import Runner
from vidrisk.runtimes.timing import seconds_in_turns

log = logging.getLogger(__name__)

BUNDLE_RUNTIMES: dict[str, type[OnnxRuntimeRunner] | type[OpenVinoRunner]] = {
    "onnxruntime": OnnxRuntimeRunner,
    "openvino": OpenVinoRunner,
}
PROBE_BATCH = 8
PROBE_ROUNDS = 5


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


def installed_runtimes() -> tuple[str, ...]:
    return tuple(name for name in BUNDLE_RUNTIMES if is_installed(name))


def choose(bundle: Bundle, *, runtime: str = "auto", variant: str = "auto", threads: int | None = None) -> Choice:
    """Settle ``auto``: the fastest installed runtime and passed variant, as measured on this machine for this bundle.

    Args:
        runtime: a name of ``BUNDLE_RUNTIMES`` or ``auto``.
        variant: a variant of the bundle or ``auto``, which considers only variants that passed the gate.

    Raises:
        SettingsError: a runtime that cannot read bundles.
        MissingExtra: no runtime is installed.
        BundleError: no variant passed the gate, or the one asked for does not exist.
    """
    if runtime != "auto":
        _check_runtime(runtime)
    runtimes = installed_runtimes() if runtime == "auto" else (runtime,)
    if not runtimes:
        raise MissingExtra("onnxruntime", "cpu")
    variants = bundle.passed if variant == "auto" else tuple(v for v in bundle.manifest.variants if v == variant)
    if not variants:
        allowed = ", ".join(bundle.manifest.variants if variant != "auto" else bundle.passed) or "none"
        raise BundleError(f"{bundle.root.name} has no {'passed variant' if variant == 'auto' else variant}", allowed=allowed)
    candidates = [Choice(r, v) for r in runtimes for v in variants]
    if len(candidates) == 1:
        return candidates[0]
    cache = cache_folder() / "choices" / f"{_choice_key(bundle, candidates, threads)}.json"
    known = _read_choice(cache, candidates)
    if known:
        return known
    best = ranked(bundle, candidates, threads)[0]
    _write_choice(cache, best)
    return best


def ranked(bundle: Bundle, candidates: list[Choice], threads: int | None = None) -> list[Choice]:
    """Time every candidate's encoder on the same noise, in turns so that a busy moment hits all alike.

    Returns:
        The candidates that run here, the fastest first, each with its median milliseconds per frame.
    """
    shape = (PROBE_BATCH, *bundle.contract.pixel.frame_shape)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    runners: dict[Choice, Runner] = {}
    for candidate in candidates:
        try:
            runner = open_runner(bundle, "encoder", runtime=candidate.runtime, variant=candidate.variant, threads=threads)
            runner.infer({"frames": frames})  # some fail only now
        except RuntimeFailure as error:
            log.warning("%s with %s does not run here: %s", candidate.runtime, candidate.variant, error)
            continue
        runners[candidate] = runner
    if not runners:
        raise RuntimeFailure(f"no runtime can run {bundle.root.name} here", fix="vidrisk doctor")
    seconds = seconds_in_turns(runners, {"frames": frames}, PROBE_ROUNDS)
    for runner in runners.values():
        runner.close()
    timed = [Choice(c.runtime, c.variant, round(each * 1e3 / PROBE_BATCH, 3)) for c, each in seconds.items()]
    timed.sort(key=lambda choice: choice.ms_per_frame or 0.0)
    for choice in timed:
        log.info("%s %s: %.2f ms per frame", choice.runtime, choice.variant, choice.ms_per_frame)
    return timed


def cache_folder() -> Path:
    """``$VIDRISK_CACHE``, or ``vidrisk`` under ``$XDG_CACHE_HOME`` (``~/.cache``)."""
    own = os.environ.get("VIDRISK_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vidrisk"


def _choice_key(bundle: Bundle, candidates: list[Choice], threads: int | None) -> str:
    versions = {c.runtime: engine_version(c.runtime) for c in candidates}
    machine = (platform.machine(), platform.node(), os.cpu_count(), threads)
    described = json.dumps([bundle.digest, [(c.runtime, c.variant) for c in candidates], versions, machine], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def engine_version(runtime: str) -> str | None:
    """Version of the installed package that a runtime comes from."""
    for package in (runtime, f"{runtime}-gpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


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
