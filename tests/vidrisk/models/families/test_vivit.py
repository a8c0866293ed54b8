"""Tests of ViViT on windows of any length and size, from checkpoints in their published form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from backbones import VIVIT_SIZES, WINDOW

from vidrisk.models.encoders import build_encoder
from vidrisk.models.families.positions import resample_positions
from vidrisk.runtimes.contract.errors import SettingsError

Make = Callable[..., Any]
# Layers had other names when google/vivit-b-16x2-kinetics400 was published.
OLD_NAMES = {
    "layers.": "encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def test_a_published_classifier_is_taken_without_its_classifier(
    backbone_folder: Make, clips: Make, tmp_path: Path
) -> None:
    folder = backbone_folder("vivit")
    tower = transformers.VivitModel.from_pretrained(folder, add_pooling_layer=False).state_dict()
    saved = {"classifier.weight": torch.zeros(5, 64), "classifier.bias": torch.zeros(5)}
    for name, value in tower.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        saved[f"vivit.{name}"] = value
    assert "vivit.encoder.layer.2.attention.attention.query.weight" in saved
    safetensors.torch.save_file(saved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    transformers.VivitConfig(
        **VIVIT_SIZES, num_labels=5, architectures=["VivitForVideoClassification"]
    ).save_pretrained(tmp_path)
    shutil.copy(folder / "preprocessor_config.json", tmp_path)
    windows = torch.from_numpy(clips(2, WINDOW))
    with torch.inference_mode():
        found, expected = (build_encoder(str(one), frames=WINDOW)(windows) for one in (tmp_path, folder))
    assert torch.equal(found, expected)


def test_positions_are_interpolated_over_time_and_space() -> None:
    """Positions that form a linear ramp form a linear ramp after interpolation.

    The centres of the new tokens keep their places between the centres of the old tokens.
    """

    def middles(count: int) -> torch.Tensor:
        return (torch.arange(count) + 0.5) / count

    def ramps(grid: tuple[int, int, int]) -> torch.Tensor:
        places = torch.meshgrid(*map(middles, grid), indexing="ij")
        return torch.stack([place.flatten() for place in places], dim=1)

    old, new = (8, 4, 6), (4, 3, 3)  # coarser: every new middle is inside
    first = torch.tensor([[7.0, 8.0, 9.0]])
    found = resample_positions(torch.cat([first, ramps(old)])[None], old, new, "trilinear", class_tokens=1)
    torch.testing.assert_close(found[0], torch.cat([first, ramps(new)]))
    assert resample_positions(found, new, list(new), "trilinear", class_tokens=1) is found


def test_positions_of_another_window_are_those_of_the_same_places(backbone_folder: Make) -> None:
    folder = str(backbone_folder("vivit"))
    own, longer = (
        build_encoder(folder, frames=frames).backbone.embeddings.position_embeddings for frames in (WINDOW, 3 * WINDOW)
    )
    assert own.shape == (1, 1 + 2 * 16, 64) and longer.shape == (1, 1 + 6 * 16, 64)
    expected = torch.lerp(own[:, 1:17], own[:, 17:], 1 / 3)  # 2.5 / 6 lies there between 0.5 / 2 and 1.5 / 2
    torch.testing.assert_close(longer[:, 1 + 2 * 16 : 1 + 3 * 16], expected)


def test_tubelets_of_another_length_and_frames_below_a_tubelet(
    backbone_folder: Make, clips: Make, tmp_path: Path
) -> None:
    folder = backbone_folder("vivit")
    sizes = {"tubelet_size": [4, 16, 8], "num_frames": 8, "image_size": [64, 32]}
    config = json.loads((folder / "config.json").read_text()) | sizes
    transformers.VivitModel(transformers.VivitConfig(**config)).save_pretrained(tmp_path)
    shutil.copy(folder / "preprocessor_config.json", tmp_path)
    assert build_encoder(str(tmp_path), frames=WINDOW)(torch.from_numpy(clips(2, WINDOW))[:, :, :, :32]).shape == (
        2,
        64,
    )
    with pytest.raises(
        SettingsError, match="windows of 6 frames for a ViViT whose tokens cover 4; allowed: multiples of 4; fix"
    ):
        build_encoder(str(tmp_path), frames=6)
    with pytest.raises(SettingsError, match="ViViT on 64x8 frames; allowed: at least 16x16; fix: set pixel"):
        build_encoder(str(folder), pixel={"width": 8}, frames=WINDOW)
