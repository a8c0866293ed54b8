"""Assignment of a model's stages to frames, groups and windows, and the tensors passed from each level to the next.

Results per frame or group are shared by all windows that contain it; stages per window run for each window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import TensorSpec, TimeSpec
from vidrisk.runtimes.contract.stages import PIXELS, Stage, select_shared_stages


@dataclass(frozen=True)
class GroupLevel:
    """Stages that run per group of ``size`` frames.

    Attributes:
        takes: names of their inputs per frame: pixels, or outputs of the stages per frame.
        gives: names of their outputs that later stages take.
    """

    size: int
    stages: tuple[Stage, ...]
    takes: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Stages by level.

    Attributes:
        frame: stages that run per frame, before the others; may be empty.
        frame_gives: names per frame that later stages take: pixels, or outputs of ``frame``.
        groups: levels by the size of the group.
        window: all other stages, which run for each window.
        window_takes: names of their inputs from frames and groups.
    """

    frame: tuple[Stage, ...]
    frame_gives: tuple[str, ...]
    groups: tuple[GroupLevel, ...]
    window: tuple[Stage, ...]
    window_takes: tuple[str, ...]

    @property
    def feature(self) -> TensorSpec | None:
        """Spec of an encoded frame's feature, which can be cached.

        It exists if the stages per frame give one tensor that replaces the pixels.
        """
        if len(self.frame_gives) != 1:
            return None
        name = self.frame_gives[0]
        return next((spec for stage in self.frame for spec in stage.outputs if spec.name == name), None)

    @property
    def compares_frames(self) -> bool:
        """Whether a head answers only from features of groups, which also encode the difference between frames.

        This does not include a vision tower whose groups are read by a language model.
        """
        return bool(self.groups) and not self.frame and len(self.window) == 1 and PIXELS not in self.window_takes

    def require_feature(self, model: str, *, otherwise: str = "") -> TensorSpec:
        """Return ``feature``.

        Args:
            model: its name, for the error.
            otherwise: another fix to name in the error.

        Raises:
            SettingsError: there is none.
        """
        if self.feature is None:
            fixes = ("train with rgb_diff=false" if self.compares_frames else "", otherwise)
            raise SettingsError(
                f"{model} has no feature per frame",
                allowed="a model whose first stage runs per frame",
                fix=", or ".join(filter(None, fixes)) or None,
            )
        return self.feature

    @property
    def shares_nothing(self) -> bool:
        """Whether each window is computed from its own pixels."""
        return not self.frame and not self.groups

    @property
    def batches_windows(self) -> bool:
        """Whether windows need batches of their own size: more than a head runs on the frames' results."""
        return PIXELS in self.window_takes or bool(self.groups) or len(self.window) > 1


def plan_from_stages(stages: Sequence[Stage]) -> Plan:
    """Sort stages into levels."""
    shared = select_shared_stages(stages)
    frame = tuple(stage for stage in shared if stage.per == "frame")
    grouped = [stage for stage in shared if stage.per == "group"]
    window = tuple(stages[len(shared) :])
    of_frames = {PIXELS, *_outputs(frame)}
    levels = []
    for size in dict.fromkeys(stage.group for stage in grouped):
        own = tuple(stage for stage in grouped if stage.group == size)
        levels.append(GroupLevel(size, own, _select_inputs(own, of_frames), _select_inputs(window, set(_outputs(own)))))
    shared_names = {*of_frames, *_outputs(grouped)}
    return Plan(
        frame,
        _select_inputs((*grouped, *window), of_frames),
        tuple(levels),
        window,
        _select_inputs(window, shared_names),
    )


def _outputs(stages: Iterable[Stage]) -> list[str]:
    return [spec.name for stage in stages for spec in stage.outputs]


def _select_inputs(stages: Iterable[Stage], names: set[str]) -> tuple[str, ...]:
    """Return those of the names that the stages take, without repetition, in order."""
    return tuple(dict.fromkeys(spec.name for stage in stages for spec in stage.variable_inputs if spec.name in names))


def overlap_cost(plan: Plan, time: TimeSpec | None) -> str:
    """Return the cost of overlapping windows for a model that shares nothing between them, or ""."""
    if not plan.shares_nothing or time is None or time.window_s is None or time.stride_s is None:
        return ""
    times = time.window_s / time.stride_s
    if math.isclose(times, 1):
        return ""
    return (
        f"windows of {time.window_s:g} s begin every {time.stride_s:g} s, and this model computes each of them "
        f"separately: {times:.3g} × the work of windows that do not overlap"
    )
