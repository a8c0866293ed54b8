"""INT8 of a stage that no label judges: the recipe with the least noise in what the stage gives, and no search of blocks."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from vidrisk.calibration.files import SHARED, load_graph, save_trial
from vidrisk.calibration.graph import Net, checked_float
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.profiles import Profile
from vidrisk.calibration.qdq import quantised_tensors
from vidrisk.calibration.recipe import Quantiser, Recipe, Trial, chosen_recipe
from vidrisk.export.quantize.feeds import StageFeeds
from vidrisk.export.quantize.int8 import migrate, observe
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES
from vidrisk.runtimes.runner import Arrays

PROBE_FRAMES = 32


@dataclass(frozen=True)
class QuantizedByNoise:
    """A Q/DQ graph.

    Attributes:
        sqnr_db: signal to noise of what it gives, in decibels.
        trials: recipes that were tried; one is chosen.
    """

    model: onnx.ModelProto
    sqnr_db: float
    trials: tuple[Trial[Recipe], ...]


def quantize_by_noise(path: Path, feeds: StageFeeds, profile: Profile, cache: Path, on_progress: OnProgress, *,
                      runtime: str = "onnxruntime") -> QuantizedByNoise:
    """Quantize a stage.

    Args:
        path: the float ONNX file.
        feeds: what the stage sees of the calibration data; the first of it also measures the noise.
        cache: folder where statistics stay for the next export.

    Raises:
        DataError: the graph is quantised already, samples that do not fit it, or fewer than 16.
    """
    model = load_graph(path, path.parent / SHARED)
    checked_float(model)
    few = [{name: array for name, array in feed.items() if name not in feeds.stage.constants} for feed in feeds.few(PROBE_FRAMES)]
    exact = _computed(path, feeds, few, runtime)

    def sqnr_db(trial: onnx.ModelProto) -> float:
        with tempfile.TemporaryDirectory(prefix=f".{SHARED}-", dir=path.parent) as work:
            save_trial(trial, Path(work) / "trial.onnx")
            found = _computed(Path(work) / "trial.onnx", feeds, few, runtime)
        noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(found, exact, strict=True))
        power = sum(float(np.square(each, dtype=np.float64).sum()) for each in exact)
        if not np.isfinite(noise):
            return -np.inf
        return float(10 * np.log10(power / noise)) if noise and power else 99.0

    plain = observe(model, quantised_tensors(Net(model)), feeds, cache, on_progress)
    quantiser = Quantiser(plain, migrate(plain, sqnr_db, feeds, cache, on_progress), profile)
    trials = chosen_recipe(quantiser, sqnr_db, Journal(), lambda done, total: on_progress("choosing a recipe", done, total))
    best = next(trial for trial in trials if trial.chosen)
    return QuantizedByNoise(quantiser.quantised(best.recipe), best.sqnr_db, tuple(trials))


def _computed(path: Path, feeds: StageFeeds, few: list[Arrays], runtime: str) -> list[np.ndarray]:
    """The first output of the stage, for each batch."""
    stage = feeds.stage
    constants = {name: feeds.constants[name] for name in stage.constants}
    with BUNDLE_RUNTIMES[runtime](path, stage.inputs, stage.outputs, constants=constants) as runner:
        return [np.array(runner.infer(feed)[stage.outputs[0].name], np.float32) for feed in few]
