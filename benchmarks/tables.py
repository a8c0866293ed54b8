"""Write the README's tables from the JSON in ``benchmarks/results`` and from the modules' docstrings.

    python benchmarks/tables.py            write them
    python benchmarks/tables.py --check    exit 1 when a table in the README differs
"""

from __future__ import annotations

import ast
import json
import re
import sys
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


def export() -> str:
    found = result("elpv")["export"]
    hops = [[hop["name"], hop["runtime"], f"{hop['largest_logit_difference']:.1e}", f"{100 * hop['agreement']:.1f} %"]
            for hop in found["gate"]["hops"]]
    lines = [[line["runtime"], line["variant"], f"{100 * line['top1']:.1f} %", f"{100 * line['agreement']:.1f} %",
              f"{line['frames_per_s']:.0f}"] for line in found["test"]]
    return (grid(["hop", "runtime", "largest Δ logit", "same predictions"], hops) + "\n\n"
            + grid(["runtime", "variant", "four levels, top-1 on the test split", "same as fp32", "frames/s, batch 8"], lines))


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
    makers = {maker.__name__: maker for maker in (machine, elpv, ut_interaction, export, footprint, files)}
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
