"""Export of a merged causal language model as a text graph for generation: built, packed, gated and bundled."""
