"""Qwen2.5-VL-3B at full or reduced size with random weights, created in memory without downloads.

The dimensions are those of the published ``config.json``. The tokenizer is a small one with Qwen's special tokens and
template (``tests/vidrisk/models/vlms.py``): a prompt has about 30 tokens more than with Qwen's own, besides 256 visual
ones.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from qwen_stages import STAGES, VALUES
from small_clips import LABELS
from transformers.initialization import no_init_weights

from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.trained import TrainedStage
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.models.pretrained import Labels, contract_from_config, resolve_config
from vidrisk.models.trainable import ModelStage
from vidrisk.models.vlm.act_classifier import VlmClassifier
from vidrisk.models.vlm.qwen import QwenVl
from vidrisk.runtimes.contract.contract import Contract, Target

FRAMES, SIDE_PX = 8, 224
LAYERS, VISION_LAYERS = 36, 32
TEXT: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 11_008,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128_000,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
}
VISION: dict[str, Any] = {
    "depth": VISION_LAYERS,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "out_hidden_size": 2048,
    "tokens_per_second": 2,
    "in_channels": 3,
}
SMALL_TEXT = {
    "vocab_size": 640,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": None,
    "eos_token_id": None,
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
}
SMALL_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "window_size": 56,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [1],
}
SMALL_SIDE_PX = 112
PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
DEVIATION = 0.02  # of weights, as their configuration says; it lets attention attend


def write_backbone(
    folder: Path, *, layers: int = LAYERS, vision_layers: int = VISION_LAYERS, small: bool = False
) -> Path:
    """Write the configurations of a backbone and its image processor, without weights.

    The small one has two layers of each kind.
    """
    text = {**TEXT, "num_hidden_layers": layers, **(SMALL_TEXT if small else {})}
    vision = {**VISION, "depth": vision_layers, **(SMALL_VISION if small else {})}
    transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True).save_pretrained(
        folder
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    return folder


def qwen_config(backbone: Path, *, small: bool = False, **settings: Any) -> TrainConfig:
    """Return a configuration with LoRA in every block of the language model and bfloat16 for frozen weights.

    ``settings`` are further settings, by dotted names.
    """
    side = SMALL_SIDE_PX if small else SIDE_PX
    defaults = {
        "frames": FRAMES,
        "pixel": {"height": side, "width": side},
        "lora.last_blocks": None,
        "augment": [],
        "vlm.weights": "bfloat16",
    }
    return resolve_config(config_from_options(None, (), {**defaults, **settings}, backbone=str(backbone)), clips=True)


def clip_contract(config: TrainConfig) -> Contract:
    return contract_from_config(config, Labels(targets=(Target(name="action", labels=LABELS),), clips=True))


def build_qwen(config: TrainConfig, contract: Contract, *, device: str = "cpu", **ignored: Any) -> VlmClassifier:
    """Create a classifier with random weights, as a replacement of ``build_classifier``.

    The weights are created on ``device``; on a GPU, 3.7 billion of them take no time.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vidrisk" / "models"))
    from vlms import make_tokenizer

    described = transformers.AutoConfig.from_pretrained(config.backbone)
    with no_init_weights():
        model = transformers.Qwen2_5_VLForConditionalGeneration._from_config(
            described, dtype=getattr(torch, config.vlm.weights)
        )
    model.tie_weights()
    backbone = QwenVl(model.eval(), make_tokenizer(), contract.pixel, clips=True, settings=config.vlm)
    classifier = VlmClassifier(backbone, config, contract).to(device)
    draw_weights(classifier)
    return classifier


def draw_weights(model: torch.nn.Module) -> None:
    """Fill the weights with random numbers in place; biases are 0, scales 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=DEVIATION)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def noise_frames(contract: Contract, windows: int) -> npt.NDArray[np.uint8]:
    """Return windows ``uint8 (B, T, H, W, 3)`` of coloured noise."""
    rng = np.random.default_rng(0)
    tint = rng.integers(0, 200, (windows, contract.frames, 1, 1, 3))
    noise = rng.integers(0, 56, (windows, contract.frames, *contract.pixel.frame_shape))
    return (tint + noise).astype(np.uint8)


def export_stages(
    model: VlmClassifier, contract: Contract, frames: npt.NDArray[np.uint8], folder: Path
) -> dict[str, float]:
    """Write the stages of a model in float32 on the processor as ``STAGE.fp32.onnx``, and what ``read_stages`` reads.

    Returns:
        Seconds that torch's forward of the frames took, and the export of each stage.
    """
    begin = time.perf_counter()
    stages = model.stages(contract)
    np.savez(folder / VALUES, **_values(stages, frames))
    (folder / STAGES).write_text(json.dumps([each.stage.model_dump(mode="json") for each in stages]), encoding="utf-8")
    seconds = {"torch": time.perf_counter() - begin}
    for each in stages:
        begin = time.perf_counter()
        trained = TrainedStage(each.stage, each.module, each.constants, each.example)
        export_onnx(
            each.module,
            trained.inputs(2),
            each.stage.inputs,
            each.stage.outputs,
            folder / f"{each.stage.name}.fp32.onnx",
        )
        seconds[each.stage.name] = time.perf_counter() - begin
    return seconds


@torch.inference_mode()
def _values(stages: tuple[ModelStage, ...], frames: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """Return every input, output and constant of the stages, computed by torch."""
    values: dict[str, npt.NDArray[Any]] = {"frames": frames}
    for each in stages:
        values |= each.constants
        for spec in each.stage.variable_inputs:  # per group of frames, or per window
            values[spec.name] = values[spec.name].reshape(-1, *map(int, spec.shape[1:]))
        made = each.module.eval()(*(torch.from_numpy(values[spec.name]) for spec in each.stage.inputs))
        outputs = made if isinstance(made, tuple) else (made,)
        values |= {spec.name: output.numpy() for spec, output in zip(each.stage.outputs, outputs, strict=True)}
    return values
