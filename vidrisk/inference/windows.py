"""A window on its way from encoded frames to the model's answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidrisk.decode.messages import InputEnd, Request
from vidrisk.runtimes.runner import Array, Arrays


@dataclass(frozen=True, eq=False)
class EncodedWindow:
    """A window of which is known what the next stages take.

    Attributes:
        indices: places of its T frames on the timeline.
        parts: by name, an array per frame or per group, in order.
    """

    input_id: int
    interval_s: tuple[float | None, float | None]
    indices: tuple[int, ...]
    parts: Mapping[str, tuple[Array, ...]]

    @property
    def features(self) -> npt.NDArray[np.float32]:
        """``float32 (T, …)``, of a model that knows one tensor of each frame."""
        (parts,) = self.parts.values()
        return np.stack(parts).astype(np.float32, copy=False)


@dataclass(frozen=True)
class EncodedAgain:
    """What came of this input does not count."""

    input_id: int


@dataclass(frozen=True)
class EncodedEnd:
    """All windows of an input have come."""

    input: Request
    end: InputEnd

    @property
    def input_id(self) -> int:
        return self.input.id


@dataclass(frozen=True)
class EncodedPause:
    """The next input has yet to come: what waits for a batch to be full waits no longer. Of no input."""

    input_id: int = -1


Encoded = EncodedWindow | EncodedAgain | EncodedEnd | EncodedPause


def stack_parts(windows: Iterable[EncodedWindow], names: Iterable[str]) -> Arrays:
    """Put the parts of all windows one behind the other, by name."""
    listed = list(windows)
    return {name: np.stack([part for window in listed for part in window.parts[name]]) for name in names}
