"""Thousands of damaged clips and photos through a whole run: none may end it, none may be missing from its ledger.

    python benchmarks/fuzz.py [--count 2000] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from machine import described

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vidrisk" / "infer"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vidrisk" / "frames"))

import fuzz_runs

RESULTS = Path(__file__).resolve().parent / "results" / "fuzz.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidrisk-fuzz-") as scratch:
        fuzz_runs.write_mutants(Path(scratch), options.count, options.seed)
        started_s = time.perf_counter()
        states, longest_s = fuzz_runs.run_over(Path(scratch), Path(scratch) / "out")
        result = {"machine": described(), "seed": options.seed, "files": states.total(), "states": dict(states),
                  "file_timeout_s": fuzz_runs.FILE_TIMEOUT_S, "longest_between_two_ends_s": round(longest_s, 2),
                  "wall_s": round(time.perf_counter() - started_s, 1)}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
