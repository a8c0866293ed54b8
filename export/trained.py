"""Input of an export: the trained stages, their contract, and the export options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vidrisk.calibration.conformal import check_coverage
from vidrisk.calibration.profiles import Profile
from vidrisk.export.plans import plans_of
from vidrisk.runtimes.contract.choices import ExportTarget, OnlyVariant, Quantization
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import SettingsError, SpecError
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import Stage, check_stages
from vidrisk.runtimes.runner import Array, Arrays

Format = Literal["openvino", "torch"]
MAX_CONFIDENCE_DROP = 5.0


class Clips(Protocol):
    """A sequence of clips ``uint8 (T, H, W, 3)``: an array, or a lazy reader."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True)
class TrainedStage:
    """One stage of a trained model, and the module or file that computes it.

    Attributes:
        stage: its name, tensors, and how often it runs.
        source: a module that takes the stage's inputs in order and returns a tensor, or a tuple of tensors in the order
            of its outputs; it may carry an unmerged adapter. Or a float ONNX file with exactly these inputs and
            outputs.
        constants: values of the stage's constants, by name.
        example: batch size → inputs in order, for tracing a module; None uses noise.
        quantization: how it is quantised, if it is. ``weights`` suits a language model, whose weights outweigh its
            activations: they are packed in 4 or 8 bits, for CPUs only.
    """

    stage: Stage
    source: nn.Module | Path
    constants: Mapping[str, Array] = field(default_factory=dict)
    example: Callable[[int], tuple[torch.Tensor, ...]] | None = None
    quantization: Quantization = "integers"

    def __post_init__(self) -> None:
        for spec in self.stage.inputs:
            if spec.name in self.stage.constants:
                if spec.name not in self.constants:
                    raise SpecError(
                        f"stage {self.stage.name!r} has no value for its constant {spec.name!r}",
                        allowed=", ".join(self.constants) or "one per constant",
                    )
                spec.check(self.constants[spec.name], {})

    def inputs(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Return inputs for tracing the module, including constants."""
        if self.example is not None:
            return self.example(batch)
        generator = np.random.default_rng(0)
        arrays = [self.constants.get(spec.name, _noise(spec, batch, generator)) for spec in self.stage.inputs]
        return tuple(torch.from_numpy(np.array(array)) for array in arrays)


def _noise(spec: TensorSpec, batch: int, generator: np.random.Generator) -> npt.NDArray[Any]:
    shape = tuple(batch if isinstance(axis, str) else axis for axis in spec.shape)
    if spec.dtype.startswith("float"):
        return generator.normal(size=shape).astype(spec.dtype)
    return generator.integers(0, 256 if spec.dtype == "uint8" else 2, shape).astype(spec.dtype)


@dataclass(frozen=True)
class Trained:
    """A trained model: its stages, and the contract that they fulfil.

    Attributes:
        stages: from pixels to the contract's answers, in order.
        recorded: top-1 per target that training measured on its own validation split; empty if it had none.
        recorded_on: number of samples in that split; if the gate judges on as many, they are the same ones.
        clips: training clips, for quantisation-aware fine-tuning.
    """

    stages: tuple[TrainedStage, ...]
    contract: Contract
    recorded: Mapping[str, float] = field(default_factory=dict)
    recorded_on: int = 0
    clips: Clips | None = None

    def __post_init__(self) -> None:
        check_stages(self.specs, self.contract)

    @property
    def specs(self) -> tuple[Stage, ...]:
        """The stages without their modules and files."""
        return tuple(each.stage for each in self.stages)

    @property
    def sources(self) -> dict[str, nn.Module | Path]:
        return {each.stage.name: each.source for each in self.stages}

    @property
    def constants(self) -> dict[str, Array]:
        """Values of all constants, by name.

        Raises:
            SpecError: two stages give one name different values.
        """
        values: dict[str, Array] = {}
        for each in self.stages:
            for name, value in each.constants.items():
                if not np.array_equal(values.setdefault(name, value), value):
                    raise SpecError(
                        f"constant {name!r} has another value in stage {each.stage.name!r}",
                        allowed="one value per name",
                    )
        return values


@dataclass(frozen=True)
class DynamicGraph:
    """A part of a model as a graph for other programs, with axes of any length.

    It is not a stage of a contract.

    Attributes:
        name: of its file, without a suffix.
        module: takes the inputs in order and returns a tuple of the outputs; it may carry an unmerged adapter.
        inputs, outputs: axes given as text are of any length.
        cases: description → inputs, and the outputs that the graph must compute from them. The first case traces the
            module.
        texts: texts to write beside it, by name.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cases: Mapping[str, tuple[Arrays, Arrays]]
    texts: Mapping[str, str]


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        int8: also make a quantised variant: ``int8``, or ``mixed`` if some blocks have to stay in floating point, or
            have their weights in 4 bits.
        max_drop: points of top-1 that a variant may lose.
        max_confidence_drop: points of probability, 0–100, by which the confidence of unchanged answers may shift.
        allow_drop: ship a variant even if it loses more, or is not faster than floating point; the bundle records that.
        strict: refuse the export, instead of shipping floating point alone, if a quantised variant is not worth its
            loss: it is not faster, or, with packed weights, slower and not much smaller.
        target: platform of the bundle, which decides how it is quantised; parts that are not INT8 become FP16 except
            for ``cpu``. ``any`` makes INT8 for CPUs and INT8 for TensorRT side by side.
        only: ship only this variant; ``int8`` stands for whichever quantised one was made, None ships all.
        fp16: also make an ``fp16`` variant. It is no faster on CPUs, so ``target`` must not be ``cpu``.
        golden: seal some validation samples in the bundle, with the answers of every variant.
        also: formats of other tools to put beside the ONNX files: OpenVINO's IR, torch's ExportedProgram.
        qat_steps: steps of quantisation-aware fine-tuning before the model is converted.
        search_s: seconds after which the precision search starts no further measurement.
        source: origin of the model, for the manifest.
        quantize: names of the stages to quantise; None selects those that do nearly all the work.
        coverage: how often the labels that are not excluded must contain the true one; this sets when an answer is
            uncertain.
    """

    int8: bool = False
    max_drop: float = 1.0
    allow_drop: bool = False
    target: ExportTarget = "cpu"
    only: OnlyVariant | None = None
    qat_steps: int = 0
    search_s: float = 180.0
    source: dict[str, str] = field(default_factory=dict)
    fp16: bool = False
    also: tuple[Format, ...] = ()
    golden: bool = True
    coverage: float = 0.9
    max_confidence_drop: float = MAX_CONFIDENCE_DROP
    strict: bool = False
    quantize: frozenset[str] | None = None

    @property
    def profile(self) -> Profile:
        """The profile of quantisation; the first one if there are several."""
        return plans_of(self.target)[0].profile

    @property
    def makes_fp16(self) -> bool:
        """Whether an FP16 variant is made; it would be unused if only INT8 is shipped."""
        return self.fp16 and self.only != "int8"

    @property
    def needs_half(self) -> bool:
        """Whether any graph of the bundle computes in FP16."""
        return self.makes_fp16 or (self.int8 and self.target != "cpu")

    def __post_init__(self) -> None:
        check_coverage(self.coverage)
        if not (self.max_drop >= 0 and self.qat_steps >= 0 and self.search_s >= 0):
            raise SettingsError(
                f"max_drop {self.max_drop}, qat_steps {self.qat_steps}, search_s {self.search_s}",
                allowed="numbers from 0",
            )
        if not 0 <= self.max_drop <= 100:
            raise SettingsError(f"max_drop {self.max_drop}", allowed="points of accuracy, 0 to 100")
        if not 0 < self.max_confidence_drop <= 100:
            raise SettingsError(
                f"max_confidence_drop {self.max_confidence_drop}", allowed="points of probability, above 0 to 100"
            )
        if self.quantize is not None and not self.quantize:
            raise SettingsError("no stage is to be quantised", fix="name at least one, or do without INT8")
        if self.strict and self.allow_drop:
            raise SettingsError("strict, although any drop is allowed", fix="leave out one of the two")
        if self.strict and not (self.int8 and self.target in ("cpu", "any")):
            where = f"for target {self.target!r}" if self.int8 else "without INT8"
            raise SettingsError(
                f"strict about the speed of INT8, {where}",
                allowed="with INT8, for target 'cpu'",
                fix="leave strict out",
            )
        if self.qat_steps and not self.int8:
            raise SettingsError("quantisation-aware fine-tuning without INT8", fix="ask for INT8, too")
        if self.fp16 and self.target == "cpu":
            raise SettingsError(
                "an FP16 variant for target 'cpu'", allowed="gpu, jetson, any", fix="processors are faster with INT8"
            )
        made = ("fp32", *["fp16"] * self.fp16, *["int8"] * self.int8)
        if self.only is not None and self.only not in made:
            raise SettingsError(
                f"only {self.only!r} is to be shipped", allowed=", ".join(made), fix=f"make it, too: {self.only}"
            )
        unseen = (
            "int8"
            if self.int8 and self.only in ("fp32", "fp16")
            else "fp16"
            if self.fp16 and self.only == "fp32"
            else None
        )
        if unseen:
            raise SettingsError(
                f"{unseen} would be made but not shipped, because only {self.only} is shipped",
                fix=f"leave one of the two out: making {unseen} takes minutes",
            )
