"""Visual tokens of photos from the file of a vision stage, for the gate's comparison and for prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk.export.text.samples import Visual
from vidrisk.runtimes.contract.stages import PIXELS, Stage
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES
from vidrisk.runtimes.runner import Array

BATCH = 8


def visual_tokens(
    stage: Stage,
    path: Path,
    photos: Sequence[Sequence[npt.NDArray[np.uint8]]],
    *,
    runtime: str = "onnxruntime",
    constants: Mapping[str, Array] | None = None,
    batch: int = BATCH,
) -> Visual:
    """Run a vision stage.

    Args:
        stage: per frame, with one output ``float32 (batch, tokens, width)``.
        path: its ONNX file.
        photos: per sample, its photos ``uint8 (H, W, 3)``.
        runtime: that runs it.
        constants: values of the stage's constants, by name.
        batch: number of photos per run.

    Returns:
        Per sample and photo ``float32 (tokens, width)``.
    """
    frames = [photo for sample in photos for photo in sample]
    found: list[npt.NDArray[np.float32]] = []
    with BUNDLE_RUNTIMES[runtime](path, stage.inputs, stage.outputs, constants=constants) as runner:
        for begin in range(0, len(frames), batch):
            computed = runner.infer({PIXELS: np.stack(frames[begin : begin + batch])})
            found += list(np.array(computed[stage.outputs[0].name], np.float32))
    tokens = iter(found)
    return [tuple(next(tokens) for _ in sample) for sample in photos]
