"""Where things are kept that can be made again, and how much of them."""

from __future__ import annotations

import math
import os
from pathlib import Path

from vidrisk.runtimes.errors import SettingsError


def cache_folder() -> Path:
    """``$VIDRISK_CACHE``, or ``vidrisk`` under ``$XDG_CACHE_HOME`` (``~/.cache``)."""
    own = os.environ.get("VIDRISK_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vidrisk"


def bytes_from_variable(variable: str, default_gb: float, *, may_be_zero: bool = False) -> int:
    """The size in GiB that an environment variable holds, in bytes; ``default_gb`` where it is empty or not set.

    Raises:
        SettingsError: it holds no size.
    """
    text = os.environ.get(variable) or str(default_gb)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf or (gigabytes == 0 and not may_be_zero):
        allowed = f"a number of gigabytes {'from' if may_be_zero else 'above'} 0"
        raise SettingsError(f"{variable}={text}", allowed=allowed, fix=f"unset {variable}")
    return int(gigabytes * 2**30)
