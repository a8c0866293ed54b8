"""Encoders, heads and adapters: torch modules that read the contract's frames and answer its targets."""

from typing import Literal

# How an image becomes one vector: mean of the last map; mean and maximum of it; both, of it and of a finer map; and for
# transformers the class token, the mean of all tokens, or what the family itself trained. auto: the family's own.
Pool = Literal["auto", "avg", "avgmax", "stages", "cls", "mean", "pooler"]
