"""Compare a vision-language classifier (EfficientNet-Lite0 + MLP + SmolLM2-135M, real weights) with EfficientNet-Lite0.

    python benchmarks/vlm.py DATA [--only magnetic_tile] [--runs FOLDER]

On each data set both are trained on the same split, exported with INT8 (and 4 or 8-bit weights in the language model),
gated, and evaluated on the same test photos or clips: top-1, agreement of the quantized bundle with fp32 and with
torch, size, speed in turns, and memory of a process that infers. A third run reproduces a trainer whose optimiser does
not include the head: LoRA and the projector are trained with a random head that does not change, and the token's row
does not change either. It is evaluated twice: as it is in memory, and after loading such a trainer's checkpoint, which
does not contain the head. Exact McNemar tests compare each with the vision-language model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import DATASETS
from machine import describe_machine
from quiet import measure_quietly

from vidrisk.data import Table
from vidrisk.data.targets import truth_from_table
from vidrisk.export.trained import ExportOptions
from vidrisk.inference.model import Classifier, open_classifier
from vidrisk.jobs.evaluate import evaluate
from vidrisk.jobs.export import export_run
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.models.classifier import HEAD
from vidrisk.models.config import config_from_options
from vidrisk.models.run import METRICS, Run
from vidrisk.models.trainable import TrainableModel
from vidrisk.models.weights import save_tensors
from vidrisk.runtimes.contract.bundle import Bundle
from vidrisk.runtimes.paired import mcnemar_p
from vidrisk.runtimes.registry import file_runtimes
from vidrisk.train import train as training

RESULT = Path(__file__).parent / "results" / "vlm.json"
BACKBONE = "compose:efficientnet-lite0+smollm2-135m"
FROZEN_HEAD = ("optim.head_lr=0", "optim.token_lr=0")
VLM = (
    f"backbone={BACKBONE}",
    "lora.last_blocks=null",
    "lora.rank=16",
    "lora.alpha=32",
    "head.kind=linear",
    "optim.lora_lr=0.0005",
    "optim.batch_size=16",
    "vlm.system=''",
    "augment=[]",
    "views=1",
)
SETTINGS: dict[str, tuple[str, ...]] = {
    "magnetic_tile": (*VLM, "vlm.grid=3", "optim.epochs=6"),
    "ut_interaction": (*VLM, "frames=16", "vlm.grid=1", "optim.epochs=16", "optim.batch_size=6"),
}
THREADS = 2
ROUNDS = 15
TIMED = 8  # windows per call
# Runs in its own process: the engines alone, without torch. It reads VmHWM because a child's ru_maxrss begins with its
# parent's.
MEMORY = """
import sys
import numpy as np
from vidrisk.inference.model import open_classifier
with open_classifier(sys.argv[1], runtime=sys.argv[2], variant=sys.argv[3], threads=2) as model:
    contract = model.contract
    clips = np.random.default_rng(0).integers(0, 256, (4, contract.frames, *contract.pixel.frame_shape), dtype=np.uint8)
    for _ in range(3):
        model.classify(clips)
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Judged:
    """The predictions of one model on the test samples."""

    right: npt.NDArray[np.bool_]
    probabilities: npt.NDArray[np.float32]

    @property
    def top1(self) -> float:
        return float(self.right.mean())


def judge(model: Path, table: Table, **options: Any) -> Judged:
    with open_classifier(model, threads=THREADS, **options) as classifier:
        target = classifier.contract.targets[0]
        probabilities = evaluate(classifier, table, InferSettings()).probabilities[target.name]
        truth = truth_from_table(table, classifier.contract.targets)[target.name]
    return Judged(probabilities.argmax(axis=1) == truth, probabilities)


def reset_head(model: TrainableModel) -> None:
    for classifier in model.head.head.classifiers:
        classifier.reset_parameters()


def train(table: Table, settings: Sequence[str], out: Path, *, random_head: bool = False) -> float:
    """Train if the run is missing; return the training time in seconds."""
    if not (out / METRICS).is_file():
        build = training.build_classifier

        def with_random_head(*arguments: Any, **options: Any) -> TrainableModel:
            model = build(*arguments, **options)
            reset_head(model)
            return model

        training.build_classifier = with_random_head if random_head else build
        try:
            training.train_run(table, config_from_options(None, [f"task={table.task}", *settings]), out, resume=True)
        finally:
            training.build_classifier = build
    return float(json.loads((out / METRICS).read_text())["seconds"])


def reload_without_head(run: Path, out: Path) -> Path:
    """Copy a run, with a new random head instead of its own."""
    if not out.is_dir():
        model = Run.open(run).load_classifier()
        torch.manual_seed(1)
        reset_head(model)
        shutil.copytree(run, out)
        (out / HEAD).unlink()
        save_tensors(model.head.state_dict(), out / HEAD)
    return out


def export(run: Path, out: Path) -> Bundle:
    if not (out / "bundle.json").is_file():
        export_run(run, out, ExportOptions(int8=True, max_drop=1.0))
    return Bundle.open(out)


def speeds(bundles: dict[str, Bundle]) -> dict[str, dict[str, float]]:
    """Measure milliseconds per window of every variant on its fastest runtime, in turns with rotating order."""
    opened: dict[str, tuple[Classifier, npt.NDArray[np.uint8]]] = {}
    for name, bundle in bundles.items():
        for variant in bundle.passed:
            model = open_classifier(bundle.root, variant=variant, threads=THREADS)
            contract = model.contract
            shape = (TIMED, contract.frames, *contract.pixel.frame_shape)
            opened[f"{name} {variant}"] = model, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    names = list(opened)

    def take_turn(first: int) -> dict[str, float]:
        taken = {}
        for name in names[first:] + names[:first]:
            model, clips = opened[name]
            begin = time.perf_counter()
            model.classify(clips)
            taken[name] = 1e3 * (time.perf_counter() - begin) / TIMED
        return taken

    take_turn(0)  # warms up
    turns = [measure_quietly(partial(take_turn, turn % len(names))) for turn in range(ROUNDS)]
    found = {
        name: {"runtime": model.runtime, "ms": statistics.median(turn[name] for turn in turns)}
        for name, (model, _) in opened.items()
    }
    for model, _ in opened.values():
        model.close()
    return found  # type: ignore[return-value]


def memory_mb(bundle: Bundle, runtime: str, variant: str) -> float:
    command = [sys.executable, "-c", MEMORY, str(bundle.root), runtime, variant]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def size_mb(bundle: Bundle, variant: str) -> float:
    files = {
        name
        for path in bundle.manifest.variants[variant].files.values()  # type: ignore[index]
        for name in (path, f"{path}.data")
    }
    files |= {bundle.manifest.constants} if bundle.manifest.constants else set()
    return sum(sealed.bytes for name, sealed in bundle.manifest.files.items() if name in files) / 2**20


def measure(name: str, data: Path, runs: Path) -> dict[str, Any]:
    dataset = DATASETS[name]
    table = dataset.tables(data)[0]
    test = table.of_split("test")
    seconds = {
        "vlm": train(table, SETTINGS[name], runs / f"{name}_vlm"),
        "plain": train(table, dataset.settings, runs / f"{name}_plain"),
        "random_head": train(table, (*SETTINGS[name], *FROZEN_HEAD), runs / f"{name}_random_head", random_head=True),
    }
    bundles = {kind: export(runs / f"{name}_{kind}", runs / f"{name}_{kind}.bundle") for kind in ("vlm", "plain")}
    judged = {kind: judge(runs / f"{name}_{kind}", test) for kind in seconds}
    judged["random_head_reloaded"] = judge(
        reload_without_head(runs / f"{name}_random_head", runs / f"{name}_reloaded"), test
    )
    timed = speeds(bundles)
    variants = {}
    for kind, bundle in bundles.items():
        floats = judge(bundle.root, test, variant="fp32")
        for variant in bundle.passed:
            found = floats if variant == "fp32" else judge(bundle.root, test, variant=variant)
            answers = [each.probabilities.argmax(axis=1) for each in (found, floats, judged[kind])]
            key = f"{kind} {variant}"
            variants[key] = {
                **timed[key],
                "top1": found.top1,
                "agreement_with_fp32": float((answers[0] == answers[1]).mean()),
                "agreement_with_torch": float((answers[0] == answers[2]).mean()),
                "size_mb": size_mb(bundle, variant),
                "memory_mb": {runtime: memory_mb(bundle, runtime, variant) for runtime in file_runtimes()},
                "precision": bundle.manifest.variants[variant].precision,
            }
    pairs = {other: _compare_paired(judged["vlm"], judged[other]) for other in judged if other != "vlm"}
    return {
        "protocol": f"{dataset.protocol}; the first fold"
        if dataset.folder == "ut_interaction_set1"
        else dataset.protocol,
        "test_samples": len(test),
        "training_seconds": seconds,
        "top1": {kind: each.top1 for kind, each in judged.items()},
        "vlm_against": pairs,
        "variants": variants,
        "settings": list(SETTINGS[name]),
    }


def _compare_paired(ours: Judged, other: Judged) -> dict[str, float]:
    gained, lost = int((ours.right & ~other.right).sum()), int((other.right & ~ours.right).sum())
    return {
        "gained": gained,
        "lost": lost,
        "points": 100 * (ours.top1 - other.top1),
        "mcnemar_p": mcnemar_p(gained, lost),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", choices=list(SETTINGS))
    parser.add_argument(
        "--runs", type=Path, default=Path("vlm-runs"), help="where runs and bundles stay, and are not made again"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {"datasets": {}}
    for name in [arguments.only] if arguments.only else SETTINGS:
        result["datasets"][name] = measure(name, arguments.data, arguments.runs)
        result.update(machine=describe_machine(), threads=THREADS, backbone=BACKBONE)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(result["datasets"][name], indent=1), flush=True)


if __name__ == "__main__":
    main()
