"""The architectures under test, one entry each; tests of models, training and export run over all of them.

They are the real architectures at small size, saved as their users save them: 64 px, patch 16, width 64,
3 layers, random weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SIDE_PX = 64
WINDOW = 4  # frames, for backbones that see whole windows: two tubelets
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5,) * 3, (0.5,) * 3
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": SIDE_PX,
    "patch_size": 16,
}
VIDEOMAE_SIZES: dict[str, Any] = {
    **SIZES,
    "num_frames": WINDOW,
    "decoder_num_hidden_layers": 1,
    "decoder_hidden_size": 32,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}
VJEPA2_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "mlp_ratio": 2.0,
    "crop_size": SIDE_PX,
    "patch_size": 16,
    "frames_per_clip": WINDOW,
    "pred_hidden_size": 32,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
}
TIMESFORMER_SIZES: dict[str, Any] = {**SIZES, "num_frames": WINDOW}
VIVIT_SIZES: dict[str, Any] = {**SIZES, "num_frames": WINDOW, "tubelet_size": [2, 16, 16]}
del VIVIT_SIZES["patch_size"]


@dataclass(frozen=True)
class Backbone:
    """The settings with which a model of a family is saved.

    Attributes:
        config_class, model_class: names of classes in transformers.
        processor: type of the image processor.
        normalisation: mean and deviation on the 0–1 scale, as in published checkpoints.
        preprocessor: name of the file that holds them.
        processing: further settings in that file.
        lora: number of layers that LoRA adapts in a block.
        softmaxes: number of softmaxes in a block.
    """

    config_class: str
    model_class: str
    processor: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    sizes: dict[str, Any] = field(default_factory=lambda: SIZES)
    preprocessor: str = "preprocessor_config.json"
    sees_windows: bool = False
    processing: dict[str, Any] = field(default_factory=dict)
    lora: int = 6
    softmaxes: int = 1

    @property
    def mean(self) -> tuple[float, ...]:
        return self.normalisation[0]

    @property
    def std(self) -> tuple[float, ...]:
        return self.normalisation[1]


EMBEDDED = "efficientnet-lite0"
BACKBONES: dict[str, Backbone] = {
    "clip_vision_model": Backbone(
        "CLIPVisionConfig", "CLIPVisionModel", "CLIPImageProcessor", ((0.481, 0.458, 0.408), (0.269, 0.261, 0.276))
    ),
    "dinov2": Backbone("Dinov2Config", "Dinov2Model", "BitImageProcessor", IMAGENET),
    "dinov3_vit": Backbone(
        "DINOv3ViTConfig",
        "DINOv3ViTModel",
        "DINOv3ViTImageProcessorFast",
        ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143)),
    ),
    "siglip_vision_model": Backbone("SiglipVisionConfig", "SiglipVisionModel", "SiglipImageProcessor", HALVES),
    "timesformer": Backbone(
        "TimesformerConfig",
        "TimesformerModel",
        "VideoMAEImageProcessor",
        ((0.45,) * 3, (0.225,) * 3),
        TIMESFORMER_SIZES,
        sees_windows=True,
        lora=7,
        softmaxes=2,
    ),
    "videomae": Backbone(
        "VideoMAEConfig", "VideoMAEModel", "VideoMAEImageProcessor", IMAGENET, VIDEOMAE_SIZES, sees_windows=True
    ),
    "vit": Backbone("ViTConfig", "ViTModel", "ViTImageProcessor", HALVES),
    "vivit": Backbone(
        "VivitConfig",
        "VivitModel",
        "VivitImageProcessor",
        HALVES,
        VIVIT_SIZES,
        sees_windows=True,
        processing={"rescale_factor": 1 / 127.5, "offset": True, "do_normalize": False},
    ),
    "vjepa2": Backbone(
        "VJEPA2Config",
        "VJEPA2Model",
        "VJEPA2VideoProcessor",
        IMAGENET,
        VJEPA2_SIZES,
        "video_preprocessor_config.json",
        sees_windows=True,
    ),
}
TRANSFORMERS = list(BACKBONES)
FRAME_TRANSFORMERS = [name for name, backbone in BACKBONES.items() if not backbone.sees_windows]
WINDOW_TRANSFORMERS = [name for name, backbone in BACKBONES.items() if backbone.sees_windows]
FAMILIES = [*TRANSFORMERS, EMBEDDED]
FRAME_FAMILIES = [*FRAME_TRANSFORMERS, EMBEDDED]
