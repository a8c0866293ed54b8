"""DINOv3 (Siméoni et al. 2025, https://arxiv.org/abs/2508.10104), its vision transformers."""

from vidrisk.models.families.hub import hub_family

FAMILY = hub_family("dinov3_vit", "DINOv3ViTModel", "pooler")
