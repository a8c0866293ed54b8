"""Time the quick start's four commands on photos of brick_crack, from an empty environment to the first report.

    python benchmarks/first_report.py --data DIR

The commands are read from docs/quick-start.md, and run in a clone of this checkout with photos and a table of their
levels. Torch is installed first, because ``pip`` may otherwise select a build with CUDA. The caches of pip and vidrisk
are empty. Where ``pip`` is configured to find packages on disk, the time of a download is not included. --data: the
folder with brick_crack.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import describe_machine
from process_costs import adopt_orphans, measure_costs

from vidrisk.data import load_table

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).parent / "results" / "first_report.json"
LEVELS = {"sound": "none", "crack": "severe"}
TITLE = "## Four commands for your own photos"


def quick_start_commands(page: str) -> list[list[str]]:
    """Return the commands of the section with the title, without their prompts."""
    block = page.split(TITLE, 1)[1].split("```console\n", 1)[1].split("```", 1)[0]
    return [shlex.split(line.removeprefix("$ ")) for line in block.splitlines()]


def write_photos(data: Path, folder: Path) -> int:
    """Copy photos and write their table, with the columns that the page asks for; return the number of photos."""
    samples = load_table(data / "brick_crack", "risk").samples
    folder.mkdir()
    with (folder / "risk.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "risk_level"])
        for number, sample in enumerate(samples):
            name = f"{number:04}{Path(sample.path).suffix}"
            shutil.copyfile(sample.path, folder / name)
            rows.writerow([name, LEVELS[str(sample.labels["defect"])]])
    return len(samples)


def time_commands(work: Path, commands: list[list[str]]) -> list[dict[str, Any]]:
    """Run the commands in a new environment in ``work``, which is a checkout; return the time of each."""
    binaries = work / ".venv" / "bin"
    environment = {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PIP_NO_CACHE_DIR": "1",
        "VIDRISK_CACHE": str(work.parent / "cache"),
    }
    pinned = (work / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = next(line for line in pinned if line.startswith("torch=="))
    steps = [
        ([sys.executable, "-m", "venv", ".venv"], "python3 -m venv .venv"),
        ([str(binaries / "pip"), "install", torch], f"pip install {torch}"),
        *(([str(binaries / command[0]), *command[1:]], shlex.join(command)) for command in commands),
    ]
    rows = []
    for command, shown in steps:
        spent = measure_costs(command, work=work, environment=environment)
        rows.append({"command": shown, "wall_s": round(spent.wall_s, 1), "cpu_s": round(spent.cpu_s, 1)})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) / "vidrisk"
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), str(work)], check=True)
        photos = write_photos(arguments.data, work / "photos")
        commands = quick_start_commands((work / "docs" / "quick-start.md").read_text(encoding="utf-8"))
        rows = time_commands(work, commands)
        report = work / "first-report" / "report.html"
        if not report.is_file():
            raise SystemExit(f"the commands of {TITLE!r} wrote no {report.name}")
    found = {"photos": photos, "rows": rows, "wall_s": round(sum(row["wall_s"] for row in rows), 1)}
    RESULT.write_text(json.dumps({**found, "machine": describe_machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
