"""Files of LLaVA's processor in transformers: pixel settings, number of image tokens, and the chat template."""

from __future__ import annotations

from typing import Any

from vidrisk.models.vlm.llava_config import IMAGE
from vidrisk.runtimes.contract.specs import PixelSpec

FILTERS = {"bilinear": 2, "bicubic": 3}  # in Pillow's numbering
# Puts the parts of a message on separate lines, as vidrisk does, and passes on messages that are text.
PARTS = (
    "{%- set ns = namespace(chat=[]) -%}"
    "{%- for m in messages -%}"
    "{%- if m['content'] is string or not m['content'] -%}{%- set ns.chat = ns.chat + [m] -%}"
    "{%- else -%}{%- set ns.lines = [] -%}"
    "{%- for c in m['content'] -%}"
    "{%- set ns.lines = ns.lines + ['<image>' if c['type'] == 'image' else c['text']] -%}{%- endfor -%}"
    "{%- set ns.chat = ns.chat + [{'role': m['role'], 'content': ns.lines | join('\\n')}] -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- set messages = ns.chat -%}"
)
# As vidrisk formats messages if a language model has no template: in lines.
LINES = (
    "{{- %s -}}{%%- for m in messages -%%}"
    "{{- m['content'] + (eos_token or '' if m['role'] == 'assistant' else '') + '\\n' -}}"
    "{%%- endfor -%%}"
)


def template_from_tokenizer(tokenizer: Any) -> str:
    """Return the chat template of a language model, extended to messages of images and text."""
    own = getattr(tokenizer, "chat_template", None)
    if own is None:
        begins = tokenizer.bos_token and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        own = LINES % ("bos_token" if begins else "''")
    return f"{PARTS}{own}"


def preprocessor_from_pixel(pixel: PixelSpec) -> tuple[dict[str, Any], str | None]:
    """Return preprocessor_config.json, and the part of the contract that it cannot express, or None.

    The arithmetic is the contract's; pixels differ because Pillow and torchvision resize differently.
    """
    height, width = pixel.height, pixel.width
    crops = pixel.resize == "crop" and height == width
    size: dict[str, int] = {"height": height, "width": width}
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(height / pixel.crop_fraction)} if crops else size,
        "resample": FILTERS[pixel.interpolation],
        "do_center_crop": crops,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixel.mean),
        "image_std": list(pixel.std),
    }
    left = None if crops or pixel.resize == "squash" else f"images are stretched, but the contract says {pixel.resize}"
    return settings, left


def processor_settings(patch: int, strategy: str) -> dict[str, Any]:
    """Return processor_config.json.

    Args:
        patch: side in pixels.
        strategy: ``default`` drops the tower's class token, ``full`` keeps all tokens of a tower without one.
    """
    return {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "patch_size": patch,
        "vision_feature_select_strategy": strategy,
        "num_additional_image_tokens": int(strategy == "default"),
    }
