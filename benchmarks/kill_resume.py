"""Kill runs over hundreds of files at random moments, resume them, and compare them with an undisturbed run.

    python benchmarks/kill_resume.py [--runs 25] [--files 300] [--kills 4] [--seed 0] [--bundle BUNDLE]

A tenth of the files is broken, in a dozen ways. Each run is killed several times, every second time after one of its
decode workers, and then finished. It must contain exactly one row per file, and the predictions of the undisturbed run.
Without --bundle, predictions come from a classifier in numpy that does not depend on the rest of the batch, and must be
equal. With --bundle, it runs ``vidrisk infer`` with one engine for all runs: labels must be equal, and probabilities
within 1e-4.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from machine import describe_machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vidrisk" / "jobs"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vidrisk" / "decode"))

import kills

from vidrisk.inference.model import open_classifier
from vidrisk.jobs.summary import read_summary

RESULTS = Path(__file__).resolve().parent / "results" / "kill_resume.json"
MAX_DIFFERENCE = 1e-4  # of a probability, by an engine whose sums depend on the batch


def engine_options(bundle: Path) -> tuple[str, ...]:
    """Return options that name the engine and variant that ``auto`` chooses here, so that all runs use the same."""
    with open_classifier(bundle) as classifier:
        return "--runtime", classifier.runtime, "--variant", classifier.variant


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--kills", type=int, default=4, help="per run, before it may end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    hits: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="vidrisk-kills-") as scratch:
        folder = Path(scratch)
        expected = kills.write_media(folder / "media", options.files)
        undisturbed = folder / "undisturbed"
        victim = kills.Victim(
            folder / "media", folder, options.bundle, engine_options(options.bundle) if options.bundle else ()
        )
        victim.finish(undisturbed)
        summary = read_summary(undisturbed)
        longest_s = (
            summary.timings_s["wall"] / 3
        )  # each run goes on where the last one was killed: later, it would have ended
        found = [kills.difference(undisturbed, expected, undisturbed)]
        for run in range(options.runs):
            out = folder / f"run{run}"
            for number in range(options.kills):
                hits.update(victim.kill(out, chance, longest_s, worker_first=number % 2 == 1) or ["nobody"])
            victim.finish(out)
            found.append(kills.difference(out, expected, undisturbed))
            print(f"run {run + 1} of {options.runs}: {found[-1]}; hit so far: {dict(hits)}", flush=True)
        kills.wait_for_no_orphans(folder / "media")
    result = {
        "machine": describe_machine(),
        "seed": options.seed,
        "runs": options.runs,
        "files": len(expected),
        "broken": sum(states != {"ok"} for states in expected.values()),
        "ways": len(kills.STATES),
        "predictions": summary.predictions,
        "kills_per_run": options.kills,
        "hits": dict(hits),
        "engine": f"{summary.runtime}, {summary.variant}" if options.bundle else "numpy",
        "lost": sum(one.lost for one in found),
        "twice": sum(one.twice for one in found),
        "wrong": sum(len(one.wrong) for one in found),
        "probabilities_differ_by": max(one.probability for one in found),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "machine"}, indent=1))
    allowed = MAX_DIFFERENCE if options.bundle else 0.0
    return int(any((result["lost"], result["twice"], result["wrong"], result["probabilities_differ_by"] > allowed)))


if __name__ == "__main__":
    sys.exit(main())
