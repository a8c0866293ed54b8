"""Activation checkpointing: activations are recomputed in the backward pass instead of being kept.

Chen et al. 2016, https://arxiv.org/abs/1604.06174.
"""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)
NAMES = (
    "activation_checkpointing_enable",
    "gradient_checkpointing_enable",
)  # transformers 5 has both, and warns about the second


def checkpoint_activations(model: Any) -> None:
    """Keep only the inputs of a model's blocks for the backward pass, or warn if the model does not support that.

    The model is one of transformers, or has a method of the same name.
    """
    enable = next((getattr(model, name) for name in NAMES if hasattr(model, name)), None)
    if enable is not None and getattr(model, "supports_gradient_checkpointing", True):
        enable()
    else:
        log.warning("%s does not support gradient checkpointing: continuing without it", type(model).__name__)
