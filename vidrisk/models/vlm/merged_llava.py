"""What a run has trained, merged into its composed model and written as a folder."""

from __future__ import annotations

from pathlib import Path

from vidrisk.models.run import Run
from vidrisk.models.trainable import TrainableModel
from vidrisk.models.vlm.composed import Composed
from vidrisk.models.vlm.llava_folder import save_llava
from vidrisk.runtimes.contract.errors import SettingsError


def merged_llava(trained: TrainableModel | Path, out: Path) -> None:
    """Write tower, projector and language model with all adapters merged; a head is not part of them.

    Args:
        trained: a model, whose adapters are merged in place, or the folder of a run.
        out: to be made.

    Raises:
        SettingsError: it is no composed model.
        BundleError: the run is damaged, or ``out`` exists.
        VidriskError: the disk is full or may not be written.
    """
    model = Run.open(trained).load_classifier() if isinstance(trained, Path) else trained
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Composed):
        what = trained if isinstance(trained, Path) else type(trained).__name__
        raise SettingsError(f"{what} as a LLaVA model: {type(backbone).__name__} is no composed model",
                            allowed="compose:TOWER+LLM, or a LLaVA folder", fix="train with such a backbone")
    model.merge()
    save_llava(backbone, out)
