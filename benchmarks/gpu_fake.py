"""Run the steps of ``gpu.py``, or vidrisk itself, on the simulated GPU of the tests (``fake_cuda.py``).

    python benchmarks/gpu_fake.py COMMAND ...        run vidrisk COMMAND ... on that GPU

An engine is its ONNX file, run by ONNX Runtime; memory is numpy's, limited to 64 MiB. All parts of the steps are run
except those in which torch or ONNX Runtime use CUDA: these report that there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEMORY_BYTES = 64 << 20
REAL = ("vidrisk.runtimes.tensorrt.build.parse", "vidrisk.runtimes.tensorrt.build.builder")  # a parser needs no GPU
IMPORTED = (*REAL, "vidrisk.runtimes.tensorrt.build.engines", "vidrisk.runtimes.tensorrt.runner")


def fake_gpu() -> None:
    """Make vidrisk use the simulated GPU in this process."""
    sys.path.insert(0, str(ROOT / "tests" / "runtimes" / "tensorrt"))
    import fake_cuda

    for name in IMPORTED:
        import_module(name)
    from vidrisk.runtimes import gpu
    from vidrisk.runtimes.tensorrt import api, cuda, device
    from vidrisk.runtimes.tensorrt.build.builder import BuildOptions, Built, build_engine
    from vidrisk.runtimes.tensorrt.cache import Batches

    memory = fake_cuda.FakeCuda()
    memory.memory_bytes = MEMORY_BYTES
    trt = fake_cuda.FakeTensorRt(memory, batches=Batches())
    here = replace(fake_cuda.DEVICE, total_bytes=MEMORY_BYTES, free_bytes=MEMORY_BYTES)

    def build(path: Path, inputs: Sequence[Any], of: Any, on: Any, options: BuildOptions, *rest: Any) -> Built:
        return Built(memoryview(path.read_bytes()), options.batches, "{}", 0.01)

    pairs: list[tuple[Any, Any]] = [
        (api.open_api, lambda kind=None: trt.api),
        (api.find_installed_kinds, lambda: ("tensorrt",)),
        (cuda.open_cuda, lambda: memory),
        (device.current_device, lambda: here),
        (gpu.visible_gpu, lambda: here.name),
        (build_engine, build),
    ]
    fakes = {id(real): fake for real, fake in pairs}
    for name, module in list(sys.modules.items()):  # also where they have been imported by name
        if module is not None and name not in REAL:
            for attribute, value in list(vars(module).items()):
                if id(value) in fakes:
                    setattr(module, attribute, fakes[id(value)])


def main() -> None:
    from vidrisk.cli.app import main as vidrisk_main

    fake_gpu()
    vidrisk_main()


if __name__ == "__main__":
    main()
