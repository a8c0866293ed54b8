"""Engines of a bundle, built once, on the device or ahead of time, and cached.

    bundle ─► stages × variants ─► matching engine in the cache?  ─yes─► nothing to do
                                   └─no, with reason─► build (``builder.py``) ─► cache

It runs on devices and therefore imports neither torch nor onnx.
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
from vidrisk.runtimes.tensorrt.build.builder import BuildOptions, Built, build_engine, parse_errors
from vidrisk.runtimes.tensorrt.build.layers import layer_counts, weights_bytes
from vidrisk.runtimes.tensorrt.cache import Batches, Engine, EngineKey, EngineStore, Missing, engine_store, graph_sha256
from vidrisk.runtimes.tensorrt.device import Device, current_device

log = logging.getLogger(__name__)

__all__ = [
    "BuildOptions",
    "Built",
    "EngineReport",
    "build_engine",
    "build_engines",
    "ensure_engine",
    "ensure_engines",
    "parse_errors",
]


@dataclass(frozen=True)
class EngineReport:
    """One engine of a bundle.

    Attributes:
        stage: stage whose graph it runs.
        variants: variants that share its file.
        path: the engine's file.
        bytes: size of the engine.
        seconds: duration of the build; None if the engine was in the cache.
        batches: rows per call.
        computing_layers, int8_layers: number of layers that compute, and of those in INT8; None if not recorded.
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
    """Build the missing engines of a bundle, for the present GPU or ahead of time.

    Batches that did not fit into memory are tried again each time.

    Args:
        bundle: the bundle.
        options: options of the build.
        kind: None uses TensorRT if it is installed, else TensorRT for RTX.
        variants: None means all that passed the gate and are made for TensorRT, except those that it cannot read,
            which are skipped with a warning.
        store: None means the user's cache.
        on_progress: called with the progress of each build.

    Raises:
        BundleError: there is no such variant.
        SettingsError: the options contradict one another, or the library does not support them.
        GraphRefused: TensorRT cannot read a graph of a variant given by name, or of any variant.
        MissingExtra, RuntimeFailure: no TensorRT, no GPU, a full disk, or a failed build.
        Interrupted: Ctrl-C. Finished engines are kept.
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


def ensure_engines(
    bundle: Bundle, kind: Kind, variants: Sequence[VariantName], on_progress: OnProgress = ignore_progress
) -> list[EngineReport]:
    """Build the engines that are missing to run these variants here, and log why.

    Any matching engine is used, whatever its batches.

    Raises:
        Errors as ``build_engines``.
    """
    return [_ensure(source, kind, on_progress) for source in _sources(bundle, _for_kind(bundle, kind, variants))]


def ensure_engine(
    stage: str,
    path: Path,
    inputs: Sequence[TensorSpec],
    kind: Kind,
    on_progress: OnProgress = ignore_progress,
    options: BuildOptions | None = None,
) -> EngineReport:
    """Build the engine of a graph outside of a bundle if it is missing, with ``options``.

    Like ``ensure_engines``, it uses any matching engine.
    """
    return _ensure(_Source(stage, (), path, graph_sha256(path), tuple(inputs)), kind, on_progress, options)


def _ensure(source: _Source, kind: Kind, on_progress: OnProgress, options: BuildOptions | None = None) -> EngineReport:
    api, device = open_api(kind), current_device()
    work = _Work(api, device, options or BuildOptions(), engine_store(), on_progress)
    return _engine(
        work, source, partial(work.store.find, api.kind, api.version, device, source.sha256), logging.WARNING
    )


@dataclass(frozen=True)
class _Work:
    """Common settings of all engines of one call; ``device`` is None when building ahead of time."""

    api: Api
    device: Device | None
    options: BuildOptions
    store: EngineStore
    on_progress: OnProgress


@dataclass(frozen=True)
class _Source:
    """Graph file of a stage, with the variants that share it."""

    stage: str
    variants: tuple[VariantName, ...]
    path: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]


def _for_kind(bundle: Bundle, kind: Kind, variants: Sequence[VariantName] | None) -> list[VariantName]:
    """Return the variants that TensorRT uses for the given names.

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
            f"{bundle.root.name} has {', '.join(asked) or 'no passed variant'}, but nothing that is made for {kind}",
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
    """Return the GPU to build for, or None if it need not be present."""
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
    bound = None if options.portable else device  # a portable engine does not depend on the GPU that built it
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
    """Return the engine that ``look`` finds, or build one and log the reason at ``level``."""
    name, seconds = source.path.name, None
    found = look()
    if isinstance(found, Missing):
        log.log(level, "%s needs a %s engine: %s; building it once may take minutes", name, work.api.kind, found.reason)
        key = _key(work, source)
        with work.store.lock(key):
            found = look()  # another process may have built it while this one waited
            if isinstance(found, Missing):
                work.store.check_room(weights_bytes(source.path))
                built = build_engine(source.path, source.inputs, work.api, work.device, work.options, work.on_progress)
                got = replace(key, batches=built.batches)
                with nullcontext() if got == key else work.store.lock(got):
                    work.store.add(got, built.blob, built.layers_json)
                    found, seconds = work.store.get(got), round(built.seconds, 2)
    if isinstance(found, Missing):
        raise RuntimeFailure(f"the engine of {name} was built but cannot be read: {found.reason}")
    return EngineReport(
        source.stage,
        source.variants,
        found.path,
        found.bytes,
        seconds,
        found.key.batches,
        *layer_counts(found.layers_path),
    )
