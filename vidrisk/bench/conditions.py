"""The machine, and its fastest matrix products in float32 and INT8, which encoders are compared with.

python -m vidrisk.bench.conditions THREADS      prints both peaks as JSON
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vidrisk.bench.alone import answer_of_process
from vidrisk.decode.pool import usable_cores
from vidrisk.doctor import examine
from vidrisk.runtimes.contract.errors import RuntimeFailure, VidriskError, require
from vidrisk.runtimes.openvino import load_core
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES

DESCRIBED = ("vidrisk", "processor", "memory", *BUNDLE_RUNTIMES, "PyAV", "Pillow")
SIDES = (1024, 1536)  # of the square matrices: larger than the caches, small enough for a device
BUDGET_S = 0.5  # per side: long enough for one moment without other load
# Every BLAS that numpy may be built with reads one of these when it is loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True)
class Peak:
    """The fastest matrix product, in 10⁹ multiply-accumulates per second, or None if ``how`` says why not."""

    gmac_per_s: float | None
    how: str


def describe_machine() -> dict[str, Any]:
    """Return cores, vector flags, memory and versions of this machine."""
    return {
        "cores": usable_cores(),
        "numpy": np.__version__,
        **{check.name: check.found for check in examine() if check.name in DESCRIBED and check.state == "ok"},
    }


def measure_peaks(threads: int) -> dict[str, Peak]:
    """Measure the ``fp32`` and ``int8`` peaks in a process of its own.

    numpy takes its number of threads from the environment at the start of the process.
    """
    try:
        found = answer_of_process(
            "vidrisk.bench.conditions", [str(threads)], dict.fromkeys(THREAD_VARIABLES, str(threads))
        )
    except RuntimeFailure as error:
        return dict.fromkeys(("fp32", "int8"), Peak(None, f"not measured: {error}"))
    return {name: Peak(**peak) for name, peak in found.items()}


def fp32_peak(threads: int) -> Peak:
    """Measure numpy's matrix product."""
    rng = np.random.default_rng(0)

    def seconds_of(side: int) -> Callable[[], float]:
        a, b = (rng.random((side, side), np.float32) for _ in range(2))
        product = np.empty((side, side), np.float32)

        def seconds() -> float:
            started_s = time.perf_counter()
            np.matmul(a, b, out=product)
            return time.perf_counter() - started_s

        return seconds

    return _best(seconds_of, f"numpy {np.__version__}, float32", threads)


def int8_peak(threads: int) -> Peak:
    """Measure the product of uint8 activations and int8 weights in OpenVINO.

    The engine's own timing counts the product alone, without the rounding before it. The result counts only if the
    engine reports that it ran in INT8.
    """
    try:
        ov: Any = require("openvino", "cpu")
    except VidriskError as error:
        return Peak(None, f"not measured: {error}")
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "PERF_COUNT": True,
    }
    rng = np.random.default_rng(0)
    kernels: set[str] = set()

    def seconds_of(side: int) -> Callable[[], float]:
        weights = rng.integers(-127, 128, (side, side), dtype=np.int8)
        request = load_core().compile_model(_int8_product(weights), "CPU", config).create_infer_request()
        activations = rng.integers(0, 256, (side, side)).astype(np.float32)

        def seconds() -> float:
            request.infer({0: activations}, share_inputs=True, share_outputs=True)
            slowest = max(request.get_profiling_info(), key=lambda node: node.real_time)  # the product, by far
            kernels.add(str(slowest.exec_type))
            return float(slowest.real_time.total_seconds())

        return seconds

    try:
        peak = _best(seconds_of, f"OpenVINO {ov.__version__.partition('-')[0]}, uint8 x int8", threads)
    except Exception as error:  # openvino raises RuntimeError and types of its own
        return Peak(None, f"not measured: OpenVINO failed: {error}")
    names = ", ".join(sorted(kernels))
    if not all(name.lower().endswith("i8") for name in kernels):
        return Peak(None, f"not measured: OpenVINO has no INT8 product here, it ran {names}")
    return Peak(peak.gmac_per_s, f"{peak.how}, kernel {names}")


def _int8_product(weights: Any) -> Any:
    """Return a model that rounds activations to uint8 and multiplies them by int8 weights.

    OpenVINO runs this pattern in INT8.
    """
    ov: Any = require("openvino", "cpu")
    ops: Any = require("openvino.opset13", "cpu")
    side = len(weights)
    activations = ops.parameter([side, side], np.float32)
    low, high = np.float32(0), np.float32(255)
    rounded = ops.fake_quantize(activations, low, high, low, high, 256)
    scaled = ops.multiply(
        ops.convert(ops.constant(weights), "f32"), ops.constant(np.full((side, 1), 1 / 127, np.float32))
    )
    return ov.Model([ops.matmul(rounded, scaled, False, True)], [activations])


def _best(seconds_of: Callable[[int], Callable[[], float]], what: str, threads: int) -> Peak:
    """Return the fastest of many calls over all sides."""
    best = (0.0, "")
    for side in SIDES:
        seconds = seconds_of(side)
        seconds()  # allocates and starts threads
        ends_s, times_s = time.perf_counter() + BUDGET_S, [seconds()]
        while time.perf_counter() < ends_s:
            times_s.append(seconds())
        best = max(best, (side**3 / min(times_s) / 1e9, f"{what}, {side}³, best of {len(times_s)}, threads: {threads}"))
    return Peak(round(best[0], 1), best[1])


def main() -> int:
    threads = int(sys.argv[1])
    print(json.dumps({"fp32": asdict(fp32_peak(threads)), "int8": asdict(int8_peak(threads))}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
