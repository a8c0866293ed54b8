"""Functions that change manifests of bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.bundle import MANIFEST


def rewrite_manifest(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change the manifest of a bundle, and return its folder."""
    path = bundle.root / MANIFEST
    described = json.loads(path.read_text(encoding="utf-8"))
    change(described)
    path.write_text(json.dumps(described), encoding="utf-8")
    return bundle.root
