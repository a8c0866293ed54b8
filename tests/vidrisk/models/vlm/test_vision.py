"""The fixed grid equals transformers' own towers on the pixels that their own processors give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from vlm_references import Reference
from vlms import QWEN

from vidrisk.models.families import FAMILIES, Source
from vidrisk.models.vlm.vision import FixedGridVision
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec

Make = Callable[..., Path]
EDGES = {"qwen2_5_vl": 28, "qwen3_vl": 32}
# Merged tokens down and across; windows of Qwen2.5-VL are 2 x 2 of them.
GRIDS = {
    "unequal windows": (5, 4),
    "equal windows": (4, 4),
    "one token": (1, 1),
    "one window": (2, 2),
    "wide": (2, 6),
    "narrow, unequal": (5, 1),
    "larger than the table of positions": (5, 6),
}
CASES = [(model_type, grid) for model_type in QWEN for grid in GRIDS]


def vision_of(reference: Reference, folder: Path, model_type: str, grid: tuple[int, int]) -> FixedGridVision:
    edge = EDGES[model_type]
    spec = FAMILIES[model_type].pixel(Source(str(folder)))
    pixel = PixelSpec(grid[0] * edge, grid[1] * edge, mean=spec.mean, std=spec.std)
    return FixedGridVision(reference.model.model.visual, pixel).eval()


def noise(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@torch.inference_mode()
def tower_tokens(tower: Any, patches: Tensor, grid: Tensor) -> Tensor:
    """Return the merged tokens of all images, concatenated with those of DeepStack."""
    output = tower(patches.to(tower.dtype), grid_thw=grid)
    return torch.cat([output.pooler_output, *getattr(output, "deepstack_features", ())], dim=-1)


@pytest.mark.parametrize(("model_type", "grid"), CASES)
def test_a_clip_of_three_groups_is_seen_as_by_transformers(qwen_folder: Make, model_type: str, grid: str) -> None:
    reference = Reference.of(qwen_folder(model_type), model_type)
    vision = vision_of(reference, qwen_folder(model_type), model_type, GRIDS[grid])
    frames = noise(6, vision.rows * vision.patch, vision.columns * vision.patch, 3)
    inputs = reference.inputs(frames)
    expected = tower_tokens(reference.model.model.visual, inputs["pixel_values_videos"], inputs["video_grid_thw"])
    with torch.inference_mode():
        found = vision(torch.from_numpy(frames).unflatten(0, (3, 2)))
    assert found.shape == (3, vision.height * vision.width, expected.shape[-1]) and expected.std() > 0.1
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("model_type", "grid"), CASES)
def test_two_photos_at_once_are_seen_as_by_transformers(qwen_folder: Make, model_type: str, grid: str) -> None:
    """Two photos in one call give the same tokens as in transformers.

    A photo is one frame, doubled; several photos are packed one after another.
    """
    reference = Reference.of(qwen_folder(model_type), model_type)
    vision = vision_of(reference, qwen_folder(model_type), model_type, GRIDS[grid])
    photos = noise(2, vision.rows * vision.patch, vision.columns * vision.patch, 3)
    inputs = [reference.inputs(photo) for photo in photos]
    expected = tower_tokens(
        reference.model.model.visual,
        torch.cat([each["pixel_values"] for each in inputs]),
        torch.cat([each["image_grid_thw"] for each in inputs]),
    )
    with torch.inference_mode():
        found = vision(torch.from_numpy(photos))
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=1e-4, atol=2e-5)


def test_windows_matter_and_are_told_apart(qwen_folder: Make) -> None:
    """A pixel of one window affects other windows only in layers of full attention."""
    folder = qwen_folder("qwen2_5_vl")
    reference = Reference.of(folder, "qwen2_5_vl")
    vision = vision_of(reference, folder, "qwen2_5_vl", (4, 4))
    assert (vision.window, vision.window_mask) == (16, None)
    assert vision_of(reference, folder, "qwen2_5_vl", (5, 4)).window_mask is not None
    vision.full_layers = set()
    photo = torch.from_numpy(noise(1, 112, 112, 3))
    other = photo.clone()
    other[:, :56, :56] = 255 - other[:, :56, :56]
    with torch.inference_mode():
        moved = (vision(photo) - vision(other)).abs().amax(-1).reshape(4, 4) > 1e-6
    assert moved[:2, :2].all() and moved.sum() == 4


@pytest.mark.parametrize("model_type", QWEN)
def test_a_tower_in_bfloat16_is_as_exact_as_transformers_own(qwen_folder: Make, model_type: str) -> None:
    folder = qwen_folder(model_type)
    exact, reference = Reference.of(folder, model_type), Reference.of(folder, model_type, dtype="bfloat16")
    vision = vision_of(reference, folder, model_type, (5, 4))
    frames = noise(4, vision.rows * vision.patch, vision.columns * vision.patch, 3)
    inputs = reference.inputs(frames)
    arguments = inputs["pixel_values_videos"], inputs["video_grid_thw"]
    expected = tower_tokens(exact.model.model.visual, *arguments)
    theirs = (tower_tokens(reference.model.model.visual, *arguments).float() - expected).square().mean().sqrt()
    with torch.inference_mode():
        found = vision(torch.from_numpy(frames).unflatten(0, (2, 2)))
    assert found.dtype == torch.float32
    ours = (found.flatten(0, 1) - expected).square().mean().sqrt()
    assert 0 < ours < 1.5 * theirs < 0.1 * expected.std()


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        (
            "qwen2_5_vl",
            r"frames of 100x64 for \w+; allowed: multiples of 28 pixels; fix: set pixel.height 112 and pixel.width 56",
        ),
        (
            "qwen3_vl",
            r"frames of 100x64 for \w+; allowed: multiples of 32 pixels; fix: set pixel.height 96 and pixel.width 64",
        ),
    ],
)
def test_a_size_that_is_no_whole_number_of_tokens_is_refused(qwen_folder: Make, model_type: str, said: str) -> None:
    tower = Reference.of(qwen_folder(model_type), model_type).model.model.visual
    with pytest.raises(SettingsError, match=said):
        FixedGridVision(tower, PixelSpec(100, 64))
