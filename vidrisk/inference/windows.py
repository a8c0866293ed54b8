"""Windows on their way from encoded frames to predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidrisk.decode.messages import InputEnd, Request
from vidrisk.runtimes.runner import Array, Arrays


@dataclass(frozen=True, eq=False)
class EncodedWindow:
    """A window with the inputs of the next stages.

    Attributes:
        indices: indices of its T frames on the timeline.
        parts: by name, one array per frame or per group, in order.
    """

    input_id: int
    interval_s: tuple[float | None, float | None]
    indices: tuple[int, ...]
    parts: Mapping[str, tuple[Array, ...]]

    @property
    def features(self) -> npt.NDArray[np.float32]:
        """``float32 (T, …)``, for a model with one tensor per frame."""
        (parts,) = self.parts.values()
        return np.stack(parts).astype(np.float32, copy=False)


@dataclass(frozen=True)
class EncodedAgain:
    """Signals that all earlier items of this input are void."""

    input_id: int


@dataclass(frozen=True)
class EncodedEnd:
    """Signals that all windows of an input have been yielded."""

    input: Request
    end: InputEnd

    @property
    def input_id(self) -> int:
        return self.input.id


@dataclass(frozen=True)
class EncodedPause:
    """Signals that the next input has not arrived yet, so incomplete batches are run. It belongs to no input."""

    input_id: int = -1


Encoded = EncodedWindow | EncodedAgain | EncodedEnd | EncodedPause


def stack_parts(windows: Iterable[EncodedWindow], names: Iterable[str]) -> Arrays:
    """Concatenate the parts of all windows, by name."""
    listed = list(windows)
    return {name: np.stack([part for window in listed for part in window.parts[name]]) for name in names}
