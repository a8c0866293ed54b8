"""Tests of TimeSformer on windows of any length and size, from checkpoints in their published form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from backbones import TIMESFORMER_SIZES, WINDOW

from vidrisk.models.encoders import build_encoder
from vidrisk.runtimes.contract.errors import SettingsError

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 64, 64), (3, 64, 64), (8, 64, 64), (6, 48, 32), (6, 32, 128)]
)
def test_other_windows_get_the_positions_that_transformers_takes(
    backbone_folder: Make, clips: Make, frames: int, height: int, width: int
) -> None:
    folder = backbone_folder("timesformer")
    encoder = build_encoder(str(folder), pixel={"height": height, "width": width}, frames=frames)
    own = transformers.TimesformerModel.from_pretrained(folder).eval()
    own.config.num_frames, own.config.image_size = frames, width  # its layers divide by them
    windows = torch.from_numpy(clips(2, frames, side=128))[:, :, :height, :width]
    with torch.inference_mode():
        features = encoder(windows)
        if (frames, height, width) == (6, 32, 128):  # as many patches as 64x64: it takes them for these, row by row
            own.embeddings.position_embeddings = encoder.backbone.embeddings.position_embeddings
        expected = own(encoder._pixels(windows)).last_hidden_state[:, 0]
    torch.testing.assert_close(features, expected)


def test_a_wide_window_is_no_square_one(backbone_folder: Make) -> None:
    """A wide window has as many patches as a square one, but at other positions."""
    folder = str(backbone_folder("timesformer"))
    positions = [
        build_encoder(folder, pixel=pixel, frames=WINDOW).backbone.embeddings.position_embeddings
        for pixel in ({}, {"height": 32, "width": 128})
    ]
    square, wide = (one[0, 1:].unflatten(0, shape) for one, shape in zip(positions, ((4, 4), (2, 8)), strict=True))
    assert torch.equal(wide, square[[0, 2]][:, [0, 0, 1, 1, 2, 2, 3, 3]])


def test_a_fine_tuned_classifier_is_taken_without_its_classifier(
    backbone_folder: Make, clips: Make, tmp_path: Path
) -> None:
    folder = backbone_folder("timesformer")
    config = transformers.TimesformerConfig(**TIMESFORMER_SIZES, num_labels=5)
    classifier = transformers.TimesformerForVideoClassification(config)
    classifier.timesformer.load_state_dict(transformers.TimesformerModel.from_pretrained(folder).state_dict())
    classifier.save_pretrained(tmp_path)
    shutil.copy(folder / "preprocessor_config.json", tmp_path)
    windows = torch.from_numpy(clips(2, WINDOW))
    with torch.inference_mode():
        found, expected = (build_encoder(str(one), frames=WINDOW)(windows) for one in (tmp_path, folder))
    assert torch.equal(found, expected)


def changed(folder: Path, to: Path, **values: Any) -> str:
    """Write the configuration with other values and random weights that fit, and return the folder."""
    config = json.loads((folder / "config.json").read_text()) | values
    transformers.TimesformerModel(transformers.TimesformerConfig(**config)).save_pretrained(to)
    shutil.copy(folder / "preprocessor_config.json", to)
    return str(to)


def test_joint_attention_is_taken_and_attention_to_space_alone_is_not(
    backbone_folder: Make, clips: Make, tmp_path: Path
) -> None:
    folder = backbone_folder("timesformer")
    joint = changed(folder, tmp_path / "joint", attention_type="joint_space_time")
    assert build_encoder(joint, frames=6)(torch.from_numpy(clips(2, 6))).shape == (2, 64)
    space = changed(folder, tmp_path / "space", attention_type="space_only")
    with pytest.raises(
        SettingsError, match=r"^a TimeSformer of attention type 'space_only' sees frames one by one; allowed: "
    ):
        build_encoder(space, frames=WINDOW)


def test_sizes_as_pairs_and_sizes_below_a_patch(backbone_folder: Make, clips: Make, tmp_path: Path) -> None:
    folder = backbone_folder("timesformer")
    pairs = changed(folder, tmp_path / "pairs", image_size=[32, 64], patch_size=[8, 16])
    assert build_encoder(pairs, pixel={"height": 64}, frames=2)(torch.from_numpy(clips(2, 2))).shape == (2, 64)
    with pytest.raises(SettingsError, match="TimeSformer on 8x64 frames; allowed: at least 16x16; fix: set pixel"):
        build_encoder(str(folder), pixel={"height": 8}, frames=WINDOW)
