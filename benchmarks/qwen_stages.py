"""Read stages that ``qwen_3b.py`` exported, without torch: their specs, and torch's outputs for one window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.stages import Stage

STAGES, VALUES = "stages.json", "values.npz"
Values = dict[str, npt.NDArray[Any]]


def read_stages(folder: Path) -> tuple[dict[str, Stage], Values]:
    """Return the stages by name, and all their inputs and outputs by name."""
    rows = json.loads((folder / STAGES).read_text(encoding="utf-8"))
    return {row["name"]: Stage.model_validate(row) for row in rows}, dict(np.load(folder / VALUES))


def feed_of(stage: Stage, values: Values) -> Values:
    return {spec.name: values[spec.name] for spec in stage.variable_inputs}


def constants_of(stage: Stage, values: Values) -> Values:
    return {name: values[name] for name in stage.constants}


def distance(stage: Stage, made: Values, values: Values) -> dict[str, float]:
    """Compare a stage with torch: the largest difference relative to the largest value, and the cosine."""
    ours, theirs = (
        np.concatenate([np.float64(each[spec.name]).ravel() for spec in stage.outputs]) for each in (made, values)
    )
    return {
        "apart": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
        "cosine": float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)),
    }
