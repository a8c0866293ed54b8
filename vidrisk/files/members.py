"""Objects of one name out of every module of a package: whoever adds a file adds one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any


def members_of_package(package: str, path: Iterable[str], name: str) -> list[Any]:
    """Import the modules of a package and of the packages in it, and return the objects of a name in those that have one.

    Args:
        package, path: its ``__name__`` and ``__path__``.
        name: of the objects, such as ``FORMAT``.
    """
    return [getattr(module, name) for module in _modules_of(package, path) if hasattr(module, name)]


def _modules_of(package: str, path: Iterable[str]) -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{info.name}")
        yield module
        if info.ispkg:
            yield from _modules_of(module.__name__, module.__path__)
