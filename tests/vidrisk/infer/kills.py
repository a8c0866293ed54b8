"""A run that is killed again and again, in itself or in its decode workers, and must lose nothing.

The folder holds files that are broken in ten ways and files at which the decoder crashes, hangs and leaves. One undisturbed
run says what is right. ``tests/vidrisk/infer/test_kills.py`` does a few kills, ``benchmarks/kill_resume.py`` does many.
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
from broken_media import ACCEPTABLE_STATES, WITHOUT_ROW, broken_files
from faulty_decoder import SITECUSTOMIZE
from small_media import write_photo, write_video

from vidrisk.infer.ledger import read_ledger
from vidrisk.infer.predictions import PREDICTIONS, read_predictions

ROOT = Path(colour.__file__).parents[3]
COLOURS = ("red", "green", "blue", "grey")
FAULTS = {"segfault.png": "crashed", "exit.png": "crashed", "hang.png": "timeout"}
FILE_TIMEOUT_S = 2.0


def write_media(folder: Path, files: int) -> dict[str, frozenset[str]]:
    """``files`` inputs, a tenth of them broken: path → the states in which it may end."""
    folder.mkdir(parents=True)
    clip = Path(write_video(folder / "good.mp4", ("red", "green", "blue", "red")))
    expected = {str(clip): frozenset({"ok"})}
    for number in range(files // 30):
        expected |= {str(path): ACCEPTABLE_STATES[name] for name, path in broken_files(folder / f"broken{number}", clip).items()
                     if name not in WITHOUT_ROW}
        name, state = list(FAULTS.items())[number % len(FAULTS)]
        expected[write_photo(folder / f"broken{number}" / name)] = frozenset({state})
    number = 0
    while len(expected) < files:
        number += 1
        good = (write_video(folder / f"{number:04}.mp4", tuple(random.Random(number).choices(COLOURS, k=2))) if number % 8 == 0
                else write_photo(folder / f"{number:04}.png", COLOURS[number % 4]))
        expected[good] = frozenset({"ok"})
    return expected


@dataclass(frozen=True)
class Victim:
    """Runs into ``out`` in a process of its own, with faulty decoders."""

    media: Path
    scratch: Path

    def start(self, out: Path, *options: str) -> subprocess.Popen[bytes]:
        (self.scratch / "sitecustomize.py").write_text(SITECUSTOMIZE)
        paths = [str(self.scratch), str(ROOT), *sys.path]
        return subprocess.Popen([sys.executable, colour.__file__, str(out), str(self.media), "--resume",
                                 "--file-timeout", str(FILE_TIMEOUT_S), *options],
                                stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})

    def finish(self, out: Path) -> None:
        process = self.start(out)
        assert process.wait(timeout=300) == 0

    def kill_at_random(self, out: Path, chance: random.Random, longest_s: float) -> str:
        """Start, wait a while, and kill the run or one of its workers; a run whose worker was killed is killed later on.
        Returns whom it hit."""
        process = self.start(out, "--slow")
        hit = []
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.0, longest_s))
        workers = _children(process.pid)
        if workers and chance.random() < 0.5:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)
                hit.append("worker")
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.0, longest_s))
        if process.poll() is None:
            hit.append("run")
        process.kill()
        process.wait()
        return "+".join(hit) or "nobody: it had ended"


def check(out: Path, expected: Mapping[str, frozenset[str]], undisturbed: Path) -> None:
    """Exactly one row per input, in a state that it may end in, and the predictions of an undisturbed run."""
    rows = read_ledger(out)
    assert Counter(row.path for row in rows) == dict.fromkeys(expected, 1)
    wrong = {row.path: (row.state, row.reason) for row in rows if row.state not in expected[row.path]}
    assert not wrong, wrong
    assert Counter(p.path for p in read_predictions(out)) == {row.path: row.predictions for row in rows if row.predictions}
    lines, right = (sorted((folder / PREDICTIONS).read_bytes().splitlines()) for folder in (out, undisturbed))
    assert lines == right


def orphans(media: Path) -> list[int]:
    """Decode workers that are still there, told from others by the environment that they were started with."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_worker = b"vidrisk.infer.worker" in (folder / "cmdline").read_bytes()
            if is_worker and str(media.parent).encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def wait_for_no_orphans(media: Path, limit_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while orphans(media) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not orphans(media)


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return []
