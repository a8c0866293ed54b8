"""Program that kills ``vidrisk train`` at chosen moments and resumes it.

It imports Torch once and forks itself for every command.

    python kill_training.py ROOT TRAIN-ARGUMENTS…

It writes ``ROOT/undisturbed``, and ``ROOT/MOMENT`` for every moment. It prints as JSON how each killed
command and its resumption ended.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from vidrisk.cli.app import main

# Imported before the forks.
IMPORTED = (
    "accelerate",
    "matplotlib.pyplot",
    "peft",
    "pyarrow.parquet",
    "rich.progress",
    "transformers",
    "vidrisk.data",
    "vidrisk.metrics.plots",
    "vidrisk.models.families",
    "vidrisk.train.train",
    "vidrisk.train.train_data",
)

# Moment → what is called there, and at which call the process dies: before it does anything.
MOMENTS = {
    "decoding": ("vidrisk.train.dataset.read_clips", 5),
    "frozen layers": ("vidrisk.train.views.augment_clips", 1),
    "fitting the probe": ("vidrisk.train.probe_choice.fit_inputs", 2),
    "epoch 1": ("vidrisk.train.class_work.mix_batch", 2),
    "first file of a checkpoint": ("vidrisk.train.checkpoint.save_tensors", 1),
    "second file of a checkpoint": ("vidrisk.train.checkpoint.save_tensors", 2),
    "state of a checkpoint": ("vidrisk.train.checkpoint.json.dumps", 1),
    "state of a later checkpoint": ("vidrisk.train.checkpoint.json.dumps", 2),
    "epoch 3": ("vidrisk.train.class_work.mix_batch", 12),
    "configuration": ("vidrisk.models.run.write_config", 1),
    "adapter": ("vidrisk.models.classifier.save_adapter", 1),
    "head": ("vidrisk.models.classifier.save_tensors", 1),
    "features of the head alone": ("vidrisk.train.compare_parts.compute_features", 1),
    "training of the head alone": ("vidrisk.train.compare_parts.fit", 1),
    "plots": ("vidrisk.train.train.plot_run", 1),
    "metrics": ("vidrisk.models.run.Path.replace", 1),
}


def kill_at(place: str, number: int) -> None:
    """Make a function kill this process when it is called for the ``number``-th time."""
    path, _, name = place.rpartition(".")
    try:
        owner: Any = importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, inner = path.rpartition(".")
        owner = getattr(importlib.import_module(module), inner)
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        is_here = name != "replace" or str(arguments[1]).endswith("metrics.json")
        calls += is_here
        if is_here and calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(owner, name, counted)


def ending_of(arguments: list[str], *moment: Any) -> int:
    """Run a command in a fork; return its exit code, or minus the number of the signal that killed it."""
    child = os.fork()
    if not child:
        if moment:
            kill_at(*moment)
        sys.argv = ["vidrisk", *arguments]
        sys.stdout = io.StringIO()
        try:
            main()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    root, *rest = sys.argv[1:]
    for module in IMPORTED:
        importlib.import_module(module)
    ends = {"undisturbed": [ending_of(["train", *rest, "-o", f"{root}/undisturbed"])]}
    for name, moment in MOMENTS.items():
        command = ["train", *rest, "-o", f"{root}/{name}", "--resume"]
        ends[name] = [ending_of(command, *moment), ending_of(command)]
    print(json.dumps(ends))
