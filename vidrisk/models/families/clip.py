"""CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020): of the two towers of a checkpoint, the vision tower is loaded."""

from vidrisk.models.families.hub import hub_family

FAMILY = hub_family("clip_vision_model", "CLIPVisionModel", "pooler", aliases=("clip",))
