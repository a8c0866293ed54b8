"""Tests of vision tower inputs: numpy computes the same values as transformers with torch."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import vision_utils
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from vidrisk.runtimes import vision_grid
from vidrisk.runtimes.vision_grid import patches_from_frames, vision_inputs_from_grid

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PATCH = 14
Grids = list[tuple[int, int, int]]


def grids(merge: int) -> st.SearchStrategy[Grids]:
    side = st.integers(1, 13).map(lambda tokens: merge * tokens)
    return st.lists(st.tuples(st.integers(1, 4), side, side), min_size=1, max_size=4)


def reference(grid: Grids, merge: int, window: int, table: int) -> dict[str, npt.NDArray[Any]]:
    given_grid = torch.tensor(grid)
    order, ends = vision_utils.get_vision_window_index(given_grid, merge, window * merge * PATCH, PATCH)
    indices, weights = vision_utils.get_vision_interpolation_indices_and_weights(
        given_grid, table, mode="bilinear", align_corners=True, spatial_merge_size=merge
    )
    found = {
        "position_ids": vision_utils.get_vision_position_ids(given_grid, merge),
        "cu_seqlens": vision_utils.get_vision_cu_seqlens(given_grid).long(),
        "window_index": order,
        "cu_window_seqlens": ends.long(),
        "interp_indices": indices,
        "interp_weights": weights,
    }
    return {name: tensor.numpy() for name, tensor in found.items()}


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 3).flatmap(lambda merge: st.tuples(st.just(merge), grids(merge))),
    st.integers(1, 5),
    st.integers(1, 60),
)
def test_indices_are_those_of_transformers_to_the_bit(drawn: tuple[int, Grids], window: int, table: int) -> None:
    merge, grid = drawn
    found = vision_inputs_from_grid(grid, merge=merge, window=window, table=table)
    expected = reference(grid, merge, window, table)
    assert list(found) == list(expected)
    for name, wanted in expected.items():
        assert found[name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[name], wanted, err_msg=name)


def test_a_tower_without_windows_or_table_has_no_indices_of_them() -> None:
    assert set(vision_inputs_from_grid([[1, 4, 4]], merge=2)) == {"position_ids", "cu_seqlens"}
    assert "interp_indices" not in vision_inputs_from_grid(np.array([[1, 4, 4]], np.int32), merge=2, window=4)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ([[1, 4, 5]], r"a grid of 4 x 5 patches; allowed: multiples of 2; fix: resize frames"),
        ([[1, 4, 4], [2, 3, 6]], "a grid of 3 x 6 patches"),
        ([1, 4, 4], r"a grid of int64 \(3,\); allowed: positive integers \(images, 3\)"),
        ([[1.0, 4.0, 4.0]], "a grid of float64"),
        ([[0, 4, 4]], "allowed: positive integers"),
        ([[1, 4]], r"\(1, 2\)"),
        (np.empty((0, 3), np.int64), r"\(0, 3\)"),
    ],
)
def test_a_grid_that_makes_no_sense_is_one_line(grid: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        vision_inputs_from_grid(grid, merge=2, window=4)
    assert "\n" not in str(error.value) and "fix: " in str(error.value)


def frames(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(56, 84), (28, 28), (140, 56)])
def test_patches_of_an_image_are_those_of_its_processor(size: tuple[int, int]) -> None:
    photo = frames(*size, 3)
    processor = Qwen2VLImageProcessorPil(image_mean=list(MEAN), image_std=list(STD))
    expected = processor(images=[photo], return_tensors="np", do_resize=False, input_data_format="channels_last")
    found, grid = patches_from_frames(photo, patch=PATCH, merge=2, frames_per_patch=2, mean=MEAN, std=STD)
    assert (
        [list(grid)] == expected["image_grid_thw"].tolist() and found.dtype == np.float32 and found.flags.c_contiguous
    )
    np.testing.assert_allclose(found, expected["pixel_values"], atol=1e-5)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_patches_of_a_video_are_those_of_its_processor(count: int) -> None:
    """Patches of a video equal the output of the processor's ``patchify``, which runs here without torchvision.

    The frames are normalised, and the last one is repeated up to a whole number of moments.
    """
    clip = frames(count, 56, 84, 3)
    normalised = (np.concatenate([clip, clip[-1:]])[: count + count % 2] / 255 - np.array(MEAN)) / np.array(STD)
    video = torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float()[None]
    expected, *size = Qwen3VLVideoProcessor.patchify(object(), video, PATCH, 2, 2)
    found, grid = patches_from_frames(clip, patch=PATCH, merge=2, frames_per_patch=2, mean=MEAN, std=STD)
    assert list(grid) == size == [(count + 1) // 2, 4, 6]
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "shown",
    [
        frames(2, 30, 28, 3),
        frames(28, 28, 4),
        frames(2, 28, 28, 3).astype(np.float32),
        frames(0, 28, 28, 3),
        frames(28, 28),
    ],
)
def test_frames_that_cannot_be_cut_are_one_line(shown: npt.NDArray[Any]) -> None:
    with pytest.raises(
        ValueError, match=r"allowed: uint8 \(T, H, W, 3\) with H and W multiples of 28; fix: resize them first"
    ):
        patches_from_frames(shown, patch=PATCH, merge=2, frames_per_patch=2, mean=MEAN, std=STD)


def test_the_file_works_alone() -> None:
    """The file imports only numpy and the standard library, because exports copy it beside their towers."""
    tree = ast.parse(Path(vision_grid.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names) == {"numpy"}
