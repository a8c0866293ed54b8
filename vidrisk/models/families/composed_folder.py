"""Detection of folders of composed models, by a ``model_type`` that only vidrisk uses.

The separate model_type says that transformers alone cannot run the folder.
"""

from __future__ import annotations

import json
from pathlib import Path

from vidrisk.models.families.family import Source

COMPOSED_FOLDER = "vidrisk_llava"


def is_composed_folder(source: Source) -> bool:
    """Return whether a backbone is a folder of a composed model.

    False if its configuration cannot be read; transformers then reports the error.
    """
    try:
        config = json.loads((Path(source.backbone) / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == COMPOSED_FOLDER
