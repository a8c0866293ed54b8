"""Encoders, heads and adapters: torch modules that map the contract's frames to logits per target."""

from typing import Literal

# How an image is reduced to one vector. avg: mean of the last map; avgmax: its mean and maximum; stages: both, of it
# and of a finer map. For transformers, cls: the class token; mean: the mean of all tokens; pooler: the pooling that the
# family itself was trained with. auto: the family's own.
Pool = Literal["auto", "avg", "avgmax", "stages", "cls", "mean", "pooler"]
