"""Settings of a GPU benchmark: the folder for bundles and engines, the TensorRT library, and the number of rounds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu_families import FAMILIES

# What is aimed at: times as fast, microseconds, seconds, cosine.
AIMS = {
    "int8_over_fp16_batch_64": 1.3,
    "fp16_over_torch_eager_batch_1": 3.0,
    "fp16_over_torch_compile_batch_64": 1.5,
    "overhead_us": 50.0,
    "second_start_s": 2.0,
    "fp16_cosine": 0.999,
}
PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-rtx-cu13-bindings", "cuda-bindings", "onnxruntime-gpu")
FAKE = Path(__file__).with_name("gpu_fake.py")

Part = dict[str, Any]
Section = Callable[["Place"], Iterator[Part]]  # gives what it has found until now, again and again


@dataclass(frozen=True)
class Place:
    """The work folder and the extent of a GPU benchmark.

    Attributes:
        kind: the kind of TensorRT; None if none works.
        trial: small models and few rounds.
        families: those with small bundles; where one is enough, the first is used.
        fake: on a simulated GPU (``gpu_fake.py``); times are meaningless.
    """

    work: Path
    kind: Any
    trial: bool
    families: tuple[str, ...] = FAMILIES
    fake: bool = False

    @property
    def batches(self) -> tuple[int, ...]:
        """Return the batch sizes of the throughput."""
        return (1, 64) if self.fake else (1, 8, 64)

    @property
    def program(self) -> tuple[str, ...]:
        """Return the command that starts vidrisk."""
        return (sys.executable, str(FAKE)) if self.fake else (sys.executable, "-m", "vidrisk")

    @property
    def device(self) -> str:
        """Return the device of torch and ONNX Runtime."""
        return "cpu" if self.fake else "cuda"

    @property
    def rounds(self) -> int:
        return 1 if self.fake else 3 if self.trial else 50

    @cached_property
    def models(self) -> list[Any]:
        """Return both models; their bundles are created when they are needed."""
        from gpu_models import models_in

        return models_in(self.work, trial=self.trial)


def make_work(work: Path) -> Path:
    """Use a folder for the benchmark, with its own cache."""
    work.mkdir(parents=True, exist_ok=True)
    os.environ["VIDRISK_CACHE"] = str(work / "cache")
    return work


def engine(place: Place, model: Any, variant: Any, *, cuda_graphs: bool = True) -> Any:
    """Open the encoder's engine; build it if it is missing.

    Raises:
        RuntimeFailure: TensorRT is missing or fails.
    """
    from vidrisk.runtimes.contract.errors import EngineMissing, RuntimeFailure
    from vidrisk.runtimes.tensorrt.build.engines import ensure_engines
    from vidrisk.runtimes.tensorrt.runner import TensorRtRunner

    if place.kind is None:
        raise RuntimeFailure("no TensorRT works here")
    graph = model.bundle.manifest.stage("encoder")

    def open_engine() -> Any:
        return TensorRtRunner(
            model.bundle.path("encoder", variant), graph.inputs, graph.outputs, kind=place.kind, cuda_graphs=cuda_graphs
        )

    try:
        return open_engine()
    except EngineMissing:
        say(f"building {place.kind} engines of {model.name} {variant}")
        ensure_engines(model.bundle, place.kind, [variant])
        return open_engine()


def say(line: str) -> None:
    print(f"  {line}", flush=True)


def describe_gpu() -> dict[str, Any]:
    """Describe the machine with its GPU and the installed GPU libraries."""
    from machine import describe_machine

    from vidrisk.runtimes.registry import GPU_RUNTIMES, engine_version, installed_runtimes
    from vidrisk.runtimes.tensorrt.device import current_device

    installed = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    device = current_device()
    return {
        **describe_machine(),
        "gpu": device.name,
        "compute_capability": device.compute_capability,
        "driver": device.driver,
        "gpu_mb": round(device.total_bytes / 1e6),
        **{runtime: engine_version(runtime) for runtime in installed_runtimes() if runtime in GPU_RUNTIMES},
        "gpu_packages": {name: installed[name] for name in PACKAGES if name in installed},
    }
