from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vidrisk import __version__
from vidrisk.bench import conditions as machine
from vidrisk.bench.conditions import Peak, describe_machine, fp32_peak, int8_peak, measure_peaks
from vidrisk.decode.pool import usable_cores
from vidrisk.runtimes.contract.errors import RuntimeFailure


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SIDES", (256, 512))


def test_the_machine_is_described() -> None:
    told = describe_machine()
    assert told["cores"] == usable_cores() >= 1
    assert __version__ in told["vidrisk"] and "cores" in told["processor"] and told["numpy"] == np.__version__


def test_float_peak() -> None:
    peak = fp32_peak(1)
    assert peak.gmac_per_s is not None and 0.1 < peak.gmac_per_s < 1e5
    assert "numpy" in peak.how and "best of" in peak.how and "threads: 1" in peak.how


def test_int8_peak_says_which_kernel_ran() -> None:
    pytest.importorskip("openvino")
    peak = int8_peak(1)
    if peak.gmac_per_s is None:  # a processor without integer kernels
        assert peak.how.startswith("not measured")
    else:
        assert peak.gmac_per_s > 0.1 and peak.how.lower().endswith("i8")


def test_a_product_that_ran_in_float_is_no_int8_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")

    def float_product(weights: Any) -> Any:
        import openvino as ov
        from openvino import opset13 as ops

        activations = ops.parameter(list(weights.shape), np.float32)
        return ov.Model([ops.matmul(activations, ops.constant(weights.astype(np.float32)), False, True)], [activations])

    monkeypatch.setattr(machine, "_int8_product", float_product)
    peak = int8_peak(1)
    assert peak.gmac_per_s is None and "no INT8 product here" in peak.how


def test_peaks_that_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(module: str, *arguments: object) -> None:
        raise RuntimeFailure("its process was ended by SIGILL")

    monkeypatch.setattr(machine, "answer_of_process", fails)
    assert measure_peaks(1) == dict.fromkeys(
        ("fp32", "int8"), Peak(None, "not measured: its process was ended by SIGILL")
    )
