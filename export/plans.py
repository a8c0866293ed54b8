"""Quantised variants per target: integer kernels of CPUs and of TensorRT differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from vidrisk.calibration.profiles import PROFILES, Profile
from vidrisk.runtimes.contract.choices import ExportTarget
from vidrisk.runtimes.contract.manifest import Engines, VariantName
from vidrisk.runtimes.processor import saturates_int8

Made = TypeVar("Made")
FOR_TENSORRT: Literal["-tensorrt"] = "-tensorrt"  # suffix of variants that lie beside those for processors


@dataclass(frozen=True)
class Plan:
    """One quantised variant to make.

    Attributes:
        engines: kind of engine that it is for.
        suffix: of its name.
        has_half: the parts that are not INT8 become FP16.
    """

    profile: Profile
    engines: Engines
    suffix: Literal["", "-tensorrt"] = ""
    has_half: bool = False

    def name(self, *, is_mixed: bool) -> VariantName:
        """Return the name of the variant.

        It is ``mixed`` if not all of its quantised part is in 8 bits: some blocks stay in floating point, or have their
        weights in 4 bits.
        """
        if self.suffix:
            return "mixed-tensorrt" if is_mixed else "int8-tensorrt"
        return "mixed" if is_mixed else "int8"


def plans_of(target: ExportTarget) -> tuple[Plan, ...]:
    """Return the quantised variants for a target.

    A CPU without exact 8-bit sums makes variants for CPUs like itself.
    """
    processor = Plan(PROFILES["cpu7" if saturates_int8() else "cpu"], "processor")
    if target == "cpu":
        return (processor,)
    if target == "any":
        return processor, Plan(PROFILES["tensorrt"], "tensorrt", FOR_TENSORRT, has_half=True)
    return (Plan(PROFILES["tensorrt"], "any", has_half=True),)


def is_quantized(variant: str) -> bool:
    return variant.removesuffix(FOR_TENSORRT) in ("int8", "mixed")


def choose_shipped(
    files: Mapping[VariantName, Made], only: str | None, slow: Collection[str], slower: Collection[str]
) -> Mapping[VariantName, Made]:
    """Choose the variants of a bundle.

    Args:
        files: by variant.
        only: the requested variant; ``int8`` stands for whichever quantised one was made, None for all.
        slow: variants that are not worth their loss, and are left out. Floating point replaces them: a kind of engine
            may have lost the only variant that it can run.
        slower: variants that are slower than floating point, and only ship together with it.
    """
    asked = {name: made for name, made in files.items() if only in (None, "int8" if is_quantized(name) else name)}
    wanted = {name: made for name, made in asked.items() if name not in slow}
    return (
        wanted if len(wanted) == len(asked) and wanted.keys().isdisjoint(slower) else {"fp32": files["fp32"], **wanted}
    )
