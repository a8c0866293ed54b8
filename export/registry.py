"""What can be exported, and with which dummy inputs: optimum's exporter configurations, registered for our backend.

Optimum's ``TasksManager`` is the registry; a family is one class of a few lines here. Every encoder takes
``frames: uint8 (batch, height, width, 3)`` and gives ``features: float32 (batch, width)``.
"""

from __future__ import annotations

from typing import Any

import torch
from optimum.exporters.base import ExporterConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import DummyVisionInputGenerator, NormalizedVisionConfig

from vidrisk.runtimes.errors import SettingsError

BACKEND = "vidrisk"
TASK = "feature-extraction"
MAX_OPSET = 20  # TensorRT 10.3 (JetPack 6) reads no newer one

register = TasksManager.create_register(BACKEND)


class DummyFrames(DummyVisionInputGenerator):  # type: ignore[misc]
    """Noise as ``uint8 (batch, height, width, 3)``: what a frame reader yields."""

    SUPPORTED_INPUT_NAMES = ("frames",)

    def generate(self, input_name: str, framework: str = "pt", int_dtype: str = "int64",
                 float_dtype: str = "fp32") -> torch.Tensor:
        shape = (self.batch_size, self.height, self.width, 3)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@register("clip_vision_model", TASK)
@register("siglip_vision_model", TASK)  # SigLIP and the fixed-resolution SigLIP 2
@register("dinov2", TASK)
@register("dinov3_vit", TASK)
@register("vit", TASK)
@register("efficientnet-lite0", TASK)
class FrameEncoderConfig(ExporterConfig):  # type: ignore[misc]
    """Encoders of one frame at a time."""

    NORMALIZED_CONFIG_CLASS = NormalizedVisionConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyFrames,)
    ATOL_FOR_VALIDATION = 1e-3

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {"frames": {0: "batch"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {"features": {0: "batch"}}


def exporter_config(family: str, backbone_config: Any) -> FrameEncoderConfig:
    """The export configuration of an encoder family.

    Args:
        family: the backbone's model_type.
        backbone_config: its Hugging Face configuration, or any object where there is none.

    Raises:
        SettingsError: nobody has registered the family.
    """
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            BACKEND, task=TASK, model_type=family, library_name="transformers")
    except (KeyError, ValueError) as error:
        raise SettingsError(f"no export is known for backbone family {family!r}", allowed=", ".join(exportable_families()),
                            fix="register a configuration in export/registry.py (CONTRIBUTING: adding a backbone)") from error
    config: FrameEncoderConfig = constructor(backbone_config)
    return config


def exportable_families() -> list[str]:
    return sorted(TasksManager.get_supported_model_type_for_task(TASK, BACKEND))
