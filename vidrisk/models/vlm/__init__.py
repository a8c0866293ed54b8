"""Vision-language classifiers: prompts, the ``<ACT>`` token, heads, composed models."""
