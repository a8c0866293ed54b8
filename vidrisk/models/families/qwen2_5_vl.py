"""Qwen2.5-VL (Bai et al. 2025, https://arxiv.org/abs/2502.13923) as a classifier: the state at a token of its reply."""

from vidrisk.models.families.vlm import vlm_family

FAMILY = vlm_family("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration")
