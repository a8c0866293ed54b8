"""What an application hands over to be exported, and how it wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from vidrisk.calibration.profiles import PROFILES, Profile
from vidrisk.export.qat import Clips
from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.errors import SettingsError

TargetName = Literal["cpu", "gpu", "jetson"]
Format = Literal["openvino", "torch"]
PROFILE_OF: dict[TargetName, Profile] = {"cpu": PROFILES["cpu"], "gpu": PROFILES["tensorrt"], "jetson": PROFILES["tensorrt"]}


@dataclass(frozen=True)
class Trained:
    """What an application hands over: two modules and what they promise.

    Attributes:
        encoder: ``uint8 (N, H, W, 3)`` → ``float32 (N, width)``; may carry an unmerged adapter.
        head: ``float32 (B, T, width)`` → a tuple of logits ``(B, C)``, one per target of the contract.
        family: model_type of the backbone, the key to its export configuration.
        backbone_config: the backbone's Hugging Face configuration, or None.
        width: D, size of a feature.
        recorded: top-1 per target that training measured on its own validation split; empty when it had none.
        recorded_on: how many samples that was; when the gate judges on as many, they are the same ones.
        clips: what the model was trained on, for a quantisation-aware finish.
    """

    encoder: nn.Module
    head: nn.Module
    contract: Contract
    family: str
    width: int
    backbone_config: Any = None
    recorded: Mapping[str, float] = field(default_factory=dict)
    recorded_on: int = 0
    clips: Clips | None = None


@dataclass(frozen=True)
class ExportOptions:
    """Attributes:
        int8: also make a quantised variant: ``int8``, or ``mixed`` where some blocks have to stay in floating point.
        max_drop: points of top-1 that a variant may lose.
        allow_drop: ship it even if it loses more, or is slower than floating point; the bundle records that.
        target: what the bundle is to run on, which decides how it is quantised; what INT8 leaves is FP16 but for ``cpu``.
        only: ship this variant alone, ``int8`` standing for whichever quantised one was made; None ships all.
        fp16: also make an ``fp16`` variant. Processors compute it no faster, so ``target`` is not ``cpu``.
        also: formats of other tools to put beside the ONNX files: OpenVINO's IR, torch's ExportedProgram.
        qat_steps: steps of quantisation-aware fine-tuning before the model is converted.
        search_s: seconds after which the precision search begins no further measurement.
        source: where the model came from, for the manifest.
    """

    int8: bool = False
    max_drop: float = 1.0
    allow_drop: bool = False
    target: TargetName = "cpu"
    only: Literal["fp32", "fp16", "int8"] | None = None
    qat_steps: int = 0
    search_s: float = 180.0
    source: dict[str, str] = field(default_factory=dict)
    fp16: bool = False
    also: tuple[Format, ...] = ()

    @property
    def profile(self) -> Profile:
        return PROFILE_OF[self.target]

    @property
    def needs_half(self) -> bool:
        """Whether any graph of the bundle computes in FP16."""
        return self.fp16 or (self.int8 and self.target != "cpu")

    def __post_init__(self) -> None:
        if not (self.max_drop >= 0 and self.qat_steps >= 0 and self.search_s >= 0):
            raise SettingsError(f"max_drop {self.max_drop}, qat_steps {self.qat_steps}, search_s {self.search_s}",
                                allowed="numbers from 0")
        if self.qat_steps and not self.int8:
            raise SettingsError("a quantisation-aware finish without INT8", fix="ask for INT8, too")
        if self.fp16 and self.target == "cpu":
            raise SettingsError("an FP16 variant for target 'cpu'", allowed="gpu, jetson", fix="processors are faster with INT8")
        made = ("fp32", *["fp16"] * self.fp16, *["int8"] * self.int8)
        if self.only is not None and self.only not in made:
            raise SettingsError(f"only {self.only!r} is to be shipped", allowed=", ".join(made), fix=f"make it, too: {self.only}")
