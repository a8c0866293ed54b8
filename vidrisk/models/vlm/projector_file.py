"""The projector file of a run, which is written, and required, if the projector is new or was trained."""

from __future__ import annotations

from pathlib import Path

from vidrisk.models.vlm.backbone import VlmBackbone
from vidrisk.models.weights import COPY_WHOLE, load_state, save_tensors
from vidrisk.runtimes.contract.errors import BundleError

PROJECTOR = "projector.safetensors"


def save_projector(backbone: VlmBackbone, folder: Path, *, is_trained: bool) -> None:
    """Write a projector, unless it is the published one.

    Raises:
        VidriskError: the disk is full or not writable.
    """
    if backbone.has_own_projector or is_trained:
        save_tensors(backbone.projector.state_dict(), folder / PROJECTOR)


def load_projector(backbone: VlmBackbone, folder: Path) -> None:
    """Read the projector of a run; a published one is kept if the run has none.

    Raises:
        BundleError: it is damaged, of another backbone, or missing although it is new.
    """
    if (folder / PROJECTOR).is_file() or backbone.has_own_projector:
        load_state(backbone.projector.float(), folder / PROJECTOR)


def check_projector(folder: Path, *, is_trained: bool) -> None:
    """Refuse a run that lacks the projector it has trained: the published one would be used instead.

    Raises:
        BundleError: the projector is missing.
    """
    if is_trained and not (folder / PROJECTOR).is_file():
        raise BundleError(f"{folder} lacks its {PROJECTOR}", fix=COPY_WHOLE)
