"""Tensors on disk: safetensors only, written atomically, with one-line error messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vidrisk.runtimes.contract.errors import BundleError, VidriskError

COPY_WHOLE = "copy the run whole, or train it again"


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file atomically: an interruption leaves the old one.

    Raises:
        VidriskError: the disk is full or not writable.
    """
    staged = path.with_suffix(".tmp")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, staged)
        staged.replace(path)
    except (SafetensorError, OSError) as error:
        staged.unlink(missing_ok=True)
        raise VidriskError(
            f"{path} cannot be written: {error}", fix="make room, then run it again with resume"
        ) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file.

    Raises:
        BundleError: missing, damaged or not safetensors.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}", fix=COPY_WHOLE) from error
    return tensors


def load_state(module: nn.Module, path: Path) -> None:
    """Load a file into a module; it must hold exactly the module's parameters and buffers.

    Raises:
        BundleError: missing, damaged, or of another module.
    """
    weights = load_tensors(path)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise BundleError(f"{path} does not fit the run: {reason}", fix=COPY_WHOLE) from error
