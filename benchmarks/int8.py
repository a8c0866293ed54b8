"""Compare INT8 methods: accuracy and speed on five datasets, a transformer with outliers, memory and time.

    python benchmarks/int8.py [SECTION ...] [--runs DIR] [--data DIR] [--folds N] [--trial]

SECTION: elpv, elpv_probe, magnetic_tile, brick_crack, ut_interaction, outliers, memory, export_time; default: all. Each
writes its own part of ``results/int8.json``, and keeps the others. --runs keeps the trained runs in DIR, and does not
train the finished ones again. --data: the folder with magnetic_tile, brick_crack and ut_interaction_set1; missing data
sets are skipped. --folds: only the first N of a dataset with several. --trial: few samples and one epoch, to check that
everything works; writes nothing.

All methods start from the same floating-point ONNX encoder and the same calibration samples. They are evaluated on the
same test samples with the same fp32 head, and are timed in turns in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import onnx
import peers
from datasets import DATASETS, Dataset
from machine import describe_machine
from quiet import measure_quietly

from vidrisk.data import Table
from vidrisk.data.choice import draw_samples
from vidrisk.data.table import SPLITS
from vidrisk.data.targets import truth_from_table
from vidrisk.demo import cell_photos
from vidrisk.export.trained import ExportOptions
from vidrisk.frames import read_clips
from vidrisk.jobs.export import FRAMES_PER_CLIP, export_run
from vidrisk.models.run import Run
from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.choices import ExportTarget
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import VidriskError, is_installed
from vidrisk.runtimes.paired import drop_interval_points
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, file_runtimes
from vidrisk.runtimes.runner import Runner
from vidrisk.runtimes.timing import seconds_in_turns

RESULT = Path(__file__).parent / "results" / "int8.json"
CALIBRATION = 256  # samples, at most
BATCH, ROUNDS = 8, 19
TARGETS: dict[str, ExportTarget] = {"cpu": "cpu", "tensorrt": "gpu"}  # --target that takes a profile
MEMORY_SAMPLES = (32, 1024)
ENTROPY_SAMPLES = (256, 192, 128, 64)  # the first that fits
EXPORT_CALIBRATION, EXPORT_VALIDATION = 256, 300
TRIAL_SAMPLES = 20
QUICK = ("ONNX Runtime, min-max", "NNCF quantize", "vidrisk")  # methods for datasets beside the main ones
Key = tuple[str, str, str]  # runtime, method, profile


@dataclass(frozen=True)
class Case:
    """One trained model on one fold: the inputs of every method, and the samples for its evaluation.

    Attributes:
        bundle: its export in floating point.
        calibration, frames: samples, and their frames ``uint8 (N, H, W, 3)`` that all methods calibrate on.
        validation: samples that methods may measure themselves on.
        every_peer: all methods, or the quick ones.
        profiles: of quantisation.
        clips, truth: the test samples, ``uint8 (N, T, H, W, 3)`` and their classes ``(N,)``.
    """

    run: Path
    bundle: Bundle
    calibration: Table
    frames: npt.NDArray[np.uint8]
    validation: Table
    clips: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.int64]
    max_drop: float
    every_peer: bool
    profiles: tuple[str, ...]
    transformer: bool

    def open(self, runtime: str, path: Path, graph: str = "encoder") -> Runner:
        tensors = self.bundle.manifest.stage(graph)
        return BUNDLE_RUNTIMES[runtime](path, tensors.inputs, tensors.outputs)

    @property
    def encoder(self) -> Path:
        return self.bundle.path("encoder", "fp32")


@dataclass(frozen=True)
class Method:
    """One INT8 method: its model file, or the reason why there is none."""

    name: str
    profile: str
    calibration: int
    path: Path | None
    refusal: str
    seconds: float


def case_from_run(
    run: Path,
    max_drop: float,
    scratch: Path,
    *,
    every_peer: bool = False,
    profiles: tuple[str, ...] = ("cpu", "tensorrt"),
) -> Case:
    """Export the run in floating point, and read what the methods need."""
    bundle, _ = export_run(run, scratch / "fp32.bundle", ExportOptions())
    table = Run.open(run).read_split()
    train, judged = table.of_split("train"), table.of_split("test")
    calibration = draw_samples(train, CALIBRATION, seed=0)
    clips = clips_of(calibration, bundle.contract)
    moments = np.linspace(0, clips.shape[1] - 1, min(FRAMES_PER_CLIP, clips.shape[1])).astype(
        int
    )  # those that an export takes
    frames = clips[:, moments].reshape(-1, *clips.shape[2:])
    truth = truth_from_table(judged, bundle.contract.targets)[bundle.contract.targets[0].name]
    operators = {node.op_type for node in onnx.load(bundle.path("encoder", "fp32")).graph.node}
    return Case(
        run,
        bundle,
        calibration,
        frames,
        table.of_split("val"),
        clips_of(judged, bundle.contract),
        truth,
        max_drop,
        every_peer,
        profiles,
        transformer="LayerNormalization" in operators,
    )


def clips_of(table: Table, contract: Contract) -> npt.NDArray[np.uint8]:
    """Return the clips of samples, ``uint8 (N, T, H, W, 3)``."""
    return np.stack([next(read_clips(sample.path, contract.pixel, contract.time)).frames for sample in table.samples])


def ours(case: Case, profile: str, out: Path) -> Path:
    """Return the quantized encoder of a whole ``vidrisk export``; a loss over the budget is noted but accepted."""
    os.environ["VIDRISK_CACHE"] = str(out / "cache")  # nothing that another export has measured
    options = ExportOptions(int8=True, max_drop=case.max_drop, allow_drop=True, target=TARGETS[profile])
    bundle, _ = export_run(
        case.run, out / "bundle", options, calib=case.calibration, calib_samples=len(case.calibration)
    )
    return bundle.path("encoder", next(name for name in bundle.passed if name in ("int8", "mixed")))


def notes_beside(path: Path) -> dict[str, Any]:
    """Return the gate's results of a bundle's quantized variant; empty for a peer's model."""
    if not (path.parent / "gate.json").is_file():
        return {}
    gate = json.loads((path.parent / "gate.json").read_text(encoding="utf-8"))
    return {
        "variant": path.name.split(".")[1],
        "recipe": gate["calibration"]["recipe"],
        "waived": [hop["reason"] for hop in gate["hops"] if hop["waived"]],
    }


def methods_for(case: Case, scratch: Path) -> list[Method]:
    """Return the model file of every method. A failure or a refusal of a method is also a result."""
    frames, transformer = case.frames, case.transformer
    few = frames[np.linspace(0, len(frames) - 1, peers.count_kept_samples(frames)).astype(int)]
    encoder = case.encoder
    with case.open("onnxruntime", case.bundle.path("head", "fp32"), "head") as head:
        target = case.bundle.contract.targets[0].name
        samples = list(
            zip(
                clips_of(case.validation, case.bundle.contract),
                truth_from_table(case.validation, case.bundle.contract.targets)[target],
                strict=True,
            )
        )

        def predict(features: npt.NDArray[np.float32]) -> int:
            return int(head.infer({"features": features[None]})[f"{target}_logits"].argmax())

        makers: list[tuple[str, str, int, Callable[[Path], Path]]] = [
            ("ONNX Runtime, min-max", "cpu", len(frames), lambda out: peers.ort_static(encoder, out, frames)),
            (
                "ONNX Runtime, entropy",
                "cpu",
                len(few),
                lambda out: peers.ort_static(encoder, out, few, method="Entropy"),
            ),
            (
                "ONNX Runtime, percentile",
                "cpu",
                len(few),
                lambda out: peers.ort_static(encoder, out, few, method="Percentile"),
            ),
            (
                "NNCF quantize",
                "cpu",
                len(frames),
                lambda out: peers.nncf_quantized(encoder, out, frames, transformer=transformer),
            ),
            (
                "NNCF quantize, mixed preset",
                "cpu",
                len(frames),
                lambda out: peers.nncf_quantized(encoder, out, frames, mixed=True, transformer=transformer),
            ),
            (
                "NNCF quantize with accuracy control",
                "cpu",
                len(frames),
                lambda out: peers.nncf_accuracy_controlled(
                    encoder, out, frames, samples, predict, max_drop=case.max_drop / 100, transformer=transformer
                ),
            ),
            ("vidrisk", "cpu", len(frames), partial(ours, case, "cpu")),
            (
                "ONNX Runtime, min-max",
                "tensorrt",
                len(frames),
                lambda out: peers.ort_static(encoder, out, frames, symmetric=True),
            ),
            ("vidrisk", "tensorrt", len(frames), partial(ours, case, "tensorrt")),
        ]
        chosen = [maker for maker in makers if maker[1] in case.profiles and (case.every_peer or maker[0] in QUICK)]
        return [_make_method(*maker, scratch / f"method{number}") for number, maker in enumerate(chosen)]


def _make_method(name: str, profile: str, calibration: int, make: Callable[[Path], Path], out: Path) -> Method:
    out.mkdir()
    begin = time.perf_counter()
    path, refusal = None, ""
    try:
        path = make(out)
    except VidriskError as error:
        refusal = str(error).partition("; fix:")[0]
    except Exception as error:  # of any type that a peer may raise
        refusal = f"{type(error).__name__}: {error}".partition("\n")[0]
    seconds = time.perf_counter() - begin
    print(f"  {name} ({profile}): {seconds:.0f} s {refusal}", flush=True)
    return Method(name, profile, calibration, path, refusal, seconds)


def predictions(case: Case, runtime: str, path: Path) -> npt.NDArray[np.int64]:
    """Return the class of each test sample, by an encoder and the fp32 head on the same runtime."""
    count, moments = case.clips.shape[:2]
    flat = case.clips.reshape(-1, *case.clips.shape[2:])
    target = case.bundle.contract.targets[0].name
    with case.open(runtime, path) as encoder, case.open(runtime, case.bundle.path("head", "fp32"), "head") as head:
        features = np.concatenate(
            [
                np.array(encoder.infer({"frames": flat[i : i + BATCH]})["features"], np.float32)
                for i in range(0, len(flat), BATCH)
            ]
        ).reshape(count, moments, -1)
        return np.concatenate(
            [
                head.infer({"features": features[i : i + BATCH]})[f"{target}_logits"].argmax(axis=1)
                for i in range(0, count, BATCH)
            ]
        )


def accuracy(
    truth: npt.NDArray[np.int64], before: npt.NDArray[np.int64], after: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Return top-1, its drop in points with its 95 % paired interval, and the agreement."""
    lost, gained = (int(((one == truth) & (other != truth)).sum()) for one, other in ((before, after), (after, before)))
    return {
        "top1": float((after == truth).mean()),
        "drop_points": 100 * (lost - gained) / len(truth),
        "drop_interval": [round(end, 2) for end in drop_interval_points(lost, gained, len(truth))],
        "agreement": float((before == after).mean()),
    }


def speeds(case: Case, methods: list[Method]) -> dict[Key, float]:
    """Return frames per second by (runtime, method, profile), in turns; OpenVINO files run only on OpenVINO."""
    paths = {("fp32", ""): case.encoder, **{(m.name, m.profile): m.path for m in methods if m.path}}
    flat = case.clips.reshape(-1, *case.clips.shape[2:])
    batch = np.ascontiguousarray(np.resize(flat[:BATCH], (BATCH, *flat.shape[1:])))
    with ExitStack() as stack:
        runners = {
            (runtime, *key): stack.enter_context(case.open(runtime, path))
            for runtime in ("openvino", "onnxruntime")
            for key, path in paths.items()
            if path.suffix == ".onnx" or runtime == "openvino"
        }
        return {
            key: BATCH / seconds
            for key, seconds in measure_quietly(lambda: seconds_in_turns(runners, {"frames": batch}, ROUNDS)).items()
        }


def compare_cases(cases: list[Case], scratch: Path) -> dict[str, Any]:
    """Compare all methods on all folds of a dataset; predictions are pooled, speed is that of the first fold."""
    made = []
    for number, case in enumerate(cases):
        (folder := scratch / f"case{number}").mkdir()
        made.append(methods_for(case, folder))
    rate = speeds(cases[0], made[0])
    truth = np.concatenate([case.truth for case in cases])
    reference = {
        runtime: np.concatenate([predictions(case, runtime, case.encoder) for case in cases])
        for runtime in file_runtimes()
    }
    rows = [_row(cases, [of_fold[i] for of_fold in made], truth, reference, rate) for i in range(len(made[0]))]
    fp32 = {
        runtime: {"top1": float((before == truth).mean()), "frames_per_s": rate[runtime, "fp32", ""]}
        for runtime, before in reference.items()
    }
    result = {
        "test_samples": len(truth),
        "validation_samples": len(cases[0].validation),
        "max_drop_points": cases[0].max_drop,
        "frame": list(cases[0].bundle.contract.pixel.frame_shape),
        "batch": BATCH,
        "rounds": ROUNDS,
        "fp32": fp32,
        "rows": rows,
    }
    _print(result)
    return result


def _row(
    cases: list[Case],
    methods: list[Method],
    truth: npt.NDArray[np.int64],
    reference: dict[str, npt.NDArray[np.int64]],
    rate: dict[Key, float],
) -> dict[str, Any]:
    """Return the row of one method over all folds, on OpenVINO; for our method on ONNX Runtime also."""
    first = methods[0]
    row: dict[str, Any] = {
        "method": first.name,
        "profile": first.profile,
        "calibration_frames": first.calibration,
        "seconds": round(float(np.mean([m.seconds for m in methods])), 1),
    }
    refusals = [m.refusal for m in methods if m.path is None]
    if refusals:
        return {**row, "refused_folds": len(refusals), "refusal": refusals[0]}
    row["notes"] = [notes for m in methods if m.path and (notes := notes_beside(m.path))]
    judged_on = ("openvino", "onnxruntime") if first.name == "vidrisk" else ("openvino",)
    for runtime in judged_on:
        after = np.concatenate(
            [predictions(case, runtime, m.path) for case, m in zip(cases, methods, strict=True) if m.path]
        )
        row[runtime] = accuracy(truth, reference[runtime], after)
    row["frames_per_s"] = {
        runtime: rate[key] for runtime in reference if (key := (runtime, first.name, first.profile)) in rate
    }
    row["speedup"] = {
        f"{runtime} over {other} fp32": value / rate[other, "fp32", ""]
        for runtime, value in row["frames_per_s"].items()
        for other in reference
    }
    return row


def _print(result: dict[str, Any]) -> None:
    for runtime, fp32 in result["fp32"].items():
        print(
            f"  {'fp32 on ' + runtime:48s} top-1 {100 * fp32['top1']:5.1f}{'':33s}{fp32['frames_per_s']:8.1f} frames/s"
        )
    for row in result["rows"]:
        title = f"{row['method']} ({row['profile']})"
        if "refusal" in row:
            print(f"  {title:48s} {row['refused_folds']} refused: {row['refusal']}")
            continue
        for runtime in (r for r in ("openvino", "onnxruntime") if r in row):
            found, (low, high) = row[runtime], row[runtime]["drop_interval"]
            print(
                f"  {title + ' on ' + runtime:48s} top-1 {100 * found['top1']:5.1f}, drop {found['drop_points']:5.2f} "
                f"[{low:5.2f}, {high:5.2f}], same {100 * found['agreement']:5.1f} %, "
                f"{row['frames_per_s'][runtime]:6.1f} frames/s"
            )


@dataclass(frozen=True)
class Workplace:
    """The folders of data and runs, and whether this is a trial."""

    data: Path | None
    runs: Path
    folds: int | None
    trial: bool

    def tables(self, dataset: Dataset) -> list[Table]:
        """Return the dataset's folds; empty if its data is missing."""
        if dataset.folder and (self.data is None or not (self.data / dataset.folder).is_dir()):
            return []
        tables = dataset.tables(self.data or Path())[: self.folds]
        return [self.shorten(table) for table in tables[:2]] if self.trial else tables

    def shorten(self, table: Table) -> Table:
        """Return a few samples of every split, equally many per class."""
        seen: Counter[str] = Counter()
        turns = []
        for sample in table.samples:
            turns.append(seen[key := f"{sample.split} {sample.labels}"])
            seen[key] += 1
        ordered = [table.samples[i] for i in np.argsort(turns, kind="stable")]
        return table.with_samples(
            sample for split in SPLITS for sample in [s for s in ordered if s.split == split][:TRIAL_SAMPLES]
        )

    def settle(self, dataset: Dataset) -> Dataset:
        return replace(dataset, settings=(*dataset.settings, "optim.epochs=1")) if self.trial else dataset


def on_dataset(name: str, place: Workplace, scratch: Path) -> dict[str, Any]:
    dataset = place.settle(DATASETS[name])
    tables = place.tables(dataset)
    if not tables:
        return {}
    cases = []
    for fold, table in enumerate(tables):
        (folder := scratch / f"fold{fold}").mkdir()
        cases.append(
            case_from_run(
                datasets.train_fold(dataset, fold, table, place.runs, folder),
                dataset.max_drop,
                folder,
                every_peer=dataset.every_peer,
                profiles=dataset.profiles,
            )
        )
    return {
        "protocol": dataset.protocol,
        "folds": len(tables),
        "settings": list(dataset.settings),
        **compare_cases(cases, scratch),
    }


def outliers(place: Workplace, scratch: Path) -> dict[str, Any]:
    """Return a trained ViT and its equivalent with outlier channels."""
    table = datasets.sound_or_defective()
    table = place.shorten(table) if place.trial else table
    plain, twin = place.runs / "vit_backbone", scratch / "twin_backbone"
    begin = time.perf_counter()
    if not (plain / "model.safetensors").is_file():
        datasets.train_vit(table, plain, epochs=2 if place.trial else datasets.VIT_EPOCHS)
    difference = datasets.write_outlier_twin(plain, twin)
    print(
        f"  trained in {time.perf_counter() - begin:.0f} s; "
        f"relative difference of the twin in floating point: {difference:.1e}"
    )
    run = datasets.vit_run(table, plain, scratch / "vit")
    models = {}
    for name, root in (("trained", run.root), ("with outliers", datasets.twin_run(run, twin, scratch / "twin").root)):
        (folder := scratch / name.replace(" ", "-")).mkdir()
        print(f" {name}:")
        models[name] = compare_cases([case_from_run(root, 0.5, folder)], folder)
    return {
        "protocol": datasets.VIT_PROTOCOL,
        "vit": datasets.VIT,
        "epochs": datasets.VIT_EPOCHS,
        "channels": datasets.OUTLIERS,
        "gain": datasets.OUTLIER_GAIN,
        "relative_difference_fp32": difference,
        "models": models,
    }


def _probe_run(place: Workplace, scratch: Path) -> Path:
    dataset = place.settle(DATASETS["elpv_probe"])
    return datasets.train_fold(dataset, 0, place.tables(dataset)[0], place.runs, scratch)


def memory(place: Workplace, scratch: Path) -> dict[str, Any]:
    """Measure the peak memory of calibrations of EfficientNet-Lite0 at 224², each in its own process."""
    bundle, _ = export_run(_probe_run(place, scratch), scratch / "bundle", ExportOptions())
    photos, frames = sorted(cell_photos())[: MEMORY_SAMPLES[-1]], scratch / "frames"
    with frames.open("wb") as file:
        for path, _ in photos[:TRIAL_SAMPLES] if place.trial else photos:
            file.write(next(read_clips(path, bundle.contract.pixel, None)).frames.tobytes())
    our_counts, their_counts = (
        ((TRIAL_SAMPLES,), (TRIAL_SAMPLES,)) if place.trial else (MEMORY_SAMPLES, ENTROPY_SAMPLES)
    )

    def measure_process(kind: str, samples: int) -> dict[str, Any] | None:
        command = [sys.executable, peers.__file__, kind, str(bundle.path("encoder", "fp32")), str(frames), str(samples)]
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(
                f"  {kind}, {samples} samples: failed: {(done.stderr.strip().splitlines() or ['killed'])[-1]}",
                flush=True,
            )
            return None
        row = {
            "kind": kind,
            "samples": samples,
            **json.loads(done.stdout.splitlines()[-1]),
            "seconds": round(time.perf_counter() - begin, 1),
        }
        print(f"  {row}", flush=True)
        return row

    rows = [measure_process("ours", samples) for samples in our_counts]
    rows.append(next(filter(None, (measure_process("entropy", samples) for samples in their_counts)), None))
    return {"frame": list(bundle.contract.pixel.frame_shape), "rows": [row for row in rows if row]}


def export_time(place: Workplace, scratch: Path) -> dict[str, Any]:
    """Time a whole export of EfficientNet-Lite0 and its phases."""
    run = _probe_run(place, scratch)
    table = Run.open(run).read_split()
    calib, val = (
        draw_samples(table.of_split("train"), EXPORT_CALIBRATION, seed=0),
        draw_samples(table.of_split("val"), EXPORT_VALIDATION, seed=0),
    )
    phases: defaultdict[str, float] = defaultdict(float)
    phase, since = "starting", time.perf_counter()

    def mark(what: str, done: int = 0, total: int = 0) -> None:
        nonlocal phase, since
        now = time.perf_counter()
        phases[phase] += now - since
        phase, since = what, now

    refusal = ""
    try:
        export_run(
            run,
            scratch / "bundle",
            ExportOptions(int8=True, max_drop=0.3),
            calib=calib,
            val=val,
            calib_samples=len(calib),
            on_progress=mark,
        )
    except VidriskError as error:
        refusal = str(error)
    mark("done")
    whole = sum(phases.values())
    print(
        "\n".join(
            [f"  {whole:7.1f} s in all {refusal}", *(f"  {seconds:7.1f} s {what}" for what, seconds in phases.items())]
        )
    )
    return {
        "calibration": len(calib),
        "validation": len(val),
        "seconds": round(whole, 1),
        "phases_s": {what: round(seconds, 1) for what, seconds in phases.items()},
        "refusal": refusal,
    }


SECTIONS: dict[str, Callable[[Workplace, Path], dict[str, Any]]] = {
    **{name: partial(on_dataset, name) for name in DATASETS},
    "outliers": outliers,
    "memory": memory,
    "export_time": export_time,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--folds", type=int)
    parser.add_argument("--trial", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)}")
    for name in arguments.sections or SECTIONS:
        print(f"{name}:", flush=True)
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="int8-") as folder:
            scratch = Path(folder)
            os.environ["VIDRISK_CACHE"] = str(scratch / "cache")  # nothing that another export has measured
            runs = arguments.runs.resolve() if arguments.runs and not arguments.trial else scratch / "runs"
            part = SECTIONS[name](Workplace(arguments.data, runs, arguments.folds, arguments.trial), scratch)
        if not part:
            print(f"  skipped: --data has no {DATASETS[name].folder}")
        elif not arguments.trial:
            part |= {
                "seconds_in_all": round(time.perf_counter() - begin),
                "machine": describe_machine() | ({"nncf": metadata.version("nncf")} if is_installed("nncf") else {}),
            }
            written = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
            RESULT.write_text(json.dumps({**written, name: part}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
