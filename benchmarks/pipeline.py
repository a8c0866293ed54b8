"""Compare the inference run with its parts and with other tools: overhead, speed, overlap, memory, start, fewer frames.

    python benchmarks/pipeline.py [SECTION ...] --data DIR --work DIR [--run RUN ...] [--bundle BUNDLE] [--python
    PYTHON] [--trial]

SECTION: overhead, peers_clips, peers_720p, peers_vit, overlap, memory, cold_start, keyframes, static; default: all.
Each writes its own part of ``results/pipeline.json``, and keeps the others.

--data: the folder with ut_interaction_set1 and clips. --work: the folder for videos, runs and bundles, which are
reused. --run: runs on UT-Interaction; the first one is timed, accuracy is pooled over all, each on its own test split;
default: five folds are trained. --bundle: of the first run; default: it is exported. --python: the interpreter of a
device's environment, which cold_start uses. --trial: few clips and one round, to check that everything works; the
result goes to the folder of temporary files.

Every program runs in its own process and is measured from outside, in turns with the others; the first turn is not
counted. ``vidrisk infer`` runs with its default settings, except for those that are named.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from long_video import link_clips
from machine import describe_machine
from pipeline_models import ANY_DROP, bundle_of, train_runs, vit_run
from pipeline_programs import Ours, Place, cpus, in_turns, infer_command, median, ratio, share, walls
from process_costs import MemoryWatch, adopt_orphans

from vidrisk.export.trained import ExportOptions
from vidrisk.models.run import METRICS, Run
from vidrisk.runtimes import Bundle

RESULT = Path(__file__).parent / "results" / "pipeline.json"
STARTS, FOLDS = 7, 5
UT_CLIPS, VIT_CLIPS = 300, 60
OVERLAP_SECONDS, MEMORY_SECONDS = 600, (60, 3600)
WINDOW_S, STRIDES_S = 2.0, (2.0, 0.5)
POLL_S = 0.005
CHEAPER = {"keyframes": (("--frames", "keyframes"),), "static": (("--skip-static", "4"), ("--skip-static", "12"))}
LIBRARIES = "vidrisk", "numpy", "av", "onnxruntime", "openvino", "torch"
INSTALLED = """
import json, sys
from importlib import metadata
found = {d.metadata["Name"]: d.version for d in metadata.distributions()}
print(json.dumps({name: found.get(name) for name in sys.argv[1:]}))
"""


def overhead(place: Place) -> dict[str, Any]:
    """Measure the processor time of a whole run relative to decoding alone plus inference alone."""
    rows = []
    for name, clips in (
        ("UT-Interaction, each clip once", place.ut(place.size(60, 6))),
        ("UT-Interaction, 300 names", place.ut(place.size(UT_CLIPS, 12))),
        ("720p H.264", place.hd()),
    ):
        first = place.infer(clips, "--no-report")
        count, named, batch = len(first.labels), first.engine, first.batch
        done: dict[str, list[Any]] = in_turns(
            {
                "infer": partial(place.infer, clips, *named, "--no-report"),
                "with_report": partial(place.infer, clips, *named),
                "decode": partial(place.peer, "decode", place.bundle, clips),
                "model": partial(place.peer, "model", place.bundle, count, *named, "--batch", batch),
            },
            place.rounds,
        )
        parts = [a + b for a, b in zip(cpus(done["decode"]), cpus(done["model"]), strict=True)]
        row = {
            "name": name,
            "clips": count,
            **first.made_with,
            "cpu_s": {program: median(cpus(found)) for program, found in done.items()},
            "wall_s": {program: median(walls(found)) for program, found in done.items()},
            "overhead": ratio(cpus(done["infer"]), parts),
            "overhead_with_report": ratio(cpus(done["with_report"]), parts),
        }
        say(
            f"{name}: {count} clips, {row['cpu_s']}, overhead {row['overhead']}, "
            f"with report {row['overhead_with_report']}"
        )
        rows.append(row)
    return {"limit": 1.10, "rounds": place.rounds, "rows": rows}


def peers_clips(place: Place) -> dict[str, Any]:
    """Measure clips per second of a run and of its model part, beside a plain script and a hand-written pipeline."""
    clips = place.ut(place.size(UT_CLIPS, 12))
    return _beside_peers(place, "EfficientNet-Lite0, UT-Interaction", place.runs[0], place.bundle, clips, 15.0)


def peers_720p(place: Place) -> dict[str, Any]:
    """Measure the same on clips whose decoding takes most of the time."""
    return _beside_peers(place, "EfficientNet-Lite0, 720p H.264", place.runs[0], place.bundle, place.hd(), 15.0)


def peers_vit(place: Place) -> dict[str, Any]:
    """Measure the same with a large model."""
    run = vit_run(place.runs[0], place.work, trial=place.trial)
    clips = place.ut(place.size(VIT_CLIPS, 6))
    return _beside_peers(place, "ViT-B/16, UT-Interaction", run, bundle_of(run, place.work, ANY_DROP), clips, 6.0)


def _beside_peers(place: Place, name: str, run: Path, bundle: Path, clips: Path, limit: float) -> dict[str, Any]:
    first = place.infer(clips, "--no-report", bundle=bundle)
    count, named, batch = len(first.labels), first.engine, first.batch
    variants = {
        f"{decoding}, batch {frames}": (*named[2:], "--decoding", decoding, "--batch", str(frames))
        for decoding in ("threads", "processes", "codec")[: 1 if place.trial else None]
        for frames in (Bundle.open(bundle).contract.frames, 32)
    }
    tried = in_turns(
        {key: partial(place.peer, "queue", bundle, clips, *options) for key, options in variants.items()}, 1
    )
    best = min(tried, key=lambda key: tried[key][0].spent.wall_s)
    say(f"{name}: queue tried: { {key: median(walls(found)) for key, found in tried.items()} }")
    programs: dict[str, Callable[[], Any]] = {
        "vidrisk": partial(place.infer, clips, *named, "--no-report", bundle=bundle),
        "script": partial(place.peer, "script", run, clips),
        "queue": partial(place.peer, "queue", bundle, clips, *variants[best]),
        "vidrisk_model": partial(place.peer, "model", bundle, count, *named, "--batch", batch, "--warm"),
        "queue_model": partial(place.peer, "queue_model", bundle, count, *variants[best]),
        "queue_f32_model": partial(place.peer, "queue_model", bundle, count, *variants[best], "--precision", "f32"),
    }
    done: dict[str, list[Any]] = in_turns(programs, place.rounds)
    ours = done["vidrisk"]
    model_s = {
        "vidrisk": [one.printed["model_s"] for one in done["vidrisk_model"]],
        "script": [one.printed["model_s"] for one in done["script"]],
        "queue": [one.printed["model_s"] for one in done["queue_model"]],
        "queue_f32": [one.printed["model_s"] for one in done["queue_f32_model"]],
    }
    labels = {"vidrisk": ours[0].by_path, **{program: done[program][0].labels for program in ("script", "queue")}}
    row = {
        "name": name,
        "clips": count,
        **ours[0].made_with,
        "queue_settings": best,
        "queue": done["queue"][0].printed,
        "queue_tried_wall_s": {key: median(walls(found)) for key, found in tried.items()},
        "clips_per_s": {program: median(count / wall_s for wall_s in walls(done[program])) for program in labels},
        "model_clips_per_s": {
            program: median(count / each for each in seconds) for program, seconds in model_s.items()
        },
        "run_s": {
            "vidrisk": median(one.summary["timings_s"]["wall"] for one in ours),
            **{program: median(one.printed["run_s"] for one in done[program]) for program in ("script", "queue")},
        },
        "cpu_s": {program: median(cpus(done[program])) for program in labels},
        "model_over_script": ratio(model_s["script"], model_s["vidrisk"]),
        "script_limit": limit,
        "over_script": ratio(walls(done["script"]), walls(ours)),
        "model_over_queue": ratio(model_s["queue"], model_s["vidrisk"]),
        "model_over_queue_f32": ratio(model_s["queue_f32"], model_s["vidrisk"]),
        "over_queue": ratio(walls(done["queue"]), walls(ours)),
        "agreement": {program: share(labels["vidrisk"], labels[program]) for program in ("script", "queue")},
        "top1": {program: _top1(found, Run.open(run)) for program, found in labels.items()},
    }
    say(
        f"{name}: {row['clips_per_s']} clips/s, model {row['model_clips_per_s']}; over script {row['over_script']}, "
        f"model {row['model_over_script']}; over queue {row['over_queue']}, model {row['model_over_queue']}, "
        f"in the same precision {row['model_over_queue_f32']}; "
        f"agreement {row['agreement']}, top-1 {row['top1']}"
    )
    return {"rounds": place.rounds, "queue_limit": 0.95, "row": row}


def _top1(labels: Mapping[str, str], run: Run) -> float | None:
    """Return the share of clips labelled as their folder; None if folders are no labels or the run is untrained."""
    known = run.labels.targets[0].labels if (run.root / METRICS).is_file() else ()
    truth = {path: folder for path in labels if (folder := Path(path).parent.name) in known}
    return share(truth, labels) if truth else None


def overlap(place: Place) -> dict[str, Any]:
    """Time one long video without overlap and with 75 %, also with a program that encodes each window separately."""
    frames = Bundle.open(place.bundle).contract.frames
    if STRIDES_S[1] * frames % WINDOW_S:
        raise SystemExit(f"a bundle of {frames} frames does not look at the same moments in overlapping windows")
    video = place.video(place.size(OVERLAP_SECONDS, 30))
    first = place.infer(video, "--window", str(WINDOW_S), "--no-report")
    programs: dict[str, Callable[[], Any]] = {}
    for stride in STRIDES_S:
        options = ("--window", str(WINDOW_S), "--stride", str(stride))
        programs[f"vidrisk, stride {stride:g} s"] = partial(place.infer, video, *options, *first.engine, "--no-report")
        programs[f"queue, stride {stride:g} s"] = partial(
            place.peer, "queue_windows", place.bundle, video, *options, *first.engine[2:]
        )
    done: dict[str, list[Any]] = in_turns(programs, place.rounds)
    plain, peer_plain, overlapping, peer_overlapping = done.values()
    row = {
        "video_s": place.size(OVERLAP_SECONDS, 30),
        "window_s": WINDOW_S,
        "strides_s": STRIDES_S,
        **first.made_with,
        "windows": [len(found[0].labels) for found in (plain, overlapping)],
        "peer_agreement": [
            share(found[0].by_start, peer[0].labels)
            for found, peer in ((plain, peer_plain), (overlapping, peer_overlapping))
        ],
        "wall_s": {key: median(walls(found)) for key, found in done.items()},
        "cpu_s": {key: median(cpus(found)) for key, found in done.items()},
        "cost": ratio(walls(overlapping), walls(plain)),
        "cost_cpu": ratio(cpus(overlapping), cpus(plain)),
        "peer_cost": ratio(walls(peer_overlapping), walls(peer_plain)),
        "peer_cost_cpu": ratio(cpus(peer_overlapping), cpus(peer_plain)),
        "limit": 1.15,
        "rounds": place.rounds,
    }
    say(
        f"{row['wall_s']}, cost {row['cost']}, CPU {row['cost_cpu']}, "
        f"peer {row['peer_cost']}, CPU {row['peer_cost_cpu']}"
    )
    return row


def memory(place: Place) -> dict[str, Any]:
    """Measure the peak memory of all processes of a run together, for a minute of video and for an hour."""
    window = ("--window", str(WINDOW_S), "--stride", str(STRIDES_S[1]))
    lengths = (10, 60) if place.trial else MEMORY_SECONDS

    def measure_memory(seconds: int, *options: str) -> tuple[MemoryWatch, Ours]:
        watch = MemoryWatch()
        return watch, place.infer(place.video(seconds), *window, *options, watch=watch)

    rows = []
    for name, options in (("with report", ()), ("without report", ("--no-report",))):
        done = in_turns({str(seconds): partial(measure_memory, seconds, *options) for seconds in lengths}, place.rounds)
        peaks = [[watch.pss_mb for watch, _ in found] for found in done.values()]
        row = {
            "name": name,
            **done[str(lengths[0])][0][1].made_with,
            "rows": [
                {
                    "video_s": int(seconds),
                    "windows": len(found[0][1].labels),
                    "pss_mb": median(watch.pss_mb for watch, _ in found),
                    "sum_of_peaks_mb": median(watch.peaks_mb for watch, _ in found),
                    "processes": max(watch.processes for watch, _ in found),
                    "wall_s": median(ours.spent.wall_s for _, ours in found),
                }
                for seconds, found in done.items()
            ],
            "growth": ratio(peaks[1], peaks[0]),
        }
        say(f"{name}: growth {row['growth']}, {row['rows']}")
        rows.append(row)
    return {
        "limit": 1.1,
        "limit_mb": 700,
        "window_s": WINDOW_S,
        "stride_s": STRIDES_S[1],
        "rounds": place.rounds,
        "rows": rows,
    }


def cold_start(place: Place) -> dict[str, Any]:
    """Return the seconds from process start to the first prediction in the file, and to process end, for one clip."""
    clip = place.ut_clips[0]
    cases = {
        "auto, chosen before": (),
        "OpenVINO INT8": ("--runtime", "openvino", "--variant", "int8"),
        "ONNX Runtime INT8": ("--runtime", "onnxruntime", "--variant", "int8"),
    }

    def time_start(*options: str) -> tuple[float, float]:
        with tempfile.TemporaryDirectory(dir=place.work) as scratch:
            out, seen_s = Path(scratch) / "out", list[float]()
            predictions, begin = out / "predictions.jsonl", time.perf_counter()

            def watch() -> None:
                if not seen_s and predictions.is_file() and predictions.stat().st_size:
                    seen_s.append(time.perf_counter() - begin)

            command = [*infer_command(place.python, place.bundle, clip, out), "--no-report", *options]
            spent = place.run_command(command, watch, every_s=POLL_S)
            return (seen_s or [spent.wall_s])[0], spent.wall_s

    starts = place.size(STARTS, 2)
    done = in_turns({name: partial(time_start, *options) for name, options in cases.items()}, starts)
    rows = [
        {
            "name": name,
            "first_prediction_s": median(first for first, _ in found),
            "end_s": median(end for _, end in found),
        }
        for name, found in done.items()
    ]
    say(str(rows))
    installed = json.loads(place.run_command([place.python, "-c", INSTALLED, *LIBRARIES]).output)
    return {"limit_s": 1.5, "starts": starts, "installed": installed, "rows": rows}


def cheaper(place: Place, section: str) -> dict[str, Any]:
    """Measure time and accuracy of ways to skip frames on a long video and on clips."""
    seconds, ways = place.size(OVERLAP_SECONDS, 30), {" ".join(options): options for options in CHEAPER[section]}
    rows = []
    for name, inputs, window in (
        (f"{seconds} s of video", place.video(seconds), ("--window", str(WINDOW_S))),
        ("UT-Interaction", place.ut(place.size(UT_CLIPS, 12)), ()),
        ("720p H.264", place.hd(), ()),
    ):
        programs = {
            way: partial(place.infer, inputs, *window, *options, "--no-report")
            for way, options in {"": (), **ways}.items()
        }
        done = in_turns(programs, place.rounds)
        plain = done.pop("")
        for way, spared in done.items():
            row = {
                "name": name,
                "options": way,
                **spared[0].made_with,
                "windows": len(plain[0].labels),
                "same_labels": share(plain[0].labels, spared[0].labels),
                "wall_s": [median(walls(plain)), median(walls(spared))],
                "cpu_s": [median(cpus(plain)), median(cpus(spared))],
                "faster": ratio(walls(plain), walls(spared)),
                "less_cpu": ratio(cpus(plain), cpus(spared)),
            }
            say(f"{name}, {way}: faster {row['faster']}, less CPU {row['less_cpu']}, same labels {row['same_labels']}")
            rows.append(row)
    accuracy = {way: _accuracy(place, *options) for way, options in {"all frames": (), **ways}.items()}
    say(f"top-1 {accuracy}")
    return {"rounds": place.rounds, "rows": rows, "folds": len(place.runs), "accuracy": accuracy}


def _accuracy(place: Place, *options: str) -> dict[str, Any]:
    """Return top-1 by ``vidrisk eval`` in fp32, pooled over the runs, each on its own test split."""
    hits = samples = 0
    for run in place.runs:
        bundle, tested = bundle_of(run, place.work, ExportOptions()), Run.open(run).read_split().of_split("test")
        clips = link_clips([sample.path for sample in tested.samples], len(tested), place.work / f"{run.name}-test")
        with tempfile.TemporaryDirectory(dir=place.work) as scratch:
            file = Path(scratch) / "metrics.json"
            place.run_command(
                [sys.executable, "-m", "vidrisk", "eval", bundle, clips, "--variant", "fp32", "-o", file, *options]
            )
            confusion = next(iter(json.loads(file.read_text(encoding="utf-8"))["metrics"].values()))["confusion"]
        hits, samples = hits + sum(row[i] for i, row in enumerate(confusion)), samples + sum(map(sum, confusion))
    return {"hits": hits, "samples": samples, "top1": round(hits / samples, 4)}


def say(line: str) -> None:
    print(f"  {line}", flush=True)


PEERS = peers_clips, peers_720p, peers_vit
SECTIONS: dict[str, Callable[[Place], dict[str, Any]]] = {
    **{maker.__name__: maker for maker in (overhead, *PEERS, overlap, memory, cold_start)},
    **{section: partial(cheaper, section=section) for section in CHEAPER},
}


def place_from(arguments: argparse.Namespace) -> Place:
    """Return the place of a measurement; runs and bundles that were not given are created."""
    work = arguments.work.resolve() / ("trial" if arguments.trial else "")
    work.mkdir(parents=True, exist_ok=True)
    os.environ["VIDRISK_CACHE"] = str(work / "cache")
    data = arguments.data.resolve()
    runs = [run.resolve() for run in arguments.run or train_runs(data, work, 1 if arguments.trial else FOLDS)]
    bundle = arguments.bundle or bundle_of(runs[0], work, ExportOptions(int8=True, max_drop=0.5, allow_drop=True))
    return Place(data, work, tuple(runs), bundle.resolve(), arguments.python, arguments.trial)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--run", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--trial", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)}")
    adopt_orphans()
    place = place_from(arguments)
    result = Path(tempfile.gettempdir()) / "pipeline-trial.json" if arguments.trial else RESULT
    for name in arguments.sections or SECTIONS:
        print(f"{name}:", flush=True)
        begin = time.perf_counter()
        part = SECTIONS[name](place) | {
            "seconds_in_all": round(time.perf_counter() - begin),
            "machine": describe_machine(),
        }
        written = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
        result.write_text(json.dumps({**written, name: part}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
