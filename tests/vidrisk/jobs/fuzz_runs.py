"""Damaged media in a whole run: every file must end in the ledger, and the run must survive all of them."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from colour import ACTION, colour_classifier
from mutants import mutants

from vidrisk.decode.messages import Again, InputEnd, Read
from vidrisk.frames.media import MEDIA_SUFFIXES
from vidrisk.inference import stream
from vidrisk.inference.encode import encode_frames
from vidrisk.inference.predictions import read_predictions
from vidrisk.jobs.ledger import read_ledger
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.sources import find_inputs

FILE_TIMEOUT_S = 5.0
MAX_SILENCE_S = FILE_TIMEOUT_S + 5.0  # a worker is killed, and the next one starts
MAX_MEMORY_MB = 512
MAX_ORIGINAL_BYTES = 2_000_000
ORIGINALS_PER_KIND = 4


def real_media(folder: Path, seed: int) -> list[Path]:
    """Return a few small clips and photos from every sub-folder and with every suffix below a folder."""
    kinds = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MEDIA_SUFFIXES and path.is_file() and path.stat().st_size < MAX_ORIGINAL_BYTES:
            kinds[path.relative_to(folder).parts[:-1][:1], path.suffix].append(path)
    chance = random.Random(seed)
    return [path for kind in kinds.values() for path in chance.sample(kind, min(len(kind), ORIGINALS_PER_KIND))]


def write_mutants(folder: Path, originals: Sequence[Path], count: int, seed: int) -> None:
    """Write ``count`` damaged copies of the originals in turn, with the suffixes of the originals."""
    folder.mkdir(parents=True)
    contents = [path.read_bytes() for path in originals]
    for number, (name, content) in enumerate(mutants(contents, count, seed)):
        (folder / f"{name}{originals[number % len(originals)].suffix}").write_bytes(content)


@dataclass
class Watch:
    """Observations of a run over damaged media.

    Attributes:
        states: states in the ledger, counted per folder.
        silence_s: longest wait for the only decode worker, without the time in which answers were computed.
        slowest_s: longest wait for one input, and the name of that input.
    """

    states: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    silence_s: float = 0.0
    slowest_s: tuple[float, str] = (0.0, "")

    def over(self, reads: Iterable[Read]) -> Iterator[Read]:
        """Yield the reads of the worker in their order, and record the waiting times."""
        asked_s, input_s = time.monotonic(), 0.0
        for read in reads:
            waited_s = time.monotonic() - asked_s
            self.silence_s, input_s = max(self.silence_s, waited_s), input_s + waited_s
            if isinstance(read.item, Again | InputEnd):
                self.slowest_s, input_s = max(self.slowest_s, (input_s, Path(read.input.path).name)), 0.0
            yield read
            asked_s = time.monotonic()


def run_over(folder: Path, out: Path) -> Watch:
    """Predict the files of a folder's sub-folders with one decode worker.

    A second worker would hide how long the first one is held up.

    Raises:
        AssertionError: an input has no row, or a row lacks its reason or its predictions.
    """
    watch = Watch()

    def watched(reads: Iterable[Read], *rest: Any) -> Any:
        return encode_frames(watch.over(reads), *rest)

    settings = InferSettings(
        window_s=1.0, stride_s=0.5, workers=1, file_timeout_s=FILE_TIMEOUT_S, max_memory_mb=MAX_MEMORY_MB
    )
    with colour_classifier(ACTION) as classifier, mock.patch.object(stream, "encode_frames", watched):
        run_folder(classifier, find_inputs([folder]), out, settings)
    rows = read_ledger(out)
    assert Counter(row.path for row in rows) == Counter(str(path) for path in folder.glob("*/*"))
    assert all(row.state == "ok" or row.reason for row in rows)
    assert Counter(p.path for p in read_predictions(out)) == {
        row.path: row.predictions for row in rows if row.predictions
    }
    for row in rows:
        watch.states[Path(row.path).parent.name][row.state] += 1
    return watch
