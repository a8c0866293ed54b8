"""Contracts and runners: all that a device needs beside the application. numpy in, numpy out; no torch, no video files.

Names are imported when they are asked for: a process that only decodes wants the specs and the errors, and no engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidrisk.runtimes.bundle import Bundle, Graph, Manifest, SealedFile, Variant, VariantName, write_bundle
    from vidrisk.runtimes.contract import Contract, Guidance, Target
    from vidrisk.runtimes.runner import FakeRunner, Runner
    from vidrisk.runtimes.select import Choice, choose, open_runner
    from vidrisk.runtimes.specs import PixelSpec, TensorSpec, TimeSpec

_MODULES = {
    "bundle": ("Bundle", "Graph", "Manifest", "SealedFile", "Variant", "VariantName", "write_bundle"),
    "contract": ("Contract", "Guidance", "Target"),
    "runner": ("FakeRunner", "Runner"),
    "select": ("Choice", "choose", "open_runner"),
    "specs": ("PixelSpec", "TensorSpec", "TimeSpec"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = [
    "Bundle",
    "Choice",
    "Contract",
    "FakeRunner",
    "Graph",
    "Guidance",
    "Manifest",
    "PixelSpec",
    "Runner",
    "SealedFile",
    "Target",
    "TensorSpec",
    "TimeSpec",
    "Variant",
    "VariantName",
    "choose",
    "open_runner",
    "write_bundle",
]
