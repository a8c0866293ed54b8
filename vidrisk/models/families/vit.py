"""ViT (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929), without the pooling layer.

Checkpoints do not train the pooling layer.
"""

from vidrisk.models.families.hub import hub_family

FAMILY = hub_family("vit", "ViTModel", "cls", options=lambda pixel, frames: {"add_pooling_layer": False})
