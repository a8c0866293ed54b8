"""Objects of one name out of every module of a package: whoever adds a file adds one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any


def members_of_package(package: str, path: Iterable[str], name: str) -> list[Any]:
    """Import the modules of a package, and return the objects of a name in those that have one.

    Args:
        package, path: its ``__name__`` and ``__path__``.
        name: of the objects, such as ``FORMAT``.
    """
    modules = [importlib.import_module(f"{package}.{info.name}") for info in pkgutil.iter_modules(path)]
    return [getattr(module, name) for module in modules if hasattr(module, name)]
