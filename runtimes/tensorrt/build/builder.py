"""Build an engine from an ONNX file, with the same code for TensorRT 10.3 and later, TensorRT 11 and TensorRT for RTX.

It runs on devices and therefore imports neither torch nor onnx: TensorRT's own parser reads the file.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidrisk.runtimes.contract.errors import (
    GraphRefused,
    Interrupted,
    RuntimeFailure,
    SettingsError,
    SpecError,
    VidriskError,
)
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import BATCH
from vidrisk.runtimes.tensorrt.api import Api, Kind, open_api
from vidrisk.runtimes.tensorrt.build.layers import (
    activations_bytes,
    layers_from_inspection,
    layers_from_network,
    weights_bytes,
)
from vidrisk.runtimes.tensorrt.build.monitor import PERCENT, new_monitor
from vidrisk.runtimes.tensorrt.build.timings import keep_timings, use_timings
from vidrisk.runtimes.tensorrt.cache import Batches
from vidrisk.runtimes.tensorrt.device import Device

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)


SECONDS_BETWEEN_LOOKS = 0.1
LEAST_WORKSPACE_BYTES = 64 << 20
MEMORY_FIX = "stop other programs that use the GPU, or choose a smaller batch or a variant of fewer bits"


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        batches: rows per call.
        compute_capabilities: GPUs to build for ahead of time, such as ``8.6``; empty for the present GPU.
        dla: run the layers that a Jetson's deep-learning accelerator supports on it, and the rest on the GPU.
        portable: build for later versions of TensorRT and every GPU from Ampere on except a Jetson's; the engine may
            be slower.
    """

    batches: Batches = field(default_factory=Batches)
    compute_capabilities: tuple[str, ...] = ()
    dla: bool = False
    portable: bool = False

    def __post_init__(self) -> None:
        if self.portable and (self.dla or self.compute_capabilities):
            other = "the DLA" if self.dla else f"compute capabilities {','.join(self.compute_capabilities)}"
            raise SettingsError(f"a portable engine and {other} together", allowed="one of them")


@dataclass(frozen=True)
class Built:
    """Built engine.

    Attributes:
        blob: the serialized engine.
        batches: rows per call; smaller than requested if the GPU had too little memory.
        layers_json: description of its layers, for people and for ``layer_counts``.
        seconds: duration of the build, including parsing.
    """

    blob: memoryview
    batches: Batches
    layers_json: str
    seconds: float


def parse_errors(path: Path, kind: Kind | None = None) -> list[str]:
    """Return why TensorRT's parser refuses an ONNX file, one line per layer; empty if it accepts it.

    No GPU is needed.

    Raises:
        MissingExtra, RuntimeFailure: TensorRT is missing or does not load.
    """
    return _parse(open_api(kind), path)[1]


def build_engine(
    path: Path,
    inputs: Sequence[TensorSpec],
    api: Api,
    device: Device | None,
    options: BuildOptions,
    on_progress: OnProgress = ignore_progress,
) -> Built:
    """Build an engine from an ONNX file.

    Args:
        path: the ONNX file.
        inputs: specs of its inputs; the axis ``batch`` gets ``options.batches``.
        api: the TensorRT to build with.
        device: the present GPU; None builds ahead of time.
        options: options of the build.
        on_progress: called with the progress in percent.

    Raises:
        RuntimeFailure: the parser refuses a layer, the GPU has too little memory, or TensorRT fails.
        SettingsError: there is no DLA, or TensorRT cannot build for such a GPU.
        Interrupted: Ctrl-C.
    """
    begin = time.monotonic()
    parsed, refused = _parse(api, path)
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise GraphRefused(
            f"{api.kind} cannot read {path.name}: {refused[0]}{more}",
            fix="export for TensorRT, which checks this, or choose another variant",
        )
    batches = options.batches
    while True:
        if device is not None:
            batches = _batches_that_fit(parsed, path, device, batches)
        config = _config(parsed, path, inputs, device, replace(options, batches=batches))
        blob = _build_blob(parsed, config, f"building {path.name} for {api.kind}", on_progress)
        if blob is not None:
            break
        if not api.out_of_memory or batches.max == batches.min:
            raise api.failure(
                f"{api.kind} cannot build {path.name} for batches of {batches.max}",
                fix=MEMORY_FIX if api.out_of_memory else None,
            )
        api.errors.clear()
        batches = _halve(batches, path, "out of GPU memory")
    api.errors.clear()  # from kernels that were tried and rejected
    if device is not None:
        keep_timings(api, config, device)
    inspected = _layers_of_engine(api, blob, options.portable) if device is not None else None
    return Built(blob, batches, inspected or layers_from_network(parsed.network), time.monotonic() - begin)


@dataclass(frozen=True)
class _Parsed:
    """Parsed network with the objects that it depends on: the parser owns the weights."""

    api: Api
    builder: trt.Builder
    parser: trt.OnnxParser
    network: trt.INetworkDefinition


def _parse(api: Api, path: Path) -> tuple[_Parsed, list[str]]:
    """Parse the network in a file; return it and the errors of the parser."""
    builder = api.new_builder()
    network = api.new_network(builder)
    parser = api.new_parser(network)
    whole = (
        parser.parse_from_file(str(path)) and network.num_outputs > 0
    )  # the parser accepts an empty file as an empty network
    errors = [_line_from_error(parser.get_error(at)) for at in range(parser.num_errors)]
    if not whole and not errors:
        errors = [str(api.failure("this is not an ONNX graph"))]
    api.errors.clear()
    network.name = path.stem
    return _Parsed(api, builder, parser, network), [] if whole else errors


def _line_from_error(error: trt.ParserError) -> str:
    """Return operator, layer, module and reason of an error.

    Nodes are named after their module: ``backbone.blocks.3.expand.0/conv2d_9``.
    """
    module, _, layer = error.node_name().rpartition("/")
    text = " ".join(error.desc().split())
    said = re.search(r"Error Code \d+:[^(]*\((?:[^:()]*: )?(.+?)\.? In \w+ at ", text)
    where = f"{error.node_operator()} {layer}" + (f" of module {module}" if module else "")
    return f"{where}: {said[1] if said else text}"


def _config(
    parsed: _Parsed, path: Path, inputs: Sequence[TensorSpec], device: Device | None, options: BuildOptions
) -> trt.IBuilderConfig:
    api, builder = parsed.api, parsed.builder
    config = api.new_config(builder)
    profile = builder.create_optimization_profile()
    for spec in inputs:
        if BATCH not in spec.shape:  # a constant
            continue
        shapes: Any = [_shape(spec, rows) for rows in astuple(options.batches)]  # TensorRT converts tuples to Dims
        profile.set_shape(spec.name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise api.failure(f"{path.name} does not accept {', '.join(map(repr, inputs))}")
    if options.portable:
        api.make_portable(config)
    elif options.compute_capabilities:
        api.set_compute_capabilities(config, options.compute_capabilities)
    elif device is not None:
        api.set_this_gpu(config, device.compute_capability)
    if device is not None:
        needed = weights_bytes(path) + activations_bytes(parsed.network, options.batches.max)
        api.set_workspace(config, max(device.free_bytes - needed, LEAST_WORKSPACE_BYTES))
        use_timings(api, config, device)
    if options.dla:
        if not builder.num_DLA_cores:
            raise SettingsError(
                f"{device.name if device else 'this machine'} has no DLA that {api.kind} {api.version} can use",
                fix="do without the DLA",
            )
        api.use_dla(config)
    return config


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    named = {axis for axis in spec.shape if isinstance(axis, str)} - {BATCH}
    if named:
        raise SpecError(f"{spec} has the free axes {', '.join(sorted(named))}", allowed=BATCH)
    return tuple(rows if axis == BATCH else int(axis) for axis in spec.shape)


def _build_blob(parsed: _Parsed, config: trt.IBuilderConfig, what: str, on_progress: OnProgress) -> memoryview | None:
    """Build in a separate thread, while this one reports progress and handles Ctrl-C; return None if TensorRT fails."""
    monitor = new_monitor(parsed.api)
    config.progress_monitor = monitor
    pool = ThreadPoolExecutor(1)
    try:  # before the thread starts, because Ctrl-C may arrive at the first step of the build
        future: Future[Any] = pool.submit(lambda: parsed.builder.build_serialized_network(parsed.network, config))
        while not future.done():
            on_progress(what, monitor.percent, PERCENT)
            wait([future], timeout=SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt as error:
        log.warning("stopping: waiting for %s to finish its current step", parsed.api.kind)
        raise Interrupted(f"stopped by Ctrl-C while {what}") from error
    finally:  # also if the terminal was closed
        monitor.cancelled = True
        _shut_down(pool)
    memory = future.result()
    if memory is None:
        return None
    on_progress(what, PERCENT, PERCENT)
    return memoryview(memory)


def _shut_down(pool: ThreadPoolExecutor) -> None:
    """Wait for the pool's thread, ignoring further Ctrl-C, because TensorRT crashes if it is interrupted."""
    ended = False
    while not ended:
        with suppress(KeyboardInterrupt):
            pool.shutdown()
            ended = True


def _batches_that_fit(parsed: _Parsed, path: Path, device: Device, batches: Batches) -> Batches:
    """Return the largest batches whose weights and activations fit into free memory, as estimated before building.

    Raises:
        RuntimeFailure: not even the smallest batches fit.
    """
    while True:
        needed = weights_bytes(path) + activations_bytes(parsed.network, batches.max)
        if needed <= device.free_bytes:
            return batches
        said = f"needs {_gigabytes(needed)} of GPU memory, but only {_gigabytes(device.free_bytes)} are available"
        if batches.max == batches.min:
            raise RuntimeFailure(f"{path.name} {said}, for batches of {batches.max}", fix=MEMORY_FIX)
        batches = _halve(batches, path, said)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _halve(batches: Batches, path: Path, why: str) -> Batches:
    largest = max(batches.max // 2, batches.min)
    log.warning("%s for batches of %d: %s; halving to %d", path.name, batches.max, why, largest)
    return Batches(batches.min, min(batches.opt, largest), largest)


def _layers_of_engine(api: Api, blob: memoryview, portable: bool) -> str | None:
    """Return the layers of an engine from TensorRT's inspector, or None if it cannot be inspected."""
    try:
        engine = api.load_engine(blob, portable=portable)
        text = engine.create_engine_inspector().get_engine_information(api.trt.LayerInformationFormat.JSON)
        return layers_from_inspection(text)
    except (VidriskError, ValueError, RuntimeError) as error:
        log.info("the engine cannot be inspected: %s", error)
        return None
