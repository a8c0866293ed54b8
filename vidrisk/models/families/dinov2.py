"""DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193)."""

from vidrisk.models.families.hub import hub_family

FAMILY = hub_family("dinov2", "Dinov2Model", "pooler")
