"""Dummy inputs to trace encoders with: optimum's exporter configurations, registered for our backend, one per family."""

from __future__ import annotations

from typing import Any

import torch
from optimum.exporters.base import ExporterConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import DummyVisionInputGenerator, NormalizedVisionConfig

from vidrisk.models.families import FAMILIES, Family

BACKEND = "vidrisk"
TASK = "feature-extraction"


class DummyFrames(DummyVisionInputGenerator):  # type: ignore[misc]
    """Noise as ``uint8 (batch, height, width, 3)``, or with an axis of T frames behind the batch: what a reader yields."""

    SUPPORTED_INPUT_NAMES = ("frames",)

    def __init__(self, task: str, normalized_config: Any, num_frames: int = 0, **options: Any) -> None:
        super().__init__(task, normalized_config, **options)
        self.moments = (num_frames,) if num_frames else ()

    def generate(self, input_name: str, framework: str = "pt", int_dtype: str = "int64",
                 float_dtype: str = "fp32") -> torch.Tensor:
        shape = (self.batch_size, *self.moments, self.height, self.width, 3)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class EncoderConfig(ExporterConfig):  # type: ignore[misc]
    """Every encoder takes ``frames`` and gives ``features``, both with a free batch."""

    NORMALIZED_CONFIG_CLASS = NormalizedVisionConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyFrames,)
    ATOL_FOR_VALIDATION = 1e-3

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {"frames": {0: "batch"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {"features": {0: "batch"}}


for _family in {family.name for family in FAMILIES.values()}:
    TasksManager.create_register(BACKEND)(_family, TASK)(EncoderConfig)


def dummy_frames(family: Family, shape: tuple[int, ...], backbone_config: Any = None) -> torch.Tensor:
    """Noise to trace an encoder with.

    Args:
        shape: batch, frames of a window (for families that see windows), height and width.
        backbone_config: the backbone's Hugging Face configuration, or None.
    """
    known = family.name in FAMILIES
    constructor = TasksManager.get_exporter_config_constructor(
        BACKEND, task=TASK, model_type=family.name, library_name="transformers") if known else EncoderConfig
    batch, *moments, height, width = shape
    options = {"num_frames": moments[0]} if moments else {}
    inputs = constructor(backbone_config).generate_dummy_inputs(batch_size=batch, height=height, width=width, **options)
    frames: torch.Tensor = inputs["frames"]
    return frames
