"""The registry: optimum's, with our families in it."""

from __future__ import annotations

import pytest
import torch

from vidrisk.export.registry import exportable_families, exporter_config
from vidrisk.runtimes.errors import SettingsError


@pytest.mark.parametrize(
    "family", ["clip_vision_model", "siglip_vision_model", "dinov2", "dinov3_vit", "vit", "efficientnet-lite0"]
)
def test_dummy_frames_are_what_a_reader_yields(family: str) -> None:
    config = exporter_config(family, None)
    frames = config.generate_dummy_inputs(batch_size=3, height=48, width=64)
    assert list(frames) == list(config.inputs) == ["frames"]
    assert frames["frames"].shape == (3, 48, 64, 3)
    assert frames["frames"].dtype == torch.uint8
    assert config.outputs == {"features": {0: "batch"}}
    assert torch.equal(frames["frames"], config.generate_dummy_inputs(batch_size=3, height=48, width=64)["frames"])


@pytest.mark.parametrize("family", ["beit", "bert", "", "no such thing"])
def test_unknown_families_say_how_to_register(family: str) -> None:
    with pytest.raises(SettingsError, match=r"register a configuration in export/registry\.py") as caught:
        exporter_config(family, None)
    assert len(str(caught.value).splitlines()) == 1
    assert ", ".join(exportable_families()) in str(caught.value)
