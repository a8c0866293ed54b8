"""Which stages of a model run per frame, per group and per window, and what each level hands on to the next.

What is computed once per frame or group is shared by all windows that show it; what runs per window runs for each of
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import TensorSpec, TimeSpec
from vidrisk.runtimes.contract.stages import PIXELS, Stage, shared_stages


@dataclass(frozen=True)
class GroupLevel:
    """Stages that run per group of ``size`` frames.

    Attributes:
        takes: names that they take from frames: pixels, or what was computed of them.
        gives: names that later stages take.
    """

    size: int
    stages: tuple[Stage, ...]
    takes: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Stages by level.

    Attributes:
        frame: that run per frame, ahead of the others; empty where none does.
        frame_gives: names per frame that later stages take: pixels, or outputs of ``frame``.
        groups: by the size of the group.
        window: all others; they are run for each window.
        window_takes: names that these take from frames and groups.
    """

    frame: tuple[Stage, ...]
    frame_gives: tuple[str, ...]
    groups: tuple[GroupLevel, ...]
    window: tuple[Stage, ...]
    window_takes: tuple[str, ...]

    @property
    def feature(self) -> TensorSpec | None:
        """What is known of a frame once it was encoded, where that is one tensor and replaces the pixels: it can be kept."""
        if len(self.frame_gives) != 1:
            return None
        name = self.frame_gives[0]
        return next((spec for stage in self.frame for spec in stage.outputs if spec.name == name), None)

    @property
    def compares_frames(self) -> bool:
        """Whether a head answers by features of groups of frames alone: an encoder that sees a frame and how the next one differs.

        A vision tower whose groups a language model reads is none.
        """
        return bool(self.groups) and not self.frame and len(self.window) == 1 and PIXELS not in self.window_takes

    def require_feature(self, model: str, *, otherwise: str = "") -> TensorSpec:
        """Return ``feature``.

        Args:
            model: its name, for the error.
            otherwise: what else would mend the error.

        Raises:
            SettingsError: there is none.
        """
        if self.feature is None:
            fixes = ("train with rgb_diff=false" if self.compares_frames else "", otherwise)
            raise SettingsError(
                f"{model} knows no feature of a frame alone",
                allowed="a model whose first stage runs per frame",
                fix=", or ".join(filter(None, fixes)) or None,
            )
        return self.feature

    @property
    def shares_nothing(self) -> bool:
        """Whether each window is computed anew from its pixels."""
        return not self.frame and not self.groups

    @property
    def batches_windows(self) -> bool:
        """Whether windows are worth a batch of their own size: more than a head runs on what frames have given."""
        return PIXELS in self.window_takes or bool(self.groups) or len(self.window) > 1


def plan_from_stages(stages: Sequence[Stage]) -> Plan:
    """Sort stages into levels."""
    shared = shared_stages(stages)
    frame = tuple(stage for stage in shared if stage.per == "frame")
    grouped = [stage for stage in shared if stage.per == "group"]
    window = tuple(stages[len(shared) :])
    of_frames = {PIXELS, *_outputs(frame)}
    levels = []
    for size in dict.fromkeys(stage.group for stage in grouped):
        own = tuple(stage for stage in grouped if stage.group == size)
        levels.append(GroupLevel(size, own, _taken(own, of_frames), _taken(window, set(_outputs(own)))))
    shared_names = {*of_frames, *_outputs(grouped)}
    return Plan(frame, _taken((*grouped, *window), of_frames), tuple(levels), window, _taken(window, shared_names))


def _outputs(stages: Iterable[Stage]) -> list[str]:
    return [spec.name for stage in stages for spec in stage.outputs]


def _taken(stages: Iterable[Stage], names: set[str]) -> tuple[str, ...]:
    """Those of the names that stages take, once each, in order."""
    return tuple(dict.fromkeys(spec.name for stage in stages for spec in stage.variable_inputs if spec.name in names))


def overlap_cost(plan: Plan, time: TimeSpec | None) -> str:
    """Say what overlapping windows cost a model that shares nothing between them; empty where they cost nothing."""
    if not plan.shares_nothing or time is None or time.window_s is None or time.stride_s is None:
        return ""
    times = time.window_s / time.stride_s
    if math.isclose(times, 1):
        return ""
    return (
        f"windows of {time.window_s:g} s begin every {time.stride_s:g} s, and this model computes each of them anew: "
        f"{times:.3g} × the work of windows that do not overlap"
    )
