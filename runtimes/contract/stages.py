"""Stages: a model is a list of graphs that run once per frame, per group of frames or per window each.

    CLIP, DINO, EfficientNet     encoder/frame → head/window
    the same with differences    encoder/group of 2 → head/window
    VideoMAE, V-JEPA 2           encoder/window → head/window
    a vision-language model      vision/group of 2 → text/window (prompt as a constant) → head/window
    a model that writes reports  vision/frame → text (``contract.report``)

The name of an input says whether it is the pixels (``frames``), a constant in the bundle, or an output of an earlier
stage. Outputs of a stage per frame reach a stage per window with an axis of T frames after the batch axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from vidrisk.runtimes.contract.contract import Contract, Sealed
from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.contract.specs import TensorSpec

Per = Literal["frame", "group", "window"]
PIXELS = "frames"
BATCH = "batch"


class Stage(Sealed):
    """One graph of a model: how often it runs, and its tensors.

    Attributes:
        name: name of the stage and of its files.
        per: ``frame``, ``group`` (of ``group`` frames) or ``window``.
        group: frames per group, n; 1 unless ``per`` is ``group``.
        inputs: ``frames`` for pixels, an output of an earlier stage, or a constant; all but constants begin with
            ``batch``.
        outputs: all begin with ``batch``.
        constants: names of the inputs whose values the bundle holds; their shapes are fixed.
        macs: multiply-accumulates per sample of the batch; None if they could not be counted.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    per: Per
    group: int = Field(default=1, ge=1)
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    constants: tuple[str, ...] = ()
    macs: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if (self.per == "group") != (self.group > 1):
            raise SpecError(
                f"stage {self.name!r} runs per {self.per} with groups of {self.group}",
                allowed="groups of 2 or more with per group, 1 otherwise",
            )
        names = [spec.name for spec in (*self.inputs, *self.outputs)]
        if len(set(names)) != len(names):
            raise SpecError(f"stage {self.name!r} has tensors {names}", allowed="different names")
        unknown = set(self.constants) - {spec.name for spec in self.inputs}
        if unknown:
            raise SpecError(
                f"stage {self.name!r} has no input {min(unknown)!r} that a constant could fill",
                allowed=", ".join(spec.name for spec in self.inputs),
            )
        for spec in (*self.inputs, *self.outputs):
            is_constant = spec.name in self.constants
            if is_constant and not all(isinstance(axis, int) for axis in spec.shape):
                raise SpecError(f"constant {spec} of stage {self.name!r}", allowed="a shape without named axes")
            if not is_constant and spec.shape[:1] != (BATCH,):
                raise SpecError(f"{spec} of stage {self.name!r}", allowed=f"a first axis {BATCH!r}")
        return self

    @property
    def variable_inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs that are not constants."""
        return tuple(spec for spec in self.inputs if spec.name not in self.constants)

    def input(self, name: str) -> TensorSpec:
        return next(spec for spec in self.inputs if spec.name == name)


def select_shared_stages(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the leading stages that run per frame or group.

    Overlapping windows share the outputs of these stages.
    """
    shared: list[Stage] = []
    for stage in stages:
        if stage.per == "window":
            break
        shared.append(stage)
    return tuple(shared)


def shape_at(source: TensorSpec, source_stage: Stage | None, stage: Stage, frames: int) -> tuple[int | str, ...]:
    """Return the shape in which a stage receives an output of its source.

    If the source runs more often than the stage, there is an extra axis after the batch axis: n frames for a stage per
    group, T frames or T / n groups for a stage per window (even if T is 1).

    Args:
        source: spec of the output.
        source_stage: the stage that computes ``source``; None for pixels, which come once per frame.
        stage: the receiving stage.
        frames: frames per window, T.

    Raises:
        SpecError: the stage runs more often than its source, or in groups of another size.
    """
    per, group = (source_stage.per, source_stage.group) if source_stage else ("frame", 1)
    if (per, group) == (stage.per, stage.group):
        return source.shape
    if per == "frame":
        return (BATCH, stage.group if stage.per == "group" else frames, *source.shape[1:])
    if per == "group" and stage.per == "window":
        return (BATCH, frames // group, *source.shape[1:])
    name = f"stage {source_stage.name!r}" if source_stage else "pixels"
    raise SpecError(
        f"stage {stage.name!r} runs per {_describe_rate(stage)}, and {name} gives {source.name!r} per {per}",
        allowed="stages from frames to groups of one size to windows",
    )


def _describe_rate(stage: Stage) -> str:
    return f"group of {stage.group}" if stage.per == "group" else stage.per


def check_stages(stages: Sequence[Stage], contract: Contract) -> None:
    """Check that every stage's inputs are available and that the last stage outputs the contract's targets.

    Raises:
        SpecError: two stages have one name, no stage computes an input or it has another shape (the message names both
            stages), the frames are not a whole number of groups, or the outputs are not the contract's.
    """
    if not stages:
        raise SpecError("a model without stages", allowed="at least one")
    if len({stage.name for stage in stages}) != len(stages):
        raise SpecError(f"stages {[stage.name for stage in stages]}", allowed="different names")
    pixels = TensorSpec(PIXELS, "uint8", (BATCH, *contract.pixel.frame_shape))
    given: dict[str, tuple[TensorSpec, Stage | None]] = {PIXELS: (pixels, None)}
    constants = {name: stage for stage in reversed(stages) for name in stage.constants}
    if PIXELS in constants:
        raise SpecError(
            f"stage {constants[PIXELS].name!r} has a constant {PIXELS!r}, which is the name of the pixels",
            allowed="another name",
        )
    for stage in stages:
        if contract.frames % stage.group:
            raise SpecError(
                f"stage {stage.name!r} runs per group of {stage.group}, and a window has {contract.frames} frames",
                allowed="a whole number of groups",
            )
        for spec in stage.variable_inputs:
            if spec.name not in given:
                raise SpecError(
                    f"stage {stage.name!r} takes {spec.name!r}, which no earlier stage gives", allowed=", ".join(given)
                )
            source, source_stage = given[spec.name]
            arriving = TensorSpec(spec.name, source.dtype, shape_at(source, source_stage, stage, contract.frames))
            if arriving != spec:
                name = f"stage {source_stage.name!r}" if source_stage else "the contract"
                raise SpecError(
                    f"stage {stage.name!r} takes {spec!r}, and {name} gives {arriving!r}",
                    allowed="equal dtypes and shapes",
                )
        for spec in stage.outputs:
            if spec.name in given:
                raise SpecError(
                    f"stage {stage.name!r} gives {spec.name!r}, which is there already", allowed="different names"
                )
            if spec.name in constants:
                raise SpecError(
                    f"stage {stage.name!r} gives {spec.name!r}, which is a constant of stage "
                    f"{constants[spec.name].name!r}",
                    allowed="different names",
                )
            given[spec.name] = spec, stage
    last = stages[-1]
    if contract.task == "report":  # the text graph is not a stage: see ``contract.report``
        if (
            last.per != "frame"
            or len(last.outputs) != 1
            or last.outputs[0].dtype != "float32"
            or len(last.outputs[0].shape) != 3
        ):
            raise SpecError(
                f"the last stage {last.name!r} of a report gives {list(last.outputs)} per {last.per}",
                allowed="visual tokens float32[batch, tokens, width] per frame",
            )
        return
    if last.per != "window" or last.outputs != contract.answers():
        raise SpecError(
            f"the last stage {last.name!r} gives {list(last.outputs)} per {last.per}",
            allowed=f"{list(contract.answers())} per window",
        )


def frame_encoder_stages(contract: Contract, width: int, group: int = 1) -> tuple[Stage, Stage]:
    """Return encoder/frame (or per group of n frames) → head/window, for features of ``width``."""
    shape = contract.pixel.frame_shape if group == 1 else (group, *contract.pixel.frame_shape)
    frames = TensorSpec(PIXELS, "uint8", (BATCH, *shape))
    features = TensorSpec("features", "float32", (BATCH, width))
    clip = TensorSpec("features", "float32", (BATCH, contract.frames // group, width))
    return (
        Stage(
            name="encoder", per="frame" if group == 1 else "group", group=group, inputs=(frames,), outputs=(features,)
        ),
        Stage(name="head", per="window", inputs=(clip,), outputs=contract.answers()),
    )


def window_encoder_stages(contract: Contract, width: int) -> tuple[Stage, Stage]:
    """Return encoder/window → head/window, for features of ``width`` per window."""
    clip = TensorSpec(PIXELS, "uint8", (BATCH, contract.frames, *contract.pixel.frame_shape))
    features = TensorSpec("features", "float32", (BATCH, width))
    return (
        Stage(name="encoder", per="window", inputs=(clip,), outputs=(features,)),
        Stage(name="head", per="window", inputs=(features,), outputs=contract.answers()),
    )
