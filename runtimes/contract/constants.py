"""Constants of a bundle: inputs that never change, such as prompt embeddings, in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import BundleError, require
from vidrisk.runtimes.contract.stages import Stage

CONSTANTS = "constants.safetensors"

Arrays = dict[str, npt.NDArray[np.generic]]


def read_constants(path: Path, stages: Sequence[Stage]) -> Arrays:
    """Read the constants of the given stages by input name.

    Raises:
        BundleError: the file is missing, or a constant is missing or has another dtype or shape than its stage takes.
        MissingExtra: safetensors is not installed.
    """
    safetensors: Any = require("safetensors.numpy", "cpu")
    try:
        found: Arrays = safetensors.load_file(str(path))
    except Exception as error:  # safetensors raises its own type, and I/O errors
        raise BundleError(f"{path.name} cannot be read as constants: {error}", fix="export the bundle again") from error
    for stage in stages:
        for name in stage.constants:
            spec = stage.input(name)
            wanted = f"{spec.dtype}{list(spec.shape)}"
            if name not in found:
                raise BundleError(
                    f"{path.name} lacks {name!r}, which stage {stage.name!r} takes",
                    allowed=wanted,
                    fix="export the bundle again",
                )
            array = found[name]
            if (array.dtype, array.shape) != (np.dtype(spec.dtype), spec.shape):
                raise BundleError(
                    f"{name!r} in {path.name} is {array.dtype}{list(array.shape)}, but stage {stage.name!r} takes "
                    f"{wanted}",
                    allowed=wanted,
                    fix="export the bundle again",
                )
    return found


def write_constants(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write constants by input name.

    Raises:
        MissingExtra: safetensors is not installed.
    """
    safetensors: Any = require("safetensors.numpy", "cpu")
    safetensors.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(path))
