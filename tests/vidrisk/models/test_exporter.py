"""Dummy inputs come from optimum's exporter configurations, with our families registered in it."""

from __future__ import annotations

import pytest
import torch
from optimum.exporters.tasks import TasksManager

from vidrisk.models.exporter import BACKEND, TASK, dummy_frames
from vidrisk.models.families import FAMILIES


@pytest.mark.parametrize("family", sorted({family.name for family in FAMILIES.values()}))
def test_dummy_frames_are_what_a_reader_yields(family: str) -> None:
    config = TasksManager.get_exporter_config_constructor(BACKEND, task=TASK, model_type=family, library_name="transformers")(None)
    assert config.outputs == {"features": {0: "batch"}}
    assert list(config.inputs) == ["frames"]
    shape = (3, 4, 48, 64) if FAMILIES[family].per == "window" else (3, 48, 64)
    frames = dummy_frames(FAMILIES[family], shape)
    assert frames.shape == (*shape, 3)
    assert frames.dtype == torch.uint8
    assert torch.equal(frames, dummy_frames(FAMILIES[family], shape))
