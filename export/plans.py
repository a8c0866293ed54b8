"""Which quantised variants a target wants: integer kernels of processors and of TensorRT differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vidrisk.calibration.profiles import PROFILES, Profile
from vidrisk.runtimes.contract.choices import ExportTarget
from vidrisk.runtimes.contract.manifest import Engines, VariantName
from vidrisk.runtimes.processor import saturates_int8

FOR_TENSORRT: Literal["-tensorrt"] = "-tensorrt"  # ends the names of variants that lie beside those for processors


@dataclass(frozen=True)
class Plan:
    """One quantised variant to make.

    Attributes:
        engines: kind of engine that it is for.
        suffix: of its name.
        has_half: what INT8 leaves becomes FP16.
    """

    profile: Profile
    engines: Engines
    suffix: Literal["", "-tensorrt"] = ""
    has_half: bool = False

    def name(self, *, is_mixed: bool) -> VariantName:
        """Name of the variant: ``mixed`` where some blocks stay in floating point."""
        if self.suffix:
            return "mixed-tensorrt" if is_mixed else "int8-tensorrt"
        return "mixed" if is_mixed else "int8"


def plans_of(target: ExportTarget) -> tuple[Plan, ...]:
    """What is made on a processor without exact sums of 8 bits is to run on one like it."""
    processor = Plan(PROFILES["cpu7" if saturates_int8() else "cpu"], "processor")
    if target == "cpu":
        return (processor,)
    if target == "any":
        return processor, Plan(PROFILES["tensorrt"], "tensorrt", FOR_TENSORRT, has_half=True)
    return (Plan(PROFILES["tensorrt"], "any", has_half=True),)


def is_quantized(variant: str) -> bool:
    return variant.removesuffix(FOR_TENSORRT) in ("int8", "mixed")
