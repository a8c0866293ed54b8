"""A candidate alone in a process of its own: whether it runs here at all, and how much memory that process needs.

    python -m vidrisk.bench.alone BUNDLE RUNTIME VARIANT THREADS      (0: as the engine likes)

An engine that crashes, or takes more memory than there is, ends this process and not the one that asked.
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
        peak_bytes: of resident memory, with batches of ``BATCH`` frames: the interpreter, the engine, the model, its
            work.
        bytes_per_frame: what a further frame in a batch adds.
    """

    peak_bytes: int
    bytes_per_frame: int


def footprint_of(bundle: Path, candidate: Candidate, threads: int | None) -> Footprint:
    """Run a candidate alone.

    Raises:
        RuntimeFailure: it does not run here; says why.
    """
    arguments = [os.fspath(bundle.resolve()), candidate.runtime, candidate.variant, str(threads or 0)]
    return Footprint(**answer_of_process("vidrisk.bench.alone", arguments))


def answer_of_process(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """Run ``python -m module`` and read the last line of its output as JSON.

    The process starts where the package lies, so that it finds it installed or not, and imports nothing from the folder
    that the user happens to be in. Its cache is the same as here, also where that is named relative to the user's
    folder.

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
        why = ", perhaps for want of memory" if number == signal.SIGKILL else ""
        raise RuntimeFailure(f"its process was ended by signal {number} ({signal.strsignal(number)}){why}")
    if end.returncode:
        lines = end.stderr.strip().splitlines()
        raise RuntimeFailure(lines[-1] if lines else f"its process ended with exit code {end.returncode}")
    return json.loads(end.stdout.splitlines()[-1])


def peak_bytes() -> int:
    """Peak of this process's resident memory since it was started.

    Linux counts ``ru_maxrss`` from the fork, when a process is still as large as its parent; ``VmHWM`` begins anew with
    the program.
    """
    peak = bytes_from_status(Path("/proc/self/status"), "VmHWM")
    if peak is not None:
        return peak
    import resource  # not everywhere, and not needed where there is /proc

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_alone(classifier: Classifier) -> Footprint:
    """Let a classifier work as in a run: what is least at once, a frame or a window, then full batches, and whole windows.

    Raises:
        RuntimeFailure: what it computes is not finite.
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
            f"{classifier.runtime} {classifier.variant} computes what is not finite, for frames of noise",
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
