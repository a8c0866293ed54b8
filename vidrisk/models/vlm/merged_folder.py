"""Writing of a trained vision-language model with merged adapters, as a folder that other programs load and serve."""

from __future__ import annotations

import shutil
from pathlib import Path

from vidrisk.models.families import Source
from vidrisk.models.run import Run
from vidrisk.models.trainable import Trainable
from vidrisk.models.vlm.composed import Composed
from vidrisk.models.vlm.llava_folder import save_llava
from vidrisk.models.vlm.loading import find_processor
from vidrisk.models.vlm.qwen import QwenVl
from vidrisk.runtimes.contract.bundle import whole_folder
from vidrisk.runtimes.contract.errors import SettingsError


def write_merged(trained: Trainable | Path, out: Path) -> None:
    """Write vision tower, projector and language model with all adapters merged; a head is not included.

    Args:
        trained: a model, whose adapters are merged in place, or the folder of a run.
        out: to be created: a LLaVA folder for a composed model, else a folder in the layout of the published model.

    Raises:
        SettingsError: it is not a vision-language model, or the processor of its backbone is not on this machine.
        BundleError: the run is damaged, or ``out`` exists.
        VidriskError: the disk is full or not writable.
    """
    model: Trainable
    if isinstance(trained, Path):
        run = Run.open(trained)
        model = run.load_reporter() if run.config.task == "report" else run.load_classifier()
    else:
        model = trained
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Composed | QwenVl):
        what = trained if isinstance(trained, Path) else type(trained).__name__
        raise SettingsError(
            f"{what} as a merged model: {type(backbone).__name__} is not a vision-language model",
            allowed="Qwen2.5-VL, Qwen3-VL, compose:TOWER+LLM, or a LLaVA folder",
            fix="train with such a backbone",
        )
    if isinstance(backbone, Composed):
        model.merge()
        save_llava(backbone, out)
        return
    processor = find_processor(
        Source(backbone.config.name_or_path, local_only=True)
    )  # files from the hub are in the cache
    model.merge()
    with whole_folder(out) as staged:
        backbone.base.save_pretrained(staged)
        backbone.tokenizer.save_pretrained(staged)
        for path in processor:
            shutil.copyfile(path, staged / path.name)
