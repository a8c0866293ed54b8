"""Run vidrisk and other programs in turns, and derive figures from their results, for the sections of ``pipeline``."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import long_video
import pipeline_peers
from long_video import clips_below, hd_clips, link_clips
from process_costs import Spent, measure_costs
from quiet import measure_quietly

ROUNDS = 5
HD_CLIPS, HD_SECONDS = 60, 5.0
Item = TypeVar("Item")


@dataclass(frozen=True)
class Place:
    """The folders and the extent of a measurement."""

    data: Path
    work: Path
    runs: tuple[Path, ...]
    bundle: Path
    python: str
    trial: bool

    @property
    def rounds(self) -> int:
        return 1 if self.trial else ROUNDS

    def size(self, full: int, trial: int) -> int:
        return trial if self.trial else full

    @property
    def ut_clips(self) -> list[Path]:
        return clips_below(self.data / "ut_interaction_set1")

    def ut(self, count: int) -> Path:
        return link_clips(self.ut_clips, count, self.work / f"ut{count}")

    def hd(self) -> Path:
        count, seconds = self.size(HD_CLIPS, 6), 2.0 if self.trial else HD_SECONDS
        return hd_clips(clips_below(self.data / "clips"), count, seconds, self.work / f"hd{count}")

    def video(self, seconds: int) -> Path:
        clips = self.ut_clips + clips_below(self.data / "clips")
        return long_video.long_video(
            clips[:10] if self.trial else clips, seconds, self.work / "long" / f"{seconds}s.mp4"
        )

    def run_command(
        self, command: Iterable[str | Path], watch: Callable[[], None] | None = None, **options: Any
    ) -> Spent:
        return run_command(command, self.work, watch, **options)

    def infer(
        self, inputs: Path, *options: str, bundle: Path | None = None, watch: Callable[[], None] | None = None
    ) -> Ours:
        return run_infer(bundle or self.bundle, inputs, self.work, *options, watch=watch)

    def peer(self, kind: str, *options: str | Path | int) -> Peer:
        """Run a program of ``pipeline_peers`` once."""
        with tempfile.TemporaryDirectory(dir=self.work) as scratch:
            out = [Path(scratch) / "labels.jsonl"] if kind in ("script", "queue", "queue_windows") else []
            positional, named = options[:2], options[2:]
            spent = self.run_command(
                [sys.executable, pipeline_peers.__file__, kind, *map(str, positional), *out, *map(str, named)]
            )
            rows = [json.loads(line) for path in out for line in path.read_text(encoding="utf-8").splitlines()]
        return Peer(spent, json.loads(spent.output.splitlines()[-1]), {row["path"]: row["label"] for row in rows})


def run_command(
    command: Iterable[str | Path], work: Path, watch: Callable[[], None] | None = None, **options: Any
) -> Spent:
    """Run a command without the feature cache, because the folders contain the same few clips under many names."""
    environment = {"VIDRISK_CACHE": str(work / "cache"), "VIDRISK_CACHE_GB": "0"}
    return measure_costs([*command], work=work, environment=environment, watch=watch, **options)


def run_infer(bundle: Path, inputs: Path, work: Path, *options: str, watch: Callable[[], None] | None = None) -> Ours:
    """Run one whole ``vidrisk infer``."""
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        out = Path(scratch) / "out"
        spent = run_command([*infer_command(sys.executable, bundle, inputs, out), *options], work, watch)
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        lines = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return Ours(spent, summary, {(row["path"], row["start_s"]): row["label"] for row in map(json.loads, lines)})


def infer_command(python: str, bundle: Path, inputs: Path, out: Path) -> list[str | Path]:
    return [python, "-m", "vidrisk", "infer", bundle, inputs, "-o", out]


@dataclass(frozen=True)
class Ours:
    """A finished ``vidrisk infer``: its costs, its summary, and the label by (path, start_s)."""

    spent: Spent
    summary: dict[str, Any]
    labels: dict[Any, str]

    @property
    def engine(self) -> tuple[str, str, str, str]:
        """Return the options that select the same engine and variant again."""
        return "--runtime", self.summary["runtime"], "--variant", self.summary["variant"]

    @property
    def batch(self) -> str:
        return str(self.summary["settings"]["batch_frames"])

    @property
    def made_with(self) -> dict[str, Any]:
        return {key: self.summary[key] for key in ("runtime", "variant", "settings")}

    @property
    def by_path(self) -> dict[str, str]:
        return {path: label for (path, _), label in self.labels.items()}

    @property
    def by_start(self) -> dict[str, str]:
        return {f"{start_s:.3f}": label for (_, start_s), label in self.labels.items()}


@dataclass(frozen=True)
class Peer:
    """A finished program of others: its costs, its output, and the label by path (for windows, by start)."""

    spent: Spent
    printed: dict[str, Any]
    labels: dict[str, str]


def in_turns(programs: Mapping[str, Callable[[], Item]], rounds: int) -> dict[str, list[Item]]:
    """Return the results per program of turns on a quiet machine.

    The first turn fills the disk cache and chooses the runtime; it is not counted.
    """
    results: dict[str, list[Item]] = {name: [] for name in programs}
    for program in programs.values():
        program()
    for _ in range(rounds):
        for name, program in programs.items():
            results[name].append(measure_quietly(program))
    return results


def walls(done: Iterable[Ours | Peer]) -> list[float]:
    return [one.spent.wall_s for one in done]


def cpus(done: Iterable[Ours | Peer]) -> list[float]:
    return [one.spent.cpu_s for one in done]


def median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 3)


def ratio(above: Iterable[float], below: Iterable[float]) -> dict[str, Any]:
    """Return the median of the ratios of the turns, and all ratios."""
    each = [round(a / b, 3) for a, b in zip(above, below, strict=True)]
    return {"median": median(each), "turns": each}


def share(some: Mapping[Any, str], others: Mapping[Any, str]) -> float:
    """Return the share of the labels in ``some`` that are the same in ``others``."""
    return round(statistics.mean(others.get(key) == label for key, label in some.items()), 4)
