"""Run ``infer`` over thousands of damaged clips and photos: no file may stop the run or be missing from the ledger.

    python benchmarks/fuzz.py [--count 2000] [--seed 0] [--real FOLDER]

The files are damaged copies of tiny files of every kind that the reader supports. With ``--real``, half of them are
copies of clips and photos of up to 2 MB from a folder: a few per sub-folder and suffix.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vidrisk" / "jobs"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vidrisk" / "frames"))

import fuzz_runs
from tiny_media import tiny_media

RESULTS = Path(__file__).resolve().parent / "results" / "fuzz.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidrisk-fuzz-") as scratch:
        folder = Path(scratch)
        (folder / "good").mkdir()
        originals = {"tiny": list(tiny_media(folder / "good").values())}
        if options.real:
            originals["real"] = fuzz_runs.real_media(options.real, options.seed)
        for kind, paths in originals.items():
            fuzz_runs.write_mutants(folder / "bad" / kind, paths, options.count // len(originals), options.seed)
        started_s = time.perf_counter()
        found = fuzz_runs.run_over(folder / "bad", folder / "out")
        wall_s = time.perf_counter() - started_s
    result = {
        "machine": describe_machine(),
        "seed": options.seed,
        "files": sum(states.total() for states in found.states.values()),
        "originals": {kind: len(paths) for kind, paths in originals.items()},
        "states": found.states,
        "file_timeout_s": fuzz_runs.FILE_TIMEOUT_S,
        "longest_silence_s": round(found.silence_s, 2),
        "slowest_s": round(found.slowest_s[0], 2),
        "slowest": found.slowest_s[1],
        "wall_s": round(wall_s, 1),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "machine"}, indent=1))
    return int(found.silence_s > fuzz_runs.MAX_SILENCE_S)


if __name__ == "__main__":
    sys.exit(main())
