"""The engines of a bundle: built on the device or ahead of time, kept in a cache, and never built twice.

    bundle ─► stages × variants ─► an engine in the cache that fits?  ─yes─► nothing to do
                                   └─no, and why─► build (``builder.py``) ─► cache

It runs on devices, so it imports neither torch nor onnx.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vidrisk.runtimes.contract.bundle import Bundle, VariantName
from vidrisk.runtimes.contract.errors import BundleError, GraphRefused, RuntimeFailure
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.registry import variant_for
from vidrisk.runtimes.tensorrt.api import Api, Kind, open_api
from vidrisk.runtimes.tensorrt.build.builder import BuildOptions, Built, built_engine, parse_errors
from vidrisk.runtimes.tensorrt.build.layers import layer_counts, weights_bytes
from vidrisk.runtimes.tensorrt.cache import Batches, Engine, EngineKey, EngineStore, Missing, engine_store, graph_sha256
from vidrisk.runtimes.tensorrt.device import Device, current_device

log = logging.getLogger(__name__)

__all__ = [
    "BuildOptions",
    "Built",
    "EngineReport",
    "build_engines",
    "built_engine",
    "ensured_engine",
    "ensured_engines",
    "parse_errors",
]


@dataclass(frozen=True)
class EngineReport:
    """One engine of a bundle.

    Attributes:
        stage: whose graph it runs.
        variants: those that share its file.
        path: the engine's file.
        bytes: size of the engine.
        seconds: what building took; None where the engine was there already.
        batches: rows per call.
        computing_layers, int8_layers: layers that compute, and how many of them in INT8; None where that was not kept.
    """

    stage: str
    variants: tuple[VariantName, ...]
    path: Path
    bytes: int
    seconds: float | None
    batches: Batches
    computing_layers: int | None
    int8_layers: int | None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def build_engines(
    bundle: Bundle,
    options: BuildOptions,
    *,
    kind: Kind | None = None,
    variants: Sequence[VariantName] | None = None,
    store: EngineStore | None = None,
    on_progress: OnProgress = ignore_progress,
) -> list[EngineReport]:
    """Build the engines of a bundle that are not there yet: for the GPU that is here, or ahead of time. Batches that did not fit
    into memory are tried again each time.

    Args:
        kind: None takes TensorRT where it is installed, else TensorRT for RTX.
        variants: None takes all that passed the gate and are made for TensorRT, and leaves out, with a word, what it
            cannot read.
        store: None takes the user's cache.

    Raises:
        BundleError: no such variant.
        SettingsError: the options contradict one another, or what the library can do.
        GraphRefused: a graph of a variant that was asked for cannot be read, or one of every variant.
        MissingExtra, RuntimeFailure: no TensorRT, no GPU, a full disk, or a build that fails.
        Interrupted: Ctrl-C. Engines that were finished are kept.
    """
    api = open_api(kind)
    work = _Work(api, _device(api, options), options, store or engine_store(), on_progress)
    built: list[EngineReport] = []
    refused: dict[VariantName, GraphRefused] = {}
    for source in _sources(bundle, _for_kind(bundle, api.kind, variants)):
        try:
            built.append(_engine(work, source, partial(work.store.get, _key(work, source)), logging.INFO))
        except GraphRefused as error:
            if variants is not None:
                raise
            refused |= dict.fromkeys(source.variants, error)
    for name, refusal in refused.items():
        log.warning("%s is left out: %s", name, refusal.what)
    if refused and not {name for each in built for name in each.variants} - set(refused):
        raise next(iter(refused.values()))
    return built


def ensured_engines(
    bundle: Bundle, kind: Kind, variants: Sequence[VariantName], on_progress: OnProgress = ignore_progress
) -> list[EngineReport]:
    """Build what is missing to run these variants here, and say why it is. Any engine that fits will do, whatever its batches.

    Raises:
        As ``build_engines``.
    """
    return [_ensured(source, kind, on_progress) for source in _sources(bundle, _for_kind(bundle, kind, variants))]


def ensured_engine(
    stage: str,
    path: Path,
    inputs: Sequence[TensorSpec],
    kind: Kind,
    on_progress: OnProgress = ignore_progress,
    options: BuildOptions | None = None,
) -> EngineReport:
    """The same for a graph that is in no bundle yet.

    Args:
        options: what an engine that is missing is built for.
    """
    return _ensured(_Source(stage, (), path, graph_sha256(path), tuple(inputs)), kind, on_progress, options)


def _ensured(source: _Source, kind: Kind, on_progress: OnProgress, options: BuildOptions | None = None) -> EngineReport:
    api, device = open_api(kind), current_device()
    work = _Work(api, device, options or BuildOptions(), engine_store(), on_progress)
    return _engine(
        work, source, partial(work.store.find, api.kind, api.version, device, source.sha256), logging.WARNING
    )


@dataclass(frozen=True)
class _Work:
    """What all engines of one call have in common; ``device`` is None ahead of time."""

    api: Api
    device: Device | None
    options: BuildOptions
    store: EngineStore
    on_progress: OnProgress


@dataclass(frozen=True)
class _Source:
    """A file of a stage, and the variants that share it."""

    stage: str
    variants: tuple[VariantName, ...]
    path: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]


def _for_kind(bundle: Bundle, kind: Kind, variants: Sequence[VariantName] | None) -> list[VariantName]:
    """Variants that TensorRT takes, under the names that were asked for.

    Raises:
        BundleError: one of them does not exist, or nothing is made for TensorRT.
    """
    known = bundle.manifest.variants
    asked = bundle.passed if variants is None else tuple(variants)
    for name in asked:
        if name not in known:
            raise BundleError(f"{bundle.root.name} has no variant {name!r}", allowed=", ".join(known))
    taken = [variant_for(known, name, kind) for name in asked]
    for name, of_kind in zip(asked, taken, strict=True):
        if of_kind is None:
            log.warning("%s is left out: it is made for processors", name)
    found = list(
        dict.fromkeys(name for name in taken if name is not None and (variants is not None or known[name].passed))
    )
    if not found:
        raise BundleError(
            f"{bundle.root.name} has {', '.join(asked) or 'no passed variant'}, and nothing of it is made for {kind}",
            fix="export it for the target any, or for a GPU",
        )
    return found


def _sources(bundle: Bundle, variants: Sequence[VariantName]) -> list[_Source]:
    sharing: dict[tuple[str, Path], list[VariantName]] = {}
    for variant in variants:
        for stage in bundle.stages:
            sharing.setdefault((stage.name, bundle.path(stage.name, variant)), []).append(variant)
    return [
        _Source(stage, tuple(names), path, graph_sha256(path), bundle.manifest.stage(stage).inputs)
        for (stage, path), names in sharing.items()
    ]


def _device(api: Api, options: BuildOptions) -> Device | None:
    """The GPU to build for; None where it need not be here."""
    if options.compute_capabilities:
        api.check_compute_capabilities(options.compute_capabilities)
        return None
    if api.compute_capabilities and options.portable:
        return None
    try:
        return current_device()
    except RuntimeFailure as error:
        if not api.compute_capabilities:
            raise
        raise RuntimeFailure(error.what, fix="name compute capabilities, such as 8.6, of other GPUs") from error


def _key(work: _Work, source: _Source) -> EngineKey:
    api, device, options = work.api, work.device, work.options
    bound = None if options.portable else device  # a portable engine does not mind where it was built
    capabilities = (device.compute_capability,) if device else options.compute_capabilities
    machine = platform.machine() if options.portable and api.kind == "tensorrt" else ""
    return EngineKey(
        api.kind,
        api.version,
        bound.model if bound else "",
        capabilities,
        bound.driver_major if bound else "",
        source.sha256,
        options.batches,
        dla=options.dla,
        portable=options.portable,
        machine=machine,
    )


def _engine(work: _Work, source: _Source, look: Callable[[], Engine | Missing], level: int) -> EngineReport:
    """What ``look`` finds, or else a new engine, with the reason logged at ``level``."""
    name, seconds = source.path.name, None
    found = look()
    if isinstance(found, Missing):
        log.log(
            level, "%s needs an engine of %s: %s; building it may take minutes, once", name, work.api.kind, found.reason
        )
        key = _key(work, source)
        with work.store.lock(key):
            found = look()  # another process may have built it while this one waited
            if isinstance(found, Missing):
                work.store.check_room(weights_bytes(source.path))
                built = built_engine(source.path, source.inputs, work.api, work.device, work.options, work.on_progress)
                got = replace(key, batches=built.batches)
                with nullcontext() if got == key else work.store.lock(got):
                    work.store.add(got, built.blob, built.layers_json)
                    found, seconds = work.store.get(got), round(built.seconds, 2)
    if isinstance(found, Missing):
        raise RuntimeFailure(f"the engine of {name} was built and cannot be read: {found.reason}")
    return EngineReport(
        source.stage,
        source.variants,
        found.path,
        found.bytes,
        seconds,
        found.key.batches,
        *layer_counts(found.layers_path),
    )
