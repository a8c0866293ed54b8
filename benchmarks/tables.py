"""Write the tables of the documents from the JSON in ``benchmarks/results`` and from docstrings.

python benchmarks/tables.py            write them
python benchmarks/tables.py --check    exit code 1 if a table differs
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ROOMS = ("vidrisk", "export", "calibration", "runtimes")
DOCUMENTS = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
NOT_YET = "Not measured yet."
_read: list[str] = []  # results that the table being made was read from
MARK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def result(name: str) -> dict[str, Any]:
    if name not in _read:
        _read.append(name)
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def read_result(name: str) -> dict[str, Any]:
    """Return a result; empty if there is none yet."""
    return result(name) if (RESULTS / f"{name}.json").is_file() else {}


def grid(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)])


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def headline() -> str:
    """Return the most important figures, each with its data and its command."""
    cells, actions, quantized = result("elpv")["rows"][-1], result("ut_interaction"), result("int8")["elpv"]
    kills, overhead = result("kill_resume"), result("pipeline")["overhead"]["rows"]
    tools = {
        row["method"]: row["openvino"] for row in quantized["rows"] if row["profile"] == "cpu" and "openvino" in row
    }
    names = {
        "vidrisk": "vidrisk",
        "NNCF quantize with accuracy control": "NNCF with accuracy control",
        "NNCF quantize": "NNCF",
        "ONNX Runtime, min-max": "ONNX Runtime (min-max)",
    }
    kept = "; ".join(f"{percent(tools[key]['agreement'])} {name}" for key, name in names.items())
    ratios = [row["overhead"]["median"] for row in overhead]
    size = next(row["measured"] for row in result("footprint")["rows"] if "without OpenVINO" in row["what"])
    return grid(
        ["what", "measured", "data and protocol", "command"],
        [
            [
                "solar cells, defective or not; four levels",
                f"{percent(cells['binary_top1'])}; {percent(cells['levels_top1'])}",
                "elpv-dataset, 75/25, mean of three seeds",
                "`benchmarks/elpv.py`",
            ],
            [
                "actions, six classes, default settings",
                f"{percent(actions['default']['top1'])}; recipe found on them: {percent(actions['fixed']['top1'])}",
                "UT-Interaction set 1, 60 clips, leave one sequence out",
                "`benchmarks/ut_interaction.py`",
            ],
            [
                "answers that INT8 leaves as they were",
                kept,
                f"elpv-dataset, {quantized['test_samples']} photos",
                "`benchmarks/int8.py`",
            ],
            [
                "processor time of `infer` over decoding and inference alone",
                f"× {min(ratios):.2f} to × {max(ratios):.2f}",
                "UT-Interaction and 720p clips",
                "`benchmarks/pipeline.py`",
            ],
            [
                "rows lost by runs that were killed and resumed",
                str(kills["lost"]),
                f"{kills['files']} files, {kills['hits']['run'] + kills['hits']['worker']} kills",
                "`benchmarks/kill_resume.py`",
            ],
            ["a device's environment without OpenVINO", size, "pip included", "`benchmarks/footprint.py`"],
        ],
    )


def machine() -> str:
    """Return a sentence that names the processor of each result."""
    names: dict[str, list[str]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        for name, found in machines(path.stem):
            where = f"{found['cores']} cores of {found['processor']} ({', '.join(found['flags'])})"
            names.setdefault(where, []).append(name)
    rows = "\n".join(f"- {where}: {', '.join(stems)}" for where, stems in names.items())
    return f"Measured on (`machine` in each JSON has the versions of Python and packages):\n\n{rows}"


def elpv() -> str:
    rows = []
    for row in result("elpv")["rows"]:
        rows.append(
            [
                row["name"],
                *(
                    f"{100 * row[key]:.1f} %" if key.endswith("top1") else f"{row[key]:.3f}"
                    for key in ("binary_top1", "binary_macro_f1", "levels_top1", "levels_macro_f1")
                ),
            ]
        )
    return grid(["model", "defective or not, top-1", "macro-F1", "four levels, top-1", "macro-F1"], rows)


def ut_interaction() -> str:
    """Return top-1 by recipe, and the confusion matrix of the defaults' first seed."""
    found = result("ut_interaction")
    named = {
        "default": "the defaults; head and decay chosen inside each fold",
        "tuned": "`--tune` inside each fold",
        "fixed": "one recipe for all folds, found on these clips",
    }
    rows = [
        [title, percent(found[name]["top1"]), ", ".join(percent(seed["top1"]) for seed in found[name]["seeds"])]
        for name, title in named.items()
        if name in found
    ]
    first = found["default" if "default" in found else "fixed"]["seeds"][0]
    confusion = [[label, *map(str, counts)] for label, counts in zip(first["labels"], first["confusion"], strict=True)]
    said = "\n\nConfusion of the first seed of the first one, rows are the truth:\n\n"
    return grid(["recipe", "top-1", "per seed"], rows) + said + grid(["", *first["labels"]], confusion)


def label_errors() -> str:
    """Return the share of flipped labels among the most suspected, by question."""
    if not (found := read_result("labels")):
        return NOT_YET
    rows = [
        [
            " / ".join(row["labels"]),
            f"{row['samples']:,}",
            percent(sum(row["found"]) / len(row["found"])),
            f"{percent(min(row['found']))} – {percent(max(row['found']))}",
        ]
        for row in found["flipped"]
    ]
    return grid(["elpv, labels", "photos", "flipped ones among the most suspected", "of seeds"], rows)


def learning_curves() -> str:
    """Return forecasts from half of the samples, and the measured results."""
    if not (found := read_result("labels")):
        return NOT_YET
    rows = []
    for curve in found["curves"]:
        first = curve["rows"][0]
        right = sum(row["is_within"] for row in curve["rows"])
        off = sum(abs(row["forecast"] - row["measured"]) for row in curve["rows"]) / len(curve["rows"])
        low, high = first["interval"]
        rows.append(
            [
                curve["dataset"].replace("_", " "),
                f"{first['known']:,} → {first['measured_at']:,}",
                percent(first["score_known"]),
                f"{percent(first['forecast'])} [{percent(low)}, {percent(high)}]",
                percent(first["measured"]),
                f"{100 * off:.1f} points",
                f"{right} of {len(curve['rows'])}",
            ]
        )
    return grid(
        [
            "data",
            "samples learnt from",
            "known",
            "forecast and its interval",
            "measured",
            "off, mean of seeds",
            "within the interval",
        ],
        rows,
    )


def motion() -> str:
    """Return top-1 of heads on clips whose class no single frame shows."""
    if not (found := read_result("motion")):
        return NOT_YET
    kinds = list(dict.fromkeys(row["head"] for row in found["rows"]))
    classes = list(dict.fromkeys(row["classes"] for row in found["rows"]))
    by = {(row["classes"], row["head"]): row for row in found["rows"]}
    return grid(
        ["classes", "chance", *kinds],
        [
            [name, percent(by[name, kinds[0]]["chance"]), *(percent(by[name, kind]["top1"]) for kind in kinds)]
            for name in classes
        ],
    )


def other_scenes() -> str:
    """Return top-1 in the training scenes and in others, by recipe."""
    if not (found := read_result("other_scenes")):
        return NOT_YET
    scenes = [*found["rows"][0]["top1"]]
    return grid(
        ["recipe", *scenes],
        [
            [
                row["recipe"] + (f" (`{' '.join(row['settings'])}`)" if row["settings"] else ""),
                *(percent(row["top1"][scene]) for scene in scenes),
            ]
            for row in found["rows"]
        ],
    )


def starts() -> str:
    """Return top-1 and macro-F1 of heads that start at a probe or at zero, with and without averaged weights."""
    if not (found := read_result("starts")):
        return NOT_YET
    return grid(
        ["start", "top-1, mean of six splits", "macro-F1", "best epoch"],
        [
            [
                row["start"],
                percent(row["top1"]),
                f"{row['macro_f1']:.3f}",
                ", ".join(str(each["best_epoch"]) for each in row["seeds"]),
            ]
            for row in found["rows"]
        ],
    )


def training_data() -> str:
    """Return the share of loading in a step, and the peak memory by number of clips."""
    if not (found := read_result("training_data")):
        return NOT_YET
    tables = []
    if "loading" in found:
        tables.append(
            grid(
                ["decoded frames", "loading, share of a step", "most of an epoch", "a step of 8 clips"],
                [
                    [row["frames"], percent(row["share"]), percent(row["most"]), f"{row['step_s']:.2f} s"]
                    for row in found["loading"]
                ],
            )
        )
    if "memory" in found:
        rows = [
            [f"{row['clips']:,}", f"{row['peak_mb']:,.0f} MiB", f"{row['seconds']:.0f} s"] for row in found["memory"]
        ]
        tables.append(grid(["clips", "most memory of its own", "whole run"], rows))
    return "\n\n".join(tables)


def coverage() -> str:
    named = {"level": "four levels", "defective": "defective or not"}
    rows = []
    for row in result("coverage")["rows"]:
        alone = row["one_threshold"]
        rows.append(
            [
                named[row["target"]],
                f"{100 * row['asked']:.0f} %",
                f"{percent(row['coverage'])} (± {100 * row['coverage_deviation']:.1f})",
                percent(min(row["coverage_of"].values())),
                *(percent(row[key]) for key in ("kept", "accuracy_of_kept", "accuracy")),
                f"{row['gain_points']:.1f} ({row['least_gain_points']:.1f})",
                f"{percent(alone['kept'])}, {percent(min(alone['coverage_of'].values()))}",
            ]
        )
    return grid(
        [
            "question",
            "coverage asked",
            "coverage (± of a split)",
            "of the worst class",
            "kept",
            "top-1 of kept",
            "of all",
            "gain in points (least)",
            "with one threshold: kept, worst class",
        ],
        rows,
    )


def gate() -> str:
    """Return the shares of draws in which full INT8, the slower mixed point or nothing ships, by number of samples."""
    cases = result("gate_simulation")["cases"]
    sizes = [size for size in next(iter(cases.values())) if size != "199"]
    return grid(
        ["true drop and agreement", *(f"{size} samples" for size in sizes)],
        [
            [
                case,
                *(
                    " · ".join(f"{100 * rows[size][name]:.0f}" for name in ("int8", "mixed", "refused"))
                    for size in sizes
                ),
            ]
            for case, rows in cases.items()
        ],
    )


def int8() -> str:
    """Return accuracy and speed of every method per dataset, the transformer with outliers, memory and time."""
    found = result("int8")
    named = {
        "elpv": "elpv, trained",
        "elpv_probe": "elpv, frozen features",
        "magnetic_tile": "magnetic tile",
        "brick_crack": "brick crack",
        "ut_interaction": "UT-Interaction",
    }
    parts = {title: found[name] for name, title in named.items() if name in found}
    tables = [_int8_table(parts, _format_loss), _int8_table(parts, _speed)]
    if "outliers" in found:
        models = found["outliers"]["models"]
        tables.append(_int8_table({f"ViT, {name}": part for name, part in models.items()}, _format_loss))
    if "memory" in found:
        rows = [
            [
                "vidrisk" if row["kind"] == "ours" else "ONNX Runtime, entropy",
                str(row["samples"]),
                f"{row['peak_mb']:,} MB",
            ]
            for row in found["memory"]["rows"]
        ]
        tables.append(grid(["calibration of EfficientNet-Lite0, 224²", "samples", "peak memory of the process"], rows))
    if "export_time" in found:
        whole = found["export_time"]
        rows = [[what, f"{seconds:.0f} s"] for what, seconds in whole["phases_s"].items() if seconds >= 1]
        tables.append(grid(["phase of an export", f"{whole['seconds']:.0f} s in all"], rows))
    return "\n\n".join(tables)


def _int8_table(parts: dict[str, Any], cell: Callable[[dict[str, Any]], str]) -> str:
    header = [
        f"{title} ({part['test_samples']} samples, fp32 {100 * part['fp32']['openvino']['top1']:.1f} %)"
        for title, part in parts.items()
    ]
    by_method = [{(row["method"], row["profile"]): cell(row) for row in part["rows"]} for part in parts.values()]
    methods = dict.fromkeys(key for cells in by_method for key in cells)
    rows = [[", ".join(key), *(cells.get(key, "–") for cells in by_method)] for key in methods]
    return grid(["", *header], rows)


def _format_loss(row: dict[str, Any]) -> str:
    """Return the lost points of top-1, their 95 % interval, and the share of unchanged predictions, on OpenVINO."""
    if "openvino" not in row:
        return "–"
    low, high = row["openvino"]["drop_interval"]
    mark = "*" if any(note["waived"] for note in row["notes"]) else ""
    drop, agreement = row["openvino"]["drop_points"], row["openvino"]["agreement"]
    return f"{drop:.1f} [{low:.1f}, {high:.1f}], {100 * agreement:.1f} %{mark}"


def _speed(row: dict[str, Any]) -> str:
    """Return frames per second on OpenVINO and ONNX Runtime, each with its ratio to fp32."""
    return (
        " · ".join(
            f"{row['frames_per_s'][runtime]:.0f} (× {row['speedup'][f'{runtime} over {runtime} fp32']:.2f})"
            for runtime in ("openvino", "onnxruntime")
            if runtime in row.get("frames_per_s", {})
        )
        or "–"
    )


def pipeline() -> str:
    """Return the overhead, peers, limits and cheaper frames of the inference run, kills and damaged files.

    Parts that have not been measured yet are left out.
    """
    found = read_result("pipeline")
    tables = []
    if "overhead" in found:
        rows = [
            [
                f"{row['name']} ({row['clips']} clips)",
                *(f"{row['cpu_s'][part]:.1f} s" for part in ("decode", "model", "infer")),
                f"**{row['overhead']['median']:.2f}**",
                f"{row['overhead_with_report']['median']:.2f}",
            ]
            for row in found["overhead"]["rows"]
        ]
        tables.append(
            grid(
                ["processor time", "decoding alone", "inference alone", "`vidrisk infer`", "ratio", "with the report"],
                rows,
            )
        )
    if rows := [found[name]["row"] for name in ("peers_clips", "peers_720p", "peers_vit") if name in found]:
        tables += _peer_tables(rows)
    if limits := _pipeline_limits(found):
        tables.append(grid(["what", "measured", "limit"], limits))
    cheaper = [part for name in ("keyframes", "static") if (part := found.get(name))]
    if cheaper:
        tables += _cheaper_tables(cheaper)
    if kills := read_result("kill_resume"):
        tables.append(_kills_sentence(kills))
    if fuzz := read_result("fuzz"):
        tables.append(_fuzz_sentence(fuzz))
    return "\n\n".join(tables)


def _kills_sentence(found: dict[str, Any]) -> str:
    hits = found["hits"]
    return (
        f"Nothing lost: {found['runs']} runs over {found['files']} files, {found['broken']} of them broken in "
        f"{found['ways']} ways, received SIGKILL {hits.get('run', 0) + hits.get('worker', 0)} times at random moments, "
        f"{hits.get('worker', 0)} of them in a decode worker, and were resumed. Of their rows and predictions "
        f"{found['lost']} were lost, {found['twice']} were written twice, {found['wrong']} were "
        "wrong; probabilities differed from those of an undisturbed run by "
        f"{found['probabilities_differ_by']:g} at most ({found['engine']})."
    )


def _fuzz_sentence(found: dict[str, Any]) -> str:
    named = {"tiny": "tiny files of every kind", "real": "real clips and photos"}
    kinds = []
    for kind, states in found["states"].items():
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items(), key=lambda item: -item[1]))
        kinds.append(f"{sum(states.values()):,} from {named[kind]}: {counts}")
    return (
        f"Damaged media: all {found['files']:,} files of one run ended in its ledger ({'; '.join(kinds)}). The decoder "
        f"was silent for {found['longest_silence_s']:.1f} s at most, "
        f"with a file timeout of {found['file_timeout_s']:g} s."
    )


def _peer_tables(rows: list[dict[str, Any]]) -> list[str]:
    """Return clips per second of whole runs and of the model part, then processor time, then what was predicted."""
    programs = {"vidrisk": "vidrisk", "script": "transformers and torch", "queue": "hand-written OpenVINO"}
    same = {"queue_f32": "hand-written, with vidrisk's precision"}

    def cell(row: dict[str, Any], kind: str, program: str) -> str:
        rate = f"{row[f'{kind}clips_per_s'][program]:.1f}"
        return rate if program == "vidrisk" else f"{rate} (× {row[f'{kind}over_{program}']['median']:.2f})"

    speed = [
        [
            row["name"],
            *(cell(row, "", program) for program in programs),
            *(cell(row, "model_", program) for program in programs | same),
        ]
        for row in rows
    ]
    header = [
        *(f"{title}, whole" for title in programs.values()),
        *(f"{title}, model" for title in (programs | same).values()),
    ]
    spent = [
        [row["name"], *(f"{1000 * row['cpu_s'][program] / row['clips']:.0f} ms" for program in programs)]
        for row in rows
    ]
    correct = [
        [
            row["name"],
            *(row["top1"][program] for program in programs),
            *(row["agreement"][program] for program in ("script", "queue")),
        ]
        for row in rows
    ]
    answers = [
        [name, *("–" if value is None else f"{100 * value:.1f} %" for value in values)] for name, *values in correct
    ]
    return [
        grid(["clips/s (vidrisk is × as fast)", *header], speed),
        grid(["processor time per clip, whole processes", *programs.values()], spent),
        grid(["top-1", *programs.values(), "the script agrees with ours", "the hand-written one agrees"], answers),
    ]


def _pipeline_limits(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    if part := found.get("overlap"):
        costs = [
            f"× {part[f'{of}cost']['median']:.2f} time, × {part[f'{of}cost_cpu']['median']:.2f} processor"
            for of in ("", "peer_")
        ]
        rows += [
            ["75 % overlap over no overlap", costs[0], f"× {part['limit']} time"],
            ["the same where every window is encoded by itself", costs[1], "–"],
            *(
                [
                    f"{part['video_s'] / 60:g} minutes of video, a window of {part['window_s']:g} s every {stride:g} s",
                    f"{part['wall_s'][f'vidrisk, stride {stride:g} s']:.1f} s with vidrisk and "
                    f"{part['wall_s'][f'queue, stride {stride:g} s']:.1f} s with the hand-written queue",
                    "–",
                ]
                for stride in part["strides_s"]
            ),
        ]
    if part := found.get("memory"):
        for row in part["rows"]:
            short, long = row["rows"]
            rows.append(
                [
                    f"peak memory for {long['video_s'] / 60:g} minutes of video over {short['video_s'] / 60:g}, "
                    f"{row['name']}",
                    f"{long['pss_mb']:.0f} MB over {short['pss_mb']:.0f} MB: × {row['growth']['median']:.2f}",
                    f"× {part['limit']}, {part['limit_mb']} MB",
                ]
            )
    if part := found.get("cold_start"):
        rows += [
            [
                f"start to first prediction, {row['name']}",
                f"{row['first_prediction_s']:.2f} s (end {row['end_s']:.2f} s)",
                f"{part['limit_s']} s",
            ]
            for row in part["rows"]
        ]
    return rows


def _cheaper_tables(parts: list[dict[str, Any]]) -> list[str]:
    rows = [
        [
            f"`{row['options']}`",
            row["name"],
            f"× {row['faster']['median']:.2f}",
            f"÷ {row['less_cpu']['median']:.2f}",
            f"{100 * row['same_labels']:.1f} %",
        ]
        for part in parts
        for row in part["rows"]
    ]
    accuracy = {way: score for part in parts for way, score in part["accuracy"].items()}
    scores = [
        [f"`{way}`" if way.startswith("-") else way, f"{100 * score['top1']:.1f} % of {score['samples']}"]
        for way, score in accuracy.items()
    ]
    return [
        grid(["cheaper frames", "on", "speed", "processor time", "same labels as with all frames"], rows),
        grid(["top-1 on held-out clips of UT-Interaction", ""], scores),
    ]


def footprint() -> str:
    rows = [[row["what"], row["measured"], row["limit"]] for row in result("footprint")["rows"]]
    return grid(["what", "measured", "limit"], rows)


def first_report() -> str:
    """Return the time of each command of the quick start."""
    if not (found := read_result("first_report")):
        return NOT_YET
    rows = [[f"`{row['command']}`", f"{row['wall_s']:.0f} s"] for row in found["rows"]]
    return grid([f"command ({found['photos']} photos)", "time"], [*rows, ["in all", f"{found['wall_s'] / 60:.1f} min"]])


def python_api() -> str:
    found = result("python_api")
    limits, photo = found["limits"], " × ".join(map(str, found["photo"]))
    return grid(
        ["what", "measured", "limit"],
        [
            [
                f"`predict` of a photo of {photo} from a path, warm",
                f"{found['photo_ms']:.1f} ms",
                f"{limits['photo_ms']:.0f} ms",
            ],
            [
                "`predict` of a frame in memory, over the engine alone",
                f"{found['frame_over_runner']:.2f} ×",
                f"{limits['frame_over_runner']} ×",
            ],
            ["`import vidrisk`", f"{found['import_ms']:.0f} ms", f"{limits['import_ms']:.0f} ms"],
        ],
    )


def foreign() -> str:
    rows = []
    for name, found in result("foreign")["models"].items():
        for row in found["rows"]:
            if "refusal" in row:
                rows.append([name, row["method"], "–", "–", "–", row["refusal"]])
                continue
            rows.append(
                [
                    name,
                    row["method"],
                    row["runtime"],
                    f"{100 * row['top1']:.1f} %",
                    f"{100 * row['agreement']:.1f} %",
                    f"{row['speed']:.2f} ×",
                ]
            )
    return grid(["model", "made by", "on", "top-1", "agreement", "speed over fp32"], rows)


def hugging_face() -> str:
    """Return a comparison of ``transformers.pipeline`` and ``vidrisk infer`` on a folder of photos."""
    if not (found := read_result("hugging_face")):
        return NOT_YET
    commands = {
        "pipeline": f"`transformers.pipeline`, batch {found['batch']}",
        "vidrisk fp32": "`vidrisk infer --variant fp32 --no-report`",
        "vidrisk": "`vidrisk infer --no-report`",
        "vidrisk with its report": "`vidrisk infer`",
    }
    rows = [
        [
            commands[row["name"]],
            " ".join(row[key] for key in ("runtime", "variant")) if "runtime" in row else "torch fp32",
            f"{row['wall_s']:.1f} s",
            f"{row['cpu_s']:.1f} s",
            f"{row['faster']['median']:.2f} ×",
            percent(row["same_labels"]),
            percent(row["top1"]),
        ]
        for row in found["rows"]
    ]
    return grid(
        [
            f"{found['photos']:,} names of {found['different_photos']} photos",
            "engine",
            "time",
            "processor time",
            "as fast",
            "same labels",
            "top-1",
        ],
        rows,
    )


def trainer() -> str:
    """Compare the training loop with transformers' Trainer, in steps per second."""
    if not (found := read_result("trainer")):
        return NOT_YET
    rows = [
        [
            row["name"],
            f"{row['steps_per_s']:.2f}",
            f"**{row['times_trainer']:.2f}** ({row['least']:.2f} to {row['most']:.2f})",
        ]
        for row in found["rows"]
    ]
    return grid(["steps per second", "", f"times Trainer's {found['trainer_steps_per_s']:.2f}"], rows)


def imbalance() -> str:
    """Return the recall of rare classes by rule."""
    found = read_result("imbalance")
    rows = [
        [
            what,
            f"{row['frequent']:,} : {row['rare']}",
            row["rule"],
            f"{row['macro_f1']:.3f}",
            percent(row["recall"]),
            f"{row['average_precision']:.3f}",
            f"{row['ece']:.4f}",
            f"{row['loss']:.4f}",
        ]
        for what, part in (("Gaussians", "gaussians"), ("photos", "photos"))
        for row in found[part]
    ]
    return grid(
        [
            "data",
            "samples",
            "`optim.class_weights`",
            "macro-F1",
            "recall of the rare class",
            "its average precision",
            "ECE",
            "log loss",
        ],
        rows,
    )


def kept_features() -> str:
    """Return the seconds of the first epoch and of later ones, by what is kept between epochs."""
    if not (found := read_result("kept_features")):
        return NOT_YET
    rows = [
        [
            row["name"],
            f"{row['first_s']:.2f} s",
            f"{row['later_s']:.3f} s",
            f"**{row['times_anew']:.1f}** ({row['least']:.1f} to {row['most']:.1f})",
        ]
        for row in found["rows"]
    ]
    header = [
        f"{found['clips']} clips, {found['frames']} frames of each",
        "first epoch",
        "a later one",
        "times as fast as anew",
    ]
    return grid(header, rows)


def vlm() -> str:
    """Return top-1 of SmolLM2 with <ACT>, EfficientNet-Lite0 alone and a random head, then the cost of each variant."""
    if not (found := read_result("vlm")):
        return NOT_YET
    accuracy, variants = [], []
    for name, row in found["datasets"].items():
        against = {
            other: f"{pair['points']:+.1f} points, p = {pair['mcnemar_p']:.3g}"
            for other, pair in row["vlm_against"].items()
        }
        top1 = {kind: percent(value) for kind, value in row["top1"].items()}
        accuracy.append(
            [
                f"`{name}` ({row['test_samples']})",
                f"**{top1['vlm']}**",
                top1["plain"],
                against["plain"],
                top1["random_head"],
                against["random_head"],
                top1["random_head_reloaded"],
                against["random_head_reloaded"],
            ]
        )
        for key, cost in row["variants"].items():
            kind, _, variant = key.partition(" ")
            stages = ", ".join(
                f"{stage} {precision}" for stage, precision in cost["precision"].items() if precision != "fp32"
            )
            floats = row["variants"][f"{kind} fp32"]["ms"]
            variants.append(
                [
                    f"`{name}`, {'SmolLM2 with <ACT>' if kind == 'vlm' else 'EfficientNet-Lite0'}",
                    f"{variant} ({stages})" if stages else variant,
                    percent(cost["top1"]),
                    percent(cost["agreement_with_fp32"]),
                    f"{cost['ms']:.1f} ms",
                    f"{floats / cost['ms']:.2f}",
                    f"{cost['size_mb']:.0f} MB",
                    str(cost["runtime"]),
                    ", ".join(f"{mb:.0f} MB on {runtime}" for runtime, mb in cost["memory_mb"].items()),
                ]
            )
    return "\n\n".join(
        [
            grid(
                [
                    "data (test samples)",
                    "SmolLM2 with `<ACT>`, top-1",
                    "EfficientNet-Lite0 alone",
                    "difference",
                    "random head, in memory",
                    "difference",
                    "random head, reloaded",
                    "difference",
                ],
                accuracy,
            ),
            grid(
                [
                    "",
                    "variant",
                    "top-1",
                    "answers as fp32",
                    "a window",
                    "times fp32's speed",
                    "files",
                    "fastest on",
                    "memory",
                ],
                [[cell.replace("<ACT>", "`<ACT>`") for cell in row] for row in variants],
            ),
        ]
    )


def vlm_full_size() -> str:
    """Return files, then memory and time of every phase, of Qwen2.5-VL-3B through export and ONNX Runtime."""
    if not (found := read_result("vlm_full_size")):
        return NOT_YET
    stages = {
        f"{stage}.{variant}": row
        for variant in ("fp32", "int4")
        for stage, row in found[variant]["stages"].items()
        if variant == "fp32" or stage == "text"
    }
    files = [
        [
            f"`{name}.onnx`",
            f"{sum(mb for file, mb in found['files_mb'].items() if file.startswith(name)):,.0f} MB",
            f"{row['apart']:.1e}",
            f"{row['cosine']:.6f}",
            f"{row['forward_s']:.2f} s",
        ]
        for name, row in stages.items()
    ]
    named = {
        "export": "torch to ONNX",
        "pack": "4-bit weights",
        "fp32": "ONNX Runtime, float32",
        "int4": "ONNX Runtime, int4 text",
    }
    phases = [[title, f"{found[phase]['peak_mb'] / 1000:.1f} GB"] for phase, title in named.items()]
    return "\n\n".join(
        [
            f"{found['layers']} of {found['of_layers']} layers of the language model, and the vision tower whole: "
            f"{sum(found['export']['parameters'].values()) / 1e9:.2f} billion weights, "
            f"{found['export']['tokens']} tokens.",
            grid(["file", "size", "largest difference from torch", "cosine", "one window"], files),
            grid(["phase", "peak memory"], phases),
        ]
    )


def gpu_vlm() -> str:
    """Return the times of a training step and of prefill of Qwen2.5-VL-3B on a GPU."""
    found = read_result("gpu").get("vlm")
    if not found:
        return NOT_YET
    training = [
        [name, f"{row['step_s']:.3f} s", f"{row['peak_mb'] / 1000:.1f} GB"] for name, row in found["training"].items()
    ]
    prefill = [
        [stage, way, f"{ms:.2f} ms", f"{found['cosine'][stage].get(way, 1):.4f}"]
        for stage, row in found["prefill_ms"].items()
        for way, ms in row.items()
        if " beside " not in way
    ]
    return "\n\n".join(
        [
            grid(
                [f"a training step of {found['batch']} windows, {found['machine']['gpu']}", "time", "peak memory"],
                training,
            ),
            grid(["stage", "by", "one window", "cosine with float32"], prefill),
        ]
    )


def text_generation() -> str:
    """Return speed, memory and perplexity of text engines, the cost of a schema and the gain of a common prefix."""
    if not (found := read_result("text")):
        return NOT_YET
    perplexity = {name: f"{value:.2f}" for name, value in found["perplexity"].items()}
    rows = [
        [
            name,
            f"{row['prefill']:.0f}",
            f"{row['decode']:.0f}",
            f"{row['decode_of_8']:.0f}",
            f"{row['eight_together_s']:.2f} s ({row['eight_in_turn_s']:.2f} s)",
            f"{found['memory_mb'][name]:.0f} MB",
            perplexity.get(name, ""),
        ]
        for name, row in found["speed"].items()
    ]
    photos = [
        [
            name,
            *(f"{1e3 * row[key]:.0f} ms" for key in ("decode_s", "vision_s", "text_s")),
            f"{row['tokens']:.0f}",
            percent(row["whole"]),
        ]
        for name, row in found["folder"].items()
    ]
    schema, prefix = found["schema"], found["prefix"]
    within = found.get("recipe_within_3_percent")
    chosen = (
        ""
        if within is None
        else f"For a perplexity of at most 3 % more, the gate's search chooses {within['recipe']}: "
        f"{100 * within['rise']:+.1f} % on text that has not chosen. "
    )
    return "\n\n".join(
        [
            grid(
                [
                    "tokens per second",
                    "prefill",
                    "decode",
                    "decode, eight at once",
                    "eight at once (one by one)",
                    "memory",
                    "perplexity",
                ],
                rows,
            ),
            f"{chosen}A schema makes a computed token take "
            f"{schema['schema_ms'] / schema['free_ms']:.2f} times as long; a "
            f"constant beginning saves {percent(prefix['saved'])} of its prefill.",
            f"A folder of {found['photos']} photos, from JPEG files to reports by a schema, eight at a time, "
            "per photo:",
            grid(["engine", "decoding", "vision stage", "report", "tokens of a report", "whole reports"], photos),
        ]
    )


def reports() -> str:
    """Compare reports with a classifier on the same tower, and their variants with floating point."""
    if not (found := read_result("reports")):
        return NOT_YET
    of_classifier = found["classifier"]
    rows = [["classifier", percent(of_classifier["level"]), percent(of_classifier["defect"]), "", "", "", ""]]
    for name, row in found["variants"].items():
        precision = ", ".join(f"{stage} {kind}" for stage, kind in row["precision"].items())
        agreement = min(row["level_agreement_with_fp32"], row["defect_agreement_with_fp32"])
        rows.append(
            [
                f"reports, {name} ({precision})",
                percent(row["level"]),
                percent(row["defect"]),
                percent(row["parsed"]),
                percent(agreement),
                f"{row['s_per_report']:.2f} s",
                f"{row['size_mb']:.0f} MB",
            ]
        )
    seconds = found["seconds"]
    return (
        grid(
            [
                f"{found['held_out']} held-out photos",
                "level",
                "defect",
                "whole answers",
                "fields as in fp32",
                "one report",
                "size",
            ],
            rows,
        )
        + f"\n\nTraining took {seconds['training'] / 60:.0f} minutes, "
        f"the export with its gate {seconds['export'] / 60:.0f}, on two cores ({found['machine']['processor']})."
    )


def folders() -> str:
    """Return one line per folder of the four rooms; folders of a single data format are among the files."""
    return grid(
        ["folder", "what it holds"],
        [
            [f"`{path.parent.relative_to(ROOT)}/`", _read_summary(path)]
            for path in _modules()
            if path.name == "__init__.py" and len(path.relative_to(ROOT).parts) <= 4
        ],
    )


def files() -> str:
    """Return one line per file of the four rooms."""
    return grid(
        ["file", "what it holds"],
        [[f"`{path.relative_to(ROOT)}`", _read_summary(path)] for path in _modules() if path.name != "__init__.py"],
    )


def _modules() -> list[Path]:
    """Return every module once, without the folders inside ``vidrisk`` that are links to rooms."""
    return [
        path
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if not (room == "vidrisk" and path.relative_to(ROOT / room).parts[0] in ROOMS)
    ]


def _read_summary(path: Path) -> str:
    """Return the first paragraph of a module's docstring as one line."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(doc.partition("\n\n")[0].split()).replace("|", "\\|")


def with_tables(text: str) -> str:
    makers = {
        maker.__name__: maker
        for maker in (
            headline,
            machine,
            elpv,
            ut_interaction,
            coverage,
            gate,
            int8,
            pipeline,
            footprint,
            first_report,
            python_api,
            foreign,
            hugging_face,
            trainer,
            imbalance,
            kept_features,
            label_errors,
            learning_curves,
            motion,
            other_scenes,
            starts,
            training_data,
            vlm,
            vlm_full_size,
            gpu_vlm,
            text_generation,
            reports,
            folders,
            files,
        )
    }

    def make(found: re.Match[str]) -> str:
        _read.clear()
        table = makers[found[2]]()
        of = "" if found[2] in (headline.__name__, machine.__name__) else commits(_read)
        return f"{found[1]}{table}\n{of}{found[3]}"

    return MARK.sub(make, text)


def commits(names: list[str]) -> str:
    """Return a line with the commit on which each result was measured; empty without results."""
    parts: dict[str, list[str]] = {}
    for part, found in (each for name in names for each in machines(name)):
        parts.setdefault(found.get("commit", ""), []).append(part)
    said = [
        (f"on `{commit}`" if commit else "before the commit was recorded")
        + (f" ({', '.join(of)})" if len(parts) > 1 else "")
        for commit, of in parts.items()
    ]
    return f"\nMeasured {'; '.join(said)}.\n" if said else ""


def machines(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the machine of each separately measured part of a result, by name."""
    content = result(name)
    named = {name: content, **{f"{name} {part}": one for part, one in content.items() if isinstance(one, dict)}}
    return [(part, one["machine"]) for part, one in named.items() if "machine" in one]


def main() -> int:
    differs = False
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        if with_tables(text) == text:
            continue
        if "--check" in sys.argv:
            print(f"{name}: a table differs from benchmarks/results or from the modules; run: make format")
            differs = True
        else:
            (ROOT / name).write_text(with_tables(text), encoding="utf-8")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
