"""SigLIP (Zhai et al. 2023, https://arxiv.org/abs/2303.15343), and SigLIP 2 of fixed resolution.

SigLIP 2 of fixed resolution is also published as "siglip".
"""

from vidrisk.models.families.hub import hub_family

FAMILY = hub_family("siglip_vision_model", "SiglipVisionModel", "pooler", aliases=("siglip",))
