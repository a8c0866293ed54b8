"""A merged causal language model becomes a text graph for generation: built, judged against torch, its weights packed."""
