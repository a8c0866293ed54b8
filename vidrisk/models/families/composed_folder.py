"""How a folder of a composed model says that transformers alone cannot run it: by a model_type that only vidrisk knows."""

from __future__ import annotations

import json
from pathlib import Path

from vidrisk.models.families.family import Source

COMPOSED_FOLDER = "vidrisk_llava"


def is_composed_folder(source: Source) -> bool:
    """Tell whether a backbone is such a folder. One whose configuration cannot be read is left to transformers to refuse."""
    try:
        config = json.loads((Path(source.backbone) / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == COMPOSED_FOLDER
