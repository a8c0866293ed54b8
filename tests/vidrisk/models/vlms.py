"""Small vision-language models of the real architectures with random weights.

They have a tokenizer and a processor like the published models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from backbones import BACKBONES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.models.pretrained import Labels, build_classifier, contract_from_config, resolve_config
from vidrisk.models.run import Run
from vidrisk.models.vlm.act_classifier import VlmClassifier
from vidrisk.runtimes.contract.contract import Contract, Target

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
ROWS, WIDTH = 640, 64
# What Qwen's own template does with one question and one reply.
TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif c.type == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As published: it takes lists of parts alone, and puts images in front of the text.
LLAVA_TEMPLATE = (
    "{% for m in messages %}{{ m.role | upper }}: {% for c in m.content if c.type == 'image' %}<image>\n{% endfor %}"
    "{% if m.role == 'assistant' and m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content if c.type == 'text' %}{{ c.text }} {% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
CORPUS = [
    "Which action does this video show? The action is walking, running, a crack in the wall.",
    "Name the activity in the video. What is going on in this clip? 系统 风险 轻微 中等 严重 裂缝 建议 0123456789",
] * 20
TEXT: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
QWEN = {"qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}


def make_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer with Qwen's special tokens and chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def save_lively(model: Any, folder: Path) -> None:
    """Write a model whose weights are large enough for every part of it to affect the output."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.08)
    model.eval().save_pretrained(folder)


def save_qwen(folder: Path, model_type: str, *, layers: int = 3, tie: bool = True, **vision: Any) -> Path:
    """Write a small Qwen2.5-VL or Qwen3-VL."""
    tokenizer = make_tokenizer()
    special = tokenizer.convert_tokens_to_ids
    ids = {
        "image_token_id": special("<|image_pad|>"),
        "video_token_id": special("<|video_pad|>"),
        "vision_start_token_id": special("<|vision_start|>"),
        "vision_end_token_id": special("<|vision_end|>"),
    }
    name, patch = QWEN[model_type], 14 if model_type == "qwen2_5_vl" else 16
    common = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": WIDTH,
        "in_channels": 3,
    }
    if model_type == "qwen2_5_vl":
        own = {"window_size": 56, "fullatt_block_indexes": [1], "tokens_per_second": 2, "in_chans": 3}
        rope: dict[str, Any] = {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    else:
        own = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        rope = {
            "type": "mrope",
            "rope_type": "default",
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
            "rope_theta": 1e6,
        }
        own["hidden_act"] = "gelu_pytorch_tanh"
    text = {
        **TEXT,
        "num_hidden_layers": layers,
        "tie_word_embeddings": tie,
        "rope_parameters": rope,
        "eos_token_id": special("<|im_end|>"),
        "pad_token_id": special("<|endoftext|>"),
    }
    if model_type == "qwen3_vl":
        text["head_dim"] = WIDTH // 4
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config={**common, **own, **vision}, tie_word_embeddings=tie, **ids
    )
    torch.manual_seed(0)
    save_lively(getattr(transformers, f"{name}ForConditionalGeneration")(config), folder)
    tokenizer.save_pretrained(folder)
    half = [0.5] * 3
    mean, std = (
        ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]) if patch == 14 else (half, half)
    )
    processor = {
        "size": {"shortest_edge": 3136, "longest_edge": 200704},
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": mean,
        "image_std": std,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": f"{name}Processor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    video = {**processor, "video_processor_type": f"{'Qwen2VL' if patch == 14 else 'Qwen3VL'}VideoProcessor"}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
    return folder


def save_language_model(
    folder: Path, model_class: str = "LlamaForCausalLM", *, spare: bool = True, **sizes: Any
) -> Path:
    """Write a small causal language model; without ``spare``, it has exactly one embedding row per token."""
    tokenizer = make_tokenizer()
    rows = ROWS if spare else len(tokenizer)
    config = getattr(transformers, model_class).config_class(**{**TEXT, "vocab_size": rows, "pad_token_id": 0, **sizes})
    torch.manual_seed(0)
    save_lively(getattr(transformers, model_class)(config), folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_llava_hf(folder: Path, tower: str = "clip_vision_model", **options: Any) -> Path:
    """Write a small LLaVA in the form of llava-hf; its vision features come from before the last layer."""
    backbone = BACKBONES[tower]
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.chat_template = None  # it lies with the processor
    vision = getattr(transformers, backbone.config_class)(**backbone.sizes)
    config = transformers.LlavaConfig(
        **{
            "vision_config": vision,
            "text_config": transformers.LlamaConfig(**{**TEXT, "tie_word_embeddings": False}),
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
            "image_seq_length": 16,
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default" if tower == "clip_vision_model" else "full",
            **options,
        }
    )
    torch.manual_seed(0)
    save_lively(transformers.LlavaForConditionalGeneration(config), folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": LLAVA_TEMPLATE}))
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": backbone.mean,
        "image_std": backbone.std,
        "resample": 3,
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 64, "width": 64},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "processor_config.json").write_text(json.dumps({"image_token": "<image>", "patch_size": 16}))
    return folder


@dataclass(frozen=True)
class Built:
    """A classifier as ``train_run`` builds it, before its first step."""

    model: VlmClassifier
    config: TrainConfig
    labels: Labels

    @property
    def contract(self) -> Contract:
        return contract_from_config(self.config, self.labels)

    def frames(self, count: int, seed: int = 0) -> torch.Tensor:
        """Return noise in the input format of the classifier, ``uint8 (count, T, H, W, 3)``."""
        shape = (count, self.contract.frames, *self.contract.pixel.frame_shape)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))

    def save(self, root: Path) -> Run:
        run = Run(root, self.config, self.labels)
        run.save(self.model)
        return run


def build_small(backbone: str | Path, *assignments: str, clips: bool = True, classes: int = 3) -> Built:
    """Build a classifier with effective adapters, by default for three classes and 4 frames of 64x64.

    Args:
        assignments: settings, such as ``lora.rank=2``; the last one wins.
    """
    task = "action" if clips else "risk"
    usual = (
        "frames=4",
        "pixel.height=64",
        "pixel.width=64",
        "lora.rank=4",
        "head.hidden=16",
        "precision=fp32",
        "head.heads=4",
    )
    config = resolve_config(
        config_from_options(None, [*usual, *assignments], backbone=str(backbone), task=task), clips=clips
    )
    labels = Labels(targets=(Target(name=task, labels=("a", "b", "c", "d")[:classes]),), clips=clips)
    torch.manual_seed(0)
    model = build_classifier(config, contract_from_config(config, labels))
    assert isinstance(model, VlmClassifier)
    model.adapt(config)
    enliven(model)
    return Built(model.eval(), config, labels)


def enliven(model: torch.nn.Module) -> None:
    """Give trained parameters values like those after training.

    Fresh adapters and classifiers contribute nothing to the output.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and (
                "lora_B" in name or "classifiers" in name or "trainable_tokens_delta" in name
            ):
                parameter.normal_(std=0.05, generator=generator)
