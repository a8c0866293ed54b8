"""Finished runs whose predictions hold generated reports.

They are runs of the colour classifier with rewritten lines.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colour import RISK, colour_classifier
from small_media import write_photo

from vidrisk.data.scheme import Scheme
from vidrisk.data.scheme_file import load_scheme
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import find_inputs

SCHEME = load_scheme("three-levels")
ENGLISH = load_scheme("three-levels-en")
COLOURS = ("red", "green", "blue")


def write_photos(folder: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_photo(folder / name, COLOURS[number % 3])
    return folder


def report(
    fields: Mapping[str, str],
    *,
    case: str = "",
    parse_ok: bool = True,
    problems: Sequence[str] = (),
    text: str = "",
    finish: str = "stop",
    **more: Any,
) -> dict[str, Any]:
    return {
        "fields": dict(fields),
        "parse_ok": parse_ok,
        "problems": list(problems),
        "text": text,
        "finish": finish,
        "prompt_tokens": 120,
        "answer_tokens": 30,
        "case": case,
        **more,
    }


def write_run(
    out: Path,
    photos: Path,
    reports: Mapping[str, Mapping[str, Any]],
    *,
    classes: Path,
    scheme: Scheme = SCHEME,
    confidence: float = 0.8,
    uncertain: bool | None = None,
) -> Path:
    """Write a run over a folder of photos, derived from a classifier's run.

    ``reports`` holds the reports by photo name; photos without a report are left out.
    """
    shutil.copytree(classes, out)
    path = out / "predictions.jsonl"
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        name = Path(record["path"]).relative_to(photos.resolve()).as_posix()
        if name not in reports:
            continue
        level = reports[name]["fields"].get(scheme.level_fields[0].name, "")
        rest = (1 - confidence) / (len(scheme.levels) - 1)
        scores = {each: confidence if each == level else rest for each in scheme.level_names}
        lines.append(
            json.dumps(
                {
                    **record,
                    "label": level,
                    "score": confidence,
                    "level": level,
                    "targets": {"level": scores},
                    "candidates": {},
                    "uncertain": uncertain,
                    "report": dict(reports[name]),
                },
                ensure_ascii=False,
            )
        )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return out


def write_classifier_run(out: Path, photos: Path) -> Path:
    """Write a run of the colour classifier, with features: red is severe, green is medium, blue is minor."""
    run_folder(
        colour_classifier(RISK), find_inputs([photos]), out, InferSettings(workers=1, save_features=True), cards=3
    )
    return out


def write_truth(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path
