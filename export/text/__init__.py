"""A merged causal language model becomes a text graph for generation: built, packed, gated against torch, written as a bundle."""
