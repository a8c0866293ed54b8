"""Compare every frame's time and grey level with ffprobe and ffmpeg, for many containers, codecs and kinds of damage.

    python benchmarks/clocks.py [--only NAME ...] [--keep FOLDER]

The files are written with ffmpeg (``tests/vidrisk/frames/clock_files.py``) and read straight through, by seeking to
single frames, and at moments as the pipeline does. A file is right when every frame is within half a frame interval of
ffprobe's best-effort time and within 3 grey levels of ffmpeg's picture. What this build of ffmpeg cannot write is
listed as left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import describe_machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vidrisk" / "frames"))

from clock_check import difference
from clock_files import FILES, MISREAD
from numbered_greys import RATE

RESULTS = Path(__file__).resolve().parent / "results" / "clocks.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FILES, metavar="NAME", help="these files, and write no result")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the files there and leave them")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidrisk-clocks-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        files, left_out = compare(options.only or list(FILES), folder)
    right = sum(row["is_right"] for row in files.values())
    worst = {
        key: max((row[key] for row in files.values()), default=0.0)
        for key in ("worst_intervals", "worst_levels", "worst_levels_by_seek", "worst_levels_by_moment")
    }
    summary = {"files": len(files), "right": right, "left_out": left_out, **worst}
    print(json.dumps(summary))
    if not options.only:
        version = subprocess.run(["ffmpeg", "-version"], check=True, capture_output=True, text=True).stdout.split()[2]
        result = {"machine": describe_machine(), "ffmpeg": version, **summary, "of": files}
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(right < len(files))


def compare(names: list[str], folder: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Write and read the files; return a row for each, and the files that could not be written."""
    rows: dict[str, dict[str, Any]] = {}
    left_out: list[str] = []
    for name in names:
        path = folder / name
        try:
            FILES[name](path)
        except subprocess.CalledProcessError as error:
            left_out.append(name)
            print(f"{name:28} cannot be written: {error.stderr.decode(errors='replace').strip().splitlines()[-1:]}")
            continue
        found = difference(path, RATE if name in MISREAD else None, may_lack=int(name.startswith("cut-end")))
        rows[name] = {
            **{key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(found).items()},
            "is_right": found.is_right,
        }
        print(
            f"{name:28} {found.frames:3} frames of {found.expected_frames:3} ({found.stated_times:3} stated)  "
            f"time {found.worst_intervals:6.3f}  grey {found.worst_levels:5.1f}  "
            f"by seek {found.worst_levels_by_seek:5.1f}  "
            f"by moment {found.worst_levels_by_moment:5.1f}  {'ok' if found.is_right else 'WRONG'}  {found.note}",
            flush=True,
        )
    return rows, left_out


if __name__ == "__main__":
    sys.exit(main())
