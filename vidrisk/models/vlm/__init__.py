"""Vision-language models: prompts, the ``<ACT>`` token, heads, reports, composed models."""
