from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vidrisk.calibration.nbits import (
    Bits,
    Codes,
    WeightGrid,
    pack_codes,
    pack_weight,
    round_groups,
    round_range,
    unpack_codes,
    weight_from_packed,
)
from vidrisk.runtimes.contract.errors import DataError, SettingsError

BITS: tuple[Bits, ...] = (4, 8)
GROUPS = (32, 64, 128)
widths = st.sampled_from(BITS)
groups_of_values = arrays(
    np.float32,
    array_shapes(min_dims=3, max_dims=3, max_side=9),
    elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False),
)


def random_weight(depth: int, width: int, seed: int = 0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(5, (depth, width)) * rng.uniform(0.1, 2, width)).astype(np.float32)


@given(widths, st.data())
def test_codes_come_out_of_bytes_as_they_went_in(bits: Bits, data: st.DataObject) -> None:
    codes = data.draw(arrays(np.uint8, array_shapes(max_dims=3, max_side=9), elements=st.integers(0, 2**bits - 1)))
    packed = pack_codes(codes, bits)
    assert packed.shape == (*codes.shape[:-1], -(-codes.shape[-1] * bits // 8))
    np.testing.assert_array_equal(unpack_codes(packed, bits, codes.shape[-1]), codes)


def test_the_first_of_two_codes_is_the_low_half_of_a_byte() -> None:
    np.testing.assert_array_equal(pack_codes(np.array([[1, 2, 15]], np.uint8), 4), [[0x21, 0x0F]])


@given(groups_of_values, widths)
def test_what_lies_in_the_range_of_its_codes_is_half_a_step_off_at_most(
    values: npt.NDArray[np.float32], bits: Bits
) -> None:
    low, high = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    codes, scales, zero_points = round_range(values, low, high, bits)
    found = (codes.astype(np.float32) - zero_points[:, None]) * scales[:, None]
    assert (np.abs(found - values) <= 0.5001 * scales[:, None] + 1e-18).all()
    np.testing.assert_array_equal(found[values == 0], 0)


@given(groups_of_values, widths)
def test_fitted_scales_leave_no_larger_error_than_the_range_does(values: npt.NDArray[np.float32], bits: Bits) -> None:
    def squared_error(parts: tuple[Codes, npt.NDArray[np.float32], Codes]) -> npt.NDArray[np.float64]:
        codes, scales, zero_points = (part.astype(np.float64) for part in parts)
        error = np.square((codes - zero_points[:, None]) * scales[:, None] - values)
        weighted: npt.NDArray[np.float64] = (error * np.square(values.astype(np.float64))).sum(axis=1)
        return weighted

    low, high = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    plain = squared_error(round_range(values, low, high, bits))
    rounding = 1e-11 * (values.astype(np.float64) ** 4).sum(axis=1)
    assert (squared_error(round_groups(values, bits)) <= plain * (1 + 1e-3) + rounding).all()


@pytest.mark.parametrize("group", GROUPS)
def test_a_fitted_range_is_better_in_4_bits_and_zero_points_serve_lopsided_groups(group: int) -> None:
    weight = random_weight(512, 64)
    values = weight.reshape(-1, group, 64)
    codes, scales, zeros = round_range(values, np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0), 4)
    plain = ((codes.astype(np.float32) - zeros[:, None]) * scales[:, None]).reshape(512, 64)
    fitted = weight_from_packed(pack_weight(weight, WeightGrid(4, group)))
    plain_error, error = (np.square(weight * (found - weight)).sum() for found in (plain, fitted))
    assert error < 0.9 * plain_error
    positive = np.abs(weight) + 1
    found = weight_from_packed(pack_weight(positive, WeightGrid(4, group)))
    assert (
        np.abs(found - positive).max() <= positive.max() / 15
    )  # with the zero in the middle, it would be twice as much


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("depth", "group"), [(32, 32), (512, 256), (96, 32), (64, 128), (16, 32), (300, 64), (100, 128), (7, 32), (1, 64)]
)
def test_a_matrix_of_any_depth_is_rounded_group_by_group(bits: Bits, depth: int, group: int) -> None:
    weight, grid = random_weight(depth, 12), WeightGrid(bits, group)
    packed = pack_weight(weight, grid)
    arrays_ = packed.codes, packed.scales, packed.zero_points
    assert (packed.depth, packed.codes.dtype, packed.zero_points.dtype) == (depth, np.uint8, np.uint8)
    assert packed.codes.shape == (12, packed.scales.shape[1], packed.group * bits // 8)
    assert sum(array.nbytes for array in arrays_) == grid.size_bytes(depth, 12)
    found = weight_from_packed(packed)
    assert found.shape == weight.shape
    for start in range(
        0, depth, packed.group
    ):  # zeros that fill up the last group change nothing: they are in every range
        part = weight[start : start + packed.group]
        alone = weight_from_packed(pack_weight(np.ascontiguousarray(part), WeightGrid(bits, packed.group)))
        np.testing.assert_allclose(found[start : start + packed.group], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("depth", "groups"),
    [
        (8, (16, 16, 16)),
        (16, (16, 16, 16)),
        (24, (32, 32, 32)),
        (32, (32, 32, 32)),
        (48, (16, 16, 16)),
        (576, (32, 64, 64)),
        (11008, (32, 64, 128)),
        (100, (32, 64, 128)),
    ],
)
def test_a_group_divides_the_inputs_where_it_can(depth: int, groups: tuple[int, ...]) -> None:
    assert tuple(WeightGrid(4, group).group_of(depth) for group in GROUPS) == groups


@pytest.mark.parametrize(("bits", "group"), [(3, 32), (16, 32), (4, 0), (4, 8), (4, 48), (8, 512), (8, -64)])
def test_refuses_bits_and_groups_that_the_operator_does_not_take(bits: Any, group: int) -> None:
    with pytest.raises(
        SettingsError, match=rf"^weights of {bits} bits in groups of {group}; allowed: 4 or 8 bits, in groups"
    ):
        WeightGrid(bits, group)


@pytest.mark.parametrize("bits", BITS)
def test_a_matrix_takes_the_group_that_was_asked_for_where_it_divides_its_inputs(bits: Bits) -> None:
    for group in (16, 32, 64, 128, 256):
        assert WeightGrid(bits, group).group_of(1024) == group


@pytest.mark.parametrize("bits", BITS)
def test_zeros_tiny_and_huge_weights(bits: Bits) -> None:
    weight = np.zeros((96, 5), np.float32)
    weight[:32, 1] = 1e-30
    weight[:, 2] = 3e38
    weight[:, 3] = np.linspace(-3e38, 3e38, 96)
    weight[5, 4] = -2.5
    found = weight_from_packed(pack_weight(weight, WeightGrid(bits, 32)))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, :2], 0)
    np.testing.assert_allclose(found[:, 2], 3e38, rtol=1e-5)
    assert np.abs(found[:, 3] - weight[:, 3]).max() <= 6e38 / (2**bits - 1)
    np.testing.assert_allclose(found[:, 4], weight[:, 4], rtol=1e-5)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_refuses_weights_that_are_not_finite(value: float) -> None:
    weight = random_weight(64, 4)
    weight[40, 3] = value
    with pytest.raises(DataError, match="weight q_proj has values that are not finite"):
        pack_weight(weight, WeightGrid(4, 32), "weight q_proj")


def test_a_large_matrix_in_a_file_is_never_in_memory_whole(tmp_path: Path) -> None:
    weight = random_weight(1024, 3000)
    weight.tofile(tmp_path / "w.bin")
    for mapped in (
        np.memmap(tmp_path / "w.bin", np.float32, "r", shape=(1024, 3000)),
        np.memmap(tmp_path / "w.bin", np.float32, "r", shape=(3000, 1024)).T,
    ):
        tracemalloc.start()
        packed = pack_weight(mapped, WeightGrid(4, 64))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 0.16 * weight.nbytes + 12 * 2**20  # the result, and what a part of it takes
        whole = pack_weight(np.array(mapped), WeightGrid(4, 64))
        np.testing.assert_array_equal(packed.codes, whole.codes)
