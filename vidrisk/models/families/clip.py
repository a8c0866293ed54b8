"""CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020); only the vision tower of a checkpoint is loaded."""

from vidrisk.models.families.hub import hub_family

FAMILY = hub_family("clip_vision_model", "CLIPVisionModel", "pooler", aliases=("clip",))
