"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$VIDRISK_CACHE``, or ``vidrisk`` under ``$XDG_CACHE_HOME`` (``~/.cache``)."""
    own = os.environ.get("VIDRISK_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vidrisk"
