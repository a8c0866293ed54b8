"""Nothing is lost: runs over hundreds of files, killed at random moments, resumed, and compared with an undisturbed one.

    python benchmarks/kill_resume.py [--runs 25] [--files 300] [--kills 4] [--seed 0]

A tenth of the files is broken in a dozen ways. Each run is killed several times, in itself or in one of its decode workers,
and then finished; it must hold exactly one row per file, and the predictions of the run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from machine import described

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vidrisk" / "infer"))

import kills

RESULTS = Path(__file__).resolve().parent / "results" / "kill_resume.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--kills", type=int, default=4, help="per run, before it may end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    hits: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="vidrisk-kills-") as scratch:
        folder = Path(scratch)
        expected = kills.write_media(folder / "media", options.files)
        victim = kills.Victim(folder / "media", folder)
        started_s = time.perf_counter()
        victim.finish(folder / "undisturbed")
        longest_s = time.perf_counter() - started_s
        kills.check(folder / "undisturbed", expected, folder / "undisturbed")
        for run in range(options.runs):
            out = folder / f"run{run}"
            hits.update(victim.kill_at_random(out, chance, longest_s) for _ in range(options.kills))
            victim.finish(out)
            kills.check(out, expected, folder / "undisturbed")
            print(f"run {run + 1} of {options.runs}: nothing lost; {dict(hits)}", flush=True)
        kills.wait_for_no_orphans(folder / "media")
    broken = sum(states != {"ok"} for states in expected.values())
    result = {"machine": described(), "seed": options.seed, "runs": options.runs, "files": len(expected), "broken": broken,
              "kills_per_run": options.kills, "hits": dict(hits), "lost": 0, "twice": 0}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
