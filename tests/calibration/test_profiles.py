"""Tests of the rounding of scales to values that the engines of a profile can hold."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.calibration.profiles import PROFILES

SMALLEST_NORMAL, LARGEST = float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)
floats = st.floats(2**-60, 2**40, width=32)


@given(st.lists(floats, min_size=1, max_size=20))
def test_fp16_holds_the_scales_for_tensorrt_and_no_range_shrinks(values: list[float]) -> None:
    scales = np.array(values, np.float32)
    held = PROFILES["tensorrt"].round_scales(scales)
    assert held.dtype == np.float32 and (held >= scales).all()
    small = scales <= LARGEST
    np.testing.assert_array_equal(held[small].astype(np.float16), held[small])
    np.testing.assert_array_equal(held[~small], scales[~small])
    normal = (scales >= SMALLEST_NORMAL) & small
    np.testing.assert_allclose(held[normal], scales[normal], rtol=2**-10)
    np.testing.assert_array_equal(PROFILES["tensorrt"].round_scales(held), held)


@given(floats)
def test_processors_hold_float32(value: float) -> None:
    scales = np.array([value], np.float32)
    assert PROFILES["cpu"].round_scales(scales) is scales


def test_types_are_kept() -> None:
    assert PROFILES["tensorrt"].round_scales(np.array(0.1)).dtype == np.float64
    assert PROFILES["tensorrt"].round_scales(np.array(0.1)) == np.nextafter(np.float16(0.1), np.float16(1))
