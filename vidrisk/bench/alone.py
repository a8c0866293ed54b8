"""A candidate run in a process of its own, to find out whether it runs here and how much memory it needs.

    python -m vidrisk.bench.alone BUNDLE RUNTIME VARIANT THREADS      (0: the engine's default)

An engine that crashes or exhausts memory ends this process and not the one that started it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import vidrisk
from vidrisk.inference.model import Classifier, open_classifier
from vidrisk.runtimes.contract.bundle import VariantName
from vidrisk.runtimes.contract.errors import RuntimeFailure, VidriskError
from vidrisk.runtimes.contract.stages import PIXELS
from vidrisk.runtimes.folders import cache_folder
from vidrisk.runtimes.memory import bytes_from_status
from vidrisk.runtimes.runner import Array

BATCH = 32  # frames, as many as `vidrisk infer` computes at once
LIMIT_S = 300.0


@dataclass(frozen=True)
class Candidate:
    """One runtime with one variant of the bundle."""

    runtime: str
    variant: VariantName

    def __str__(self) -> str:
        return f"{self.runtime} {self.variant}"


@dataclass(frozen=True)
class Footprint:
    """Memory of a process that runs one candidate.

    Attributes:
        peak_bytes: peak of resident memory with batches of ``BATCH`` frames: interpreter, engine, model and working
            memory.
        bytes_per_frame: added by each further frame in a batch.
    """

    peak_bytes: int
    bytes_per_frame: int


def footprint_of(bundle: Path, candidate: Candidate, threads: int | None) -> Footprint:
    """Measure the memory of a candidate in a process of its own.

    Raises:
        RuntimeFailure: it does not run here; says why.
    """
    arguments = [os.fspath(bundle.resolve()), candidate.runtime, candidate.variant, str(threads or 0)]
    return Footprint(**answer_of_process("vidrisk.bench.alone", arguments))


def answer_of_process(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """Run ``python -m module`` and return the last line of its output, parsed as JSON.

    The process starts in the folder that contains the package, so it finds the package whether it is installed or not,
    and imports nothing from the user's current folder. It uses the same cache as this process, even if that is given
    relative to the current folder.

    Raises:
        RuntimeFailure: it failed, crashed, or did not answer within ``LIMIT_S``.
    """
    try:
        end = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            cwd=Path(vidrisk.__file__).parents[1],
            timeout=LIMIT_S,
            check=False,
            env={
                **os.environ,
                "PYTHONIOENCODING": "utf-8",
                "VIDRISK_CACHE": str(cache_folder().absolute()),
                **(environment or {}),
            },
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f"no answer within {LIMIT_S:.0f} s") from None
    if end.returncode < 0:
        number = -end.returncode
        why = ", perhaps for lack of memory" if number == signal.SIGKILL else ""
        raise RuntimeFailure(f"its process was killed by signal {number} ({signal.strsignal(number)}){why}")
    if end.returncode:
        lines = end.stderr.strip().splitlines()
        raise RuntimeFailure(lines[-1] if lines else f"its process ended with exit code {end.returncode}")
    return json.loads(end.stdout.splitlines()[-1])


def peak_bytes() -> int:
    """Return the peak of this process's resident memory since it was started.

    Linux counts ``ru_maxrss`` from the fork, when a process is still as large as its parent; ``VmHWM`` starts anew with
    the program.
    """
    peak = bytes_from_status(Path("/proc/self/status"), "VmHWM")
    if peak is not None:
        return peak
    import resource  # not on every system, and not needed with /proc

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_alone(classifier: Classifier) -> Footprint:
    """Run a classifier as in a run, and measure its memory.

    It computes the least amount at once (one frame or one window), then full batches, then whole windows.

    Raises:
        RuntimeFailure: it computes non-finite values.
    """
    contract = classifier.contract
    computed: list[Array] = []
    windows = max(1, BATCH // contract.frames)
    clips = np.random.default_rng(0).integers(
        0, 256, (windows, contract.frames, *contract.pixel.frame_shape), dtype=np.uint8
    )
    frames = np.resize(clips, (BATCH, *contract.pixel.frame_shape))
    if classifier.plan.frame:
        least, most = 1, BATCH
        classifier.encode(frames[:1])
        single = peak_bytes()
        encoded = classifier.encode(frames)
        one = {
            name: np.resize(array, (contract.frames, *array.shape[1:]))
            for name, array in {**encoded, PIXELS: frames}.items()
            if name in classifier.plan.frame_gives
        }
        computed += [*encoded.values(), *classifier.logits_from_parts(one, 1).values()]
    else:
        least, most = contract.frames, windows * contract.frames
        classifier.logits_from_frames(clips[:1], BATCH)
        single = peak_bytes()
        computed += classifier.logits_from_frames(clips, BATCH).values()
    if not all(np.isfinite(values).all() for values in computed):
        raise RuntimeFailure(
            f"{classifier.runtime} {classifier.variant} computes non-finite values for frames of noise",
            fix="use another runtime or variant, or export the bundle again",
        )
    peak = peak_bytes()
    return Footprint(peak, (peak - single) // max(1, most - least))


def main() -> int:
    bundle, runtime, variant, threads = sys.argv[1:]
    try:
        with open_classifier(bundle, runtime=runtime, variant=variant, threads=int(threads) or None) as classifier:
            print(json.dumps(asdict(run_alone(classifier))))
    except VidriskError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
