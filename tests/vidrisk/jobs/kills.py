"""Runs that are killed repeatedly, themselves or their decode workers, and must lose nothing.

A tenth of the folder's files is broken: nine kinds of broken media and three kinds of decoder failure (crash,
hang or exit). One undisturbed run gives the expected results. ``tests/vidrisk/jobs/test_kills.py`` does a few
kills, ``benchmarks/kill_resume.py`` does many.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import colour
import numpy as np
from broken_media import ACCEPTABLE_STATES, WITHOUT_ROW, broken_files
from faulty_decoder import SITECUSTOMIZE
from PIL import Image
from processes import children
from small_media import write_video

from vidrisk.inference.predictions import Prediction, read_predictions
from vidrisk.jobs.ledger import read_ledger
from vidrisk.runtimes.contract.errors import EXIT_OK, EXIT_SOME_FAILED

ROOT = Path(colour.__file__).parents[3]
COLOURS = ("red", "green", "blue", "grey")
FAULTS = {
    "segfault.png": frozenset({"crashed"}),
    "exit.png": frozenset({"crashed"}),
    "hang.png": frozenset({"timeout", "crashed"}),  # crashed: its worker was killed in the second try
}
STATES = {name: states for name, states in ACCEPTABLE_STATES.items() if name not in WITHOUT_ROW} | FAULTS
FILE_TIMEOUT_S = 2.0


def write_media(folder: Path, files: int) -> dict[str, frozenset[str]]:
    """Write ``files`` inputs, a tenth of them broken, and return their permitted final states by path.

    The broken inputs go through all kinds of damage in turn.
    """
    folder.mkdir(parents=True)
    clip = Path(write_video(folder / "good.mp4", ("red", "green", "blue", "red")))
    broken: dict[str, frozenset[str]] = {}
    while len(broken) < files // 10:
        made = broken_files(folder / f"broken{len(broken):03}", clip)
        made |= {name: _write_photo(made["cut.jpg"].with_name(name), seed=len(broken)) for name in FAULTS}
        for name, states in STATES.items():
            if len(broken) < files // 10:
                broken[str(made[name])] = states
            else:
                made[name].unlink()
    good = [str(clip)]
    for number in range(files - len(broken) - 1):
        good.append(
            str(_write_photo(folder / f"{number:04}.png", seed=number))
            if number % 8
            else write_video(folder / f"{number:04}.mp4", tuple(random.Random(number).choices(COLOURS, k=2)))
        )
    return broken | dict.fromkeys(good, frozenset({"ok"}))


def _write_photo(path: Path, seed: int) -> Path:
    """Write a photo of patches in random colours, so that no two photos have the same prediction."""
    patches = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    Image.fromarray(patches).resize((48, 36), Image.Resampling.NEAREST).save(path)
    return path


@dataclass(frozen=True)
class Victim:
    """Runs over ``media`` in separate processes, with faulty decoders.

    Attributes:
        scratch: folder for the files that the runs need.
        bundle: bundle for ``vidrisk infer``; None for ``colour.py``, whose rows do not depend on their batch.
        options: options of ``vidrisk infer``.
    """

    media: Path
    scratch: Path
    bundle: Path | None = None
    options: tuple[str, ...] = ()

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        command = [colour.__file__, str(out), str(self.media), "--slow"]
        if self.bundle:
            command = [
                "-m",
                "vidrisk",
                "infer",
                str(self.bundle),
                str(self.media),
                "-o",
                str(out),
                "--no-report",
                "--json",
                *self.options,
            ]
        (self.scratch / "sitecustomize.py").write_text(SITECUSTOMIZE)
        environment = {
            "PYTHONPATH": os.pathsep.join([str(self.scratch), str(ROOT), *sys.path]),
            "VIDRISK_CACHE": str(self.scratch / "cache"),
        }
        return subprocess.Popen(
            [sys.executable, *command, "--resume", "--file-timeout", str(FILE_TIMEOUT_S)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )

    def finish(self, out: Path) -> None:
        assert self.start(out).wait(timeout=600) in (EXIT_OK, EXIT_SOME_FAILED)

    def kill(self, out: Path, chance: random.Random, longest_s: float, *, worker_first: bool) -> list[str]:
        """Start a run and kill it within ``longest_s``, while it starts or while it reads.

        With ``worker_first``, one of its workers is killed before, also within ``longest_s``.

        Returns:
            The kinds of processes that were killed: ``worker``, ``run``. The run may have ended before.
        """
        hit = []
        process = self.start(out)
        if worker_first or chance.random() < 0.5:
            _workers(process)
        if worker_first:
            _wait(process, chance.uniform(0.0, longest_s))
            if workers := _workers(process):
                os.kill(chance.choice(workers), signal.SIGKILL)
                hit.append("worker")
        _wait(process, chance.uniform(0.0, longest_s))
        if process.poll() is None:
            hit.append("run")
        process.kill()
        process.wait()
        return hit


@dataclass(frozen=True)
class Difference:
    """Errors of a run that was killed and then finished.

    Attributes:
        lost: number of inputs without a row, and of predictions that only the undisturbed run has.
        twice: number of surplus rows and predictions.
        wrong: rows whose state is not permitted or whose number of predictions is wrong, and predictions whose
            label or state differs from the undisturbed run.
        probability: largest difference of a probability from the undisturbed run.
    """

    lost: int
    twice: int
    wrong: tuple[str, ...]
    probability: float


def difference(out: Path, expected: Mapping[str, frozenset[str]], undisturbed: Path) -> Difference:
    rows, found = read_ledger(out), list(read_predictions(out))
    right = {_key(prediction): prediction for prediction in read_predictions(undisturbed)}
    wanted = Counter[object]([*expected, *right])
    there = Counter[object]([*(row.path for row in rows), *map(_key, found)])
    of_path = Counter(prediction.path for prediction in found)
    wrong = [
        f"{row.path}: {row.state} with {of_path[row.path]} of {row.predictions} predictions: {row.reason}"
        for row in rows
        if row.state not in expected.get(row.path, ()) or row.predictions != of_path[row.path]
    ]
    pairs = [(prediction, right[_key(prediction)]) for prediction in found if _key(prediction) in right]
    wrong += [
        f"{one} instead of {other}" for one, other in pairs if (one.label, one.state) != (other.label, other.state)
    ]
    return Difference(
        (wanted - there).total(),
        (there - wanted).total(),
        tuple(wrong),
        max(
            (
                abs(probability - other.targets[target][label])
                for one, other in pairs
                for target, scores in one.targets.items()
                for label, probability in scores.items()
            ),
            default=0.0,
        ),
    )


def wait_for_no_orphans(media: Path, limit_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while _orphans(media) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not _orphans(media)


def _orphans(media: Path) -> list[int]:
    """Return the process ids of decode workers that still run.

    The environment that they were started with distinguishes them from other workers.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if _is_worker(int(folder.name)) and str(media.parent).encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def _workers(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the process ids of a run's decode workers.

    The function waits until there are some, or until the run ends without any.
    """
    while process.poll() is None:
        with suppress(OSError):
            if workers := [child for child in sorted(children(process.pid)) if _is_worker(child)]:
                return workers
        time.sleep(0.02)
    return []


def _is_worker(pid: int) -> bool:
    return b"vidrisk.decode.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()  # empty once it has ended


def _key(prediction: Prediction) -> tuple[str, float | None, float | None]:
    return prediction.path, prediction.start_s, prediction.end_s


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
