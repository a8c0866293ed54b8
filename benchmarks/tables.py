"""Write the README's tables from the JSON in ``benchmarks/results`` and from the modules' docstrings.

    python benchmarks/tables.py            write them
    python benchmarks/tables.py --check    exit 1 when a table in the README differs
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
MARK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def result(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def grid(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)])


def machine() -> str:
    found = result("elpv")["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items() if name != "vidrisk")
    return (f"Measured on {found['cores']} cores of {found['processor']} ({', '.join(found['flags'])}), "
            f"Python {found['python']}, {packages}.")


def elpv() -> str:
    rows = []
    for row in result("elpv")["rows"]:
        rows.append([row["name"], *(f"{100 * row[key]:.1f} %" if key.endswith("top1") else f"{row[key]:.3f}"
                                    for key in ("binary_top1", "binary_macro_f1", "levels_top1", "levels_macro_f1"))])
    return grid(["model", "defective or not, top-1", "macro-F1", "four levels, top-1", "macro-F1"], rows)


def ut_interaction() -> str:
    found = result("ut_interaction")
    labels = found["labels"]
    scores = ", ".join(f"{100 * seed['top1']:.1f} %" for seed in found["seeds"])
    confusion = found["seeds"][0]["confusion"]
    rows = [[label, *map(str, counts)] for label, counts in zip(labels, confusion, strict=True)]
    return (f"Top-1 **{100 * found['top1']:.1f} %**; per seed {scores}. Confusion of the first seed, rows are the truth:\n\n"
            + grid(["", *labels], rows))


def int8() -> str:
    """Accuracy and speed of every method, one column per dataset; the transformer with outliers; memory and time."""
    found = result("int8")
    named = {"elpv": "elpv, trained", "elpv_probe": "elpv, frozen features", "magnetic_tile": "magnetic tile",
             "brick_crack": "brick crack", "ut_interaction": "UT-Interaction"}
    parts = {title: found[name] for name, title in named.items() if name in found}
    tables = [_int8_table(parts, _lost), _int8_table(parts, _speed)]
    if "outliers" in found:
        models = found["outliers"]["models"]
        tables.append(_int8_table({f"ViT, {name}": part for name, part in models.items()}, _lost))
    if "memory" in found:
        rows = [["vidrisk" if row["kind"] == "ours" else "ONNX Runtime, entropy", str(row["samples"]), f"{row['peak_mb']:,} MB"]
                for row in found["memory"]["rows"]]
        tables.append(grid(["calibration of EfficientNet-Lite0, 224²", "samples", "peak memory of the process"], rows))
    if "export_time" in found:
        whole = found["export_time"]
        rows = [[what, f"{seconds:.0f} s"] for what, seconds in whole["phases_s"].items() if seconds >= 1]
        tables.append(grid(["phase of an export", f"{whole['seconds']:.0f} s in all"], rows))
    return "\n\n".join(tables)


def _int8_table(parts: dict[str, Any], cell: Callable[[dict[str, Any]], str]) -> str:
    header = [f"{title} ({part['test_samples']} samples, fp32 {100 * part['fp32']['openvino']['top1']:.1f} %)"
              for title, part in parts.items()]
    by_method = [{(row["method"], row["profile"]): cell(row) for row in part["rows"]} for part in parts.values()]
    methods = dict.fromkeys(key for cells in by_method for key in cells)
    rows = [[", ".join(key), *(cells.get(key, "–") for cells in by_method)] for key in methods]
    return grid(["", *header], rows)


def _lost(row: dict[str, Any]) -> str:
    """Points of top-1 lost, their 95 % interval, and the share of predictions kept, on OpenVINO."""
    if "openvino" not in row:
        return "–"
    low, high = row["openvino"]["drop_interval"]
    mark = "*" if any(note["waived"] for note in row["notes"]) else ""
    return f"{row['openvino']['drop_points']:.1f} [{low:.1f}, {high:.1f}], {100 * row['openvino']['agreement']:.1f} %{mark}"


def _speed(row: dict[str, Any]) -> str:
    """Frames per second on OpenVINO and ONNX Runtime, each with its ratio to fp32 there."""
    return " · ".join(f"{row['frames_per_s'][runtime]:.0f} (× {row['speedup'][f'{runtime} over {runtime} fp32']:.2f})"
                      for runtime in ("openvino", "onnxruntime") if runtime in row.get("frames_per_s", {})) or "–"


def footprint() -> str:
    rows = [[row["what"], row["measured"], row["limit"]] for row in result("footprint")["rows"]]
    return grid(["what", "measured", "limit"], rows)


def files() -> str:
    rows = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            inside = path.relative_to(ROOT / room)
            if not (room == "vidrisk" and inside.parts[0] in ROOMS):
                doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
                rows.append([f"`{room}/{inside}`", " ".join(doc.partition("\n\n")[0].split()).replace("|", "\\|")])
    return grid(["file", "what it holds"], rows)


def with_tables(text: str) -> str:
    makers = {maker.__name__: maker for maker in (machine, elpv, ut_interaction, int8, footprint, files)}
    return MARK.sub(lambda found: f"{found[1]}{makers[found[2]]()}\n{found[3]}", text)


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        if with_tables(text) != text:
            print("README.md: a table differs from benchmarks/results or from the modules; run: make format")
            return 1
        return 0
    readme.write_text(with_tables(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
