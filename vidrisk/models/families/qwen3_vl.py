"""Qwen3-VL (https://arxiv.org/abs/2511.21631) as a classifier: the state at a token of its reply."""

from vidrisk.models.families.vlm import vlm_family

FAMILY = vlm_family("qwen3_vl", "Qwen3VLForConditionalGeneration")
