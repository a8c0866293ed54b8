"""Tests of specs: contradictory ones are refused when created, and arrays that do not fit when checked."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.runtimes import PixelSpec, TensorSpec, TimeSpec
from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.contract.specs import DTYPES, MAX_FRAMES, MAX_SIDE_PX

positive_s = st.floats(0.001, 1e4)


@given(st.integers(1, MAX_SIDE_PX), st.integers(1, MAX_SIDE_PX))
def test_pixel_spec_takes_every_size_it_allows(height: int, width: int) -> None:
    assert PixelSpec(height, width).frame_shape == (height, width, 3)


@given(st.integers().filter(lambda n: not 1 <= n <= MAX_SIDE_PX), st.booleans())
def test_pixel_spec_refuses_other_sizes(side: int, tall: bool) -> None:
    with pytest.raises(SpecError, match=f"allowed: 1 to {MAX_SIDE_PX} pixels"):
        PixelSpec(side, 8) if tall else PixelSpec(8, side)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("height", 224.0, "1 to 2048"),
        ("width", "224", "1 to 2048"),
        ("resize", "stretch", "squash, crop, pad"),
        ("interpolation", "nearest", "bilinear, bicubic"),
        ("crop_fraction", 0.0, "0.1 to 1"),
        ("crop_fraction", 1.01, "0.1 to 1"),
        ("crop_fraction", float("nan"), "0.1 to 1"),
        ("crop_fraction", "1", "0.1 to 1"),
        ("mean", (0.5, 0.5), "three finite"),
        ("mean", 0.5, "three finite"),
        ("std", (1.0, 1.0, 1.0, 1.0), "three finite"),
        ("mean", (0.5, float("nan"), 0.5), "finite"),
        ("mean", ("r", "g", "b"), "finite"),
        ("std", (1.0, 0.0, 1.0), "above 0"),
        ("std", (1.0, float("inf"), 1.0), "finite"),
    ],
)
def test_pixel_spec_names_what_it_allows(field: str, value: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        PixelSpec(**{field: value})


def test_pixel_spec_keeps_lists_as_tuples() -> None:
    spec = PixelSpec(mean=[0.1, 0.2, 0.3], std=[1, 1, 1])  # type: ignore[arg-type]
    assert spec == PixelSpec(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)) and hash(spec)


def test_specs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PixelSpec().height = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        TimeSpec().frames = 1  # type: ignore[misc]


@given(st.integers(1, MAX_FRAMES), positive_s, st.floats(0.01, 1))
def test_time_spec_rate_is_frames_per_window(frames: int, window_s: float, part: float) -> None:
    spec = TimeSpec(frames, window_s, window_s * part)
    assert spec.fps == pytest.approx(frames / window_s)
    assert TimeSpec(**asdict(spec)) == spec
    assert TimeSpec(frames).fps is None


@given(positive_s, st.floats(1.01, 100))
def test_time_spec_refuses_strides_that_lose_moments(window_s: float, factor: float) -> None:
    with pytest.raises(SpecError, match="moments between windows would be lost"):
        TimeSpec(8, window_s, window_s * factor)


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 0},
        {"frames": MAX_FRAMES + 1},
        {"frames": 2.5},
        {"frames": "8"},
        {"window_s": 0.0},
        {"window_s": -1.0},
        {"window_s": float("nan")},
        {"window_s": float("inf")},
        {"window_s": "1"},
        {"window_s": 1.0, "stride_s": 0.0},
        {"stride_s": 1.0},
    ],
)
def test_time_spec_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="allowed: "):
        TimeSpec(**options)


axes = st.one_of(st.integers(1, 5), st.sampled_from(["batch", "time", "width"]))
tensor_specs = st.builds(
    TensorSpec, st.sampled_from(["frames", "features"]), st.sampled_from(DTYPES), st.lists(axes, max_size=5).map(tuple)
)


@given(tensor_specs, st.dictionaries(st.sampled_from(["batch", "time", "width"]), st.integers(1, 4)))
def test_tensor_spec_accepts_what_it_describes_and_binds_its_axes(spec: TensorSpec, bound: dict[str, int]) -> None:
    lengths = {name: bound.get(name, 2) for name in spec.shape if isinstance(name, str)}
    array = np.zeros([lengths[a] if isinstance(a, str) else a for a in spec.shape], spec.dtype)
    found = dict(bound)
    spec.check(array, found)
    assert found == bound | lengths
    for name in lengths:
        with pytest.raises(SpecError, match=f"axis '{name}' should be 9"):
            spec.check(array, bound | {name: 9})


@given(tensor_specs)
def test_tensor_spec_refuses_another_rank_and_dtype(spec: TensorSpec) -> None:
    shape = [2 if isinstance(a, str) else a for a in spec.shape]
    with pytest.raises(SpecError, match="has shape"):
        spec.check(np.zeros([*shape, 1], spec.dtype), {})
    with pytest.raises(SpecError, match=f"is float64; allowed: {spec.dtype}"):
        spec.check(np.zeros(shape, np.float64), {})


def test_tensor_spec_refuses_an_axis_that_contradicts_itself() -> None:
    square = TensorSpec("m", "float32", ("n", "n"))
    square.check(np.zeros((3, 3), np.float32), {})
    with pytest.raises(SpecError, match=r"m has shape \(3, 4\), axis 'n' should be 3; allowed: \[n, n\]"):
        square.check(np.zeros((3, 4), np.float32), {})
    with pytest.raises(SpecError, match="axis 3 should be 3"):
        TensorSpec("rgb", "uint8", (3,)).check(np.zeros(4, np.uint8), {})


def test_tensor_spec_repr_shows_the_shape() -> None:
    assert (
        repr(TensorSpec("frames", "uint8", ("batch", 224, 224, 3))) == "TensorSpec(frames: uint8[batch, 224, 224, 3])"
    )


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("", "uint8", (1,)),
        ("x", "float64", (1,)),
        ("x", "uint8", (0,)),
        ("x", "uint8", (-1,)),
        ("x", "uint8", ("",)),
        ("x", "uint8", (1.0,)),
    ],
)
def test_tensor_spec_refuses_nonsense(name: str, dtype: str, shape: tuple[Any, ...]) -> None:
    with pytest.raises(SpecError):
        TensorSpec(name, dtype, shape)
