"""Contracts and runners: everything a device needs besides the application.

Arrays go in and out as numpy; the package needs neither torch nor a video library. Names are imported lazily: a process
that only decodes imports the specs and the errors, but no engine.
"""

from typing import TYPE_CHECKING

from vidrisk.runtimes.on_demand import names_on_demand

if TYPE_CHECKING:
    from vidrisk.runtimes.contract.bundle import Bundle, Manifest, SealedFile, Variant, VariantName, write_bundle
    from vidrisk.runtimes.contract.contract import Contract, Guidance, Target
    from vidrisk.runtimes.contract.specs import PixelSpec, TensorSpec, TimeSpec
    from vidrisk.runtimes.contract.stages import Stage
    from vidrisk.runtimes.runner import FakeRunner, Runner
    from vidrisk.runtimes.select import Choice, choose, open_runner
else:  # mypy would accept every name
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "contract.bundle": ("Bundle", "Manifest", "SealedFile", "Variant", "VariantName", "write_bundle"),
            "contract.contract": ("Contract", "Guidance", "Target"),
            "runner": ("FakeRunner", "Runner"),
            "select": ("Choice", "choose", "open_runner"),
            "contract.stages": ("Stage",),
            "contract.specs": ("PixelSpec", "TensorSpec", "TimeSpec"),
        },
    )

__all__ = [
    "Bundle",
    "Choice",
    "Contract",
    "FakeRunner",
    "Guidance",
    "Manifest",
    "PixelSpec",
    "Runner",
    "SealedFile",
    "Stage",
    "Target",
    "TensorSpec",
    "TimeSpec",
    "Variant",
    "VariantName",
    "choose",
    "open_runner",
    "write_bundle",
]
