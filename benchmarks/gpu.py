"""Compare engines on a GPU with torch and ONNX Runtime: throughput, overhead, hand-over, memory, start, parity.

    python benchmarks/gpu.py [SECTION ...] [--work DIR] [--trial]
    python benchmarks/gpu.py --step NAME --out FILE [--work DIR] [--trial] [--families A,B] [--fake]

SECTION: throughput, overhead, hand_over, memory, second_start, parity, vlm, server; default: all. Each writes its own
part of ``results/gpu.json``, and keeps the others.

--step: run one step of ``gpu_offline.sh`` alone. FILE always contains the results so far. Steps bundles and models
create what is measured; first, families and runner check correctness; throughput and second_start measure speed; tests
runs the tests marked ``gpu``; vlm trains and runs a vision-language model of 3 billion weights; server measures a model
behind an OpenAI-compatible server.

--work: the folder for bundles and engines, which are reused. --trial: small models and few rounds, to check that
everything works; sections write their result to the folder of temporary files. --families: only these; where one is
enough, the first one is used. --fake: use a simulated GPU (``gpu_fake.py``).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gpu_compare import gpu_runtimes, working_kind
from gpu_families import FAMILIES, family_bundle
from gpu_parity import DifferentError, families, first, parity
from gpu_place import Part, Place, Section, describe_gpu, make_work, say
from gpu_processes import memory, second_start
from gpu_runner import runner
from gpu_server import server
from gpu_speed import hand_over, overhead, throughput
from gpu_tests import tests
from gpu_vlm import vlm

RESULT = Path(__file__).parent / "results" / "gpu.json"


def bundles(place: Place) -> Iterator[Part]:
    """Create the small bundle of every family; this needs no GPU.

    Raises:
        DifferentError: a bundle cannot be created.
    """
    made: dict[str, float | str] = {}
    for family in place.families:
        begin = time.perf_counter()
        try:
            family_bundle(place.work, family)
            made[family] = round(time.perf_counter() - begin, 1)
        except Exception as error:  # whatever it is, the others are made
            traceback.print_exc()
            made[family] = f"{type(error).__name__}: {error}"
        say(f"{family}: {made[family]}")
        count = sum(isinstance(each, float) for each in made.values())
        yield {"seconds": made, "headline": f"{count} of {len(place.families)} families"}
    if failed := [family for family, each in made.items() if isinstance(each, str)]:
        raise DifferentError(f"not made: {', '.join(failed)}")


def models(place: Place) -> Iterator[Part]:
    """Create the bundles for the throughput; this needs no GPU."""
    made = {}
    for model in place.models:
        begin = time.perf_counter()
        variants = list(model.bundle.manifest.variants)
        made[model.name] = {"seconds": round(time.perf_counter() - begin, 1), "variants": variants}
        say(f"{model.name}: {made[model.name]}")
        yield {"models": made, "headline": ", ".join(made)}


SECTIONS: dict[str, Section] = {
    section.__name__: section
    for section in (throughput, overhead, hand_over, memory, second_start, parity, vlm, server)
}
STEPS: dict[str, Section] = {
    step.__name__: step
    for step in (bundles, first, families, runner, models, throughput, second_start, tests, vlm, server)
}
WITHOUT_GPU = (bundles, models)
OF_ANY_RUNTIME = (first, families, tests, vlm, server)  # they look for what works by themselves


def run_sections(names: list[str], work: Path, *, trial: bool) -> None:
    """Measure the sections, and write each result as soon as it is complete.

    Raises:
        SystemExit: no GPU, or no TensorRT.
    """
    from vidrisk.runtimes.gpu import visible_gpu
    from vidrisk.runtimes.tensorrt.api import find_installed_kinds

    gpu, kinds = visible_gpu(), find_installed_kinds()
    if gpu is None:
        raise SystemExit("no NVIDIA GPU is visible: there is nothing to measure (`vidrisk doctor` says more)")
    if not kinds and not set(names) <= {section.__name__ for section in OF_ANY_RUNTIME}:
        raise SystemExit(
            "no TensorRT is installed: there is nothing to measure (`vidrisk doctor` says how to install it)"
        )
    kind = kinds[0] if kinds else "tensorrt"
    print(f"{gpu}, {kind}", flush=True)
    place = Place(work, kind, trial)
    result = Path(tempfile.gettempdir()) / "gpu-trial.json" if trial else RESULT
    for name in names:
        print(f"{name}:", flush=True)
        begin = time.perf_counter()
        written = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
        for found in SECTIONS[name](place):  # more of the section with each: what was measured before a failure stays
            part = {key: value for key, value in found.items() if key != "headline"}
            part |= {"seconds_in_all": round(time.perf_counter() - begin), "machine": describe_gpu()}
            result.write_text(json.dumps({**written, name: part}, indent=2) + "\n", encoding="utf-8")


def run_step(name: str, out: Path, place: Place) -> int:
    """Run one step, and keep its results so far in ``out``; return the exit code."""
    step, begin = STEPS[name], time.perf_counter()
    told: Part = {"step": name, "state": "running", "fake": place.fake, "headline": ""}

    def write(**more: object) -> None:
        told.update({**more, "seconds": round(time.perf_counter() - begin, 1)})
        partial = out.with_suffix(".tmp")
        partial.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        partial.replace(out)

    write()
    try:
        if step not in WITHOUT_GPU:
            write(machine=describe_gpu(), runtimes=gpu_runtimes(place))
            if step not in OF_ANY_RUNTIME:
                place = replace(place, kind=working_kind(place))
        for found in step(place):
            write(headline=found.get("headline", ""), result=found)
    except DifferentError as error:
        write(state="failed", error=str(error))
    except Exception as error:  # the record of it is worth more than its end
        traceback.print_exc()
        write(state="failed", error=f"{type(error).__name__}: {error}")
    else:
        write(state="ok")
    return 0 if told["state"] == "ok" else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vidrisk-gpu")
    parser.add_argument("--trial", action="store_true")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--fake", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)}")
    if (
        bool(arguments.step) != bool(arguments.out)
        or (arguments.step and arguments.sections)
        or (arguments.fake and not arguments.step)
    ):
        parser.error("--step NAME and --out FILE go together, and without SECTION; --fake is for steps")
    families = tuple(arguments.families.split(","))
    if unknown := set(families) - set(FAMILIES):
        parser.error(f"no such family: {', '.join(sorted(unknown))}; choose from {', '.join(FAMILIES)}")
    work = make_work(arguments.work.resolve() / ("trial" if arguments.trial else "full"))
    if not arguments.step:
        run_sections(arguments.sections or list(SECTIONS), work, trial=arguments.trial)
        return 0
    if arguments.fake and STEPS[arguments.step] not in WITHOUT_GPU:
        from gpu_fake import fake_gpu

        fake_gpu()
    return run_step(
        arguments.step, arguments.out.resolve(), Place(work, None, arguments.trial, families, arguments.fake)
    )


if __name__ == "__main__":
    sys.exit(main())
