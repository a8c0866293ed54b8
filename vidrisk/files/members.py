"""Objects of one name from every module of a package, so that adding a file adds an object."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any


def members_of_package(package: str, path: Iterable[str], name: str) -> list[Any]:
    """Import the modules of a package, recursively, and return their objects of one name.

    Modules without such an object are skipped.

    Args:
        package: its ``__name__``.
        path: its ``__path__``.
        name: of the objects, such as ``FORMAT``.
    """
    return [getattr(module, name) for module in _modules_of(package, path) if hasattr(module, name)]


def _modules_of(package: str, path: Iterable[str]) -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{info.name}")
        yield module
        if info.ispkg:
            yield from _modules_of(module.__name__, module.__path__)
