"""Activations that are computed again in the backward pass instead of being kept (Chen et al. 2016,
https://arxiv.org/abs/1604.06174)."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)
NAMES = (
    "activation_checkpointing_enable",
    "gradient_checkpointing_enable",
)  # transformers 5 has both, and warns of the second


def checkpoint_activations(model: Any) -> None:
    """Let a model of transformers, or one that is called alike, keep the inputs of its blocks alone; warn where it cannot."""
    enable = next((getattr(model, name) for name in NAMES if hasattr(model, name)), None)
    if enable is not None and getattr(model, "supports_gradient_checkpointing", True):
        enable()
    else:
        log.warning("%s has no gradient checkpointing: going on without", type(model).__name__)
