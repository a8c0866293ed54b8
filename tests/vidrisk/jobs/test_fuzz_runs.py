"""Tests of runs over damaged media: the short form of ``benchmarks/fuzz.py``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import fuzz_runs
import pytest
from small_media import write_photo, write_video
from tiny_media import tiny_media

from vidrisk.decode.messages import Again, Input, Read
from vidrisk.frames import FrameWindow


@pytest.mark.slow
def test_damaged_media_end_in_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    originals = list(tiny_media(tmp_path / "good").values())
    fuzz_runs.write_mutants(tmp_path / "bad" / "tiny", originals, count=240, seed=1)
    found = fuzz_runs.run_over(tmp_path / "bad", tmp_path / "out")
    states = found.states["tiny"]
    assert found.states.keys() == {"tiny"} and states.total() == 240 and "pending" not in states
    assert min(states["ok"], states["corrupt"], states["partial"]) >= 5, (
        states
    )  # else the mutants are too mild, or too wild
    assert 0 < found.silence_s < fuzz_runs.MAX_SILENCE_S


def test_originals_are_a_few_of_every_kind(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "below").mkdir(parents=True)
        for number in range(6):
            write_photo(tmp_path / folder / "below" / f"{number}.png")
        write_video(tmp_path / folder / "clip.mp4")
        (tmp_path / folder / "notes.txt").touch()
        (tmp_path / folder / "large.mp4").write_bytes(bytes(fuzz_runs.MAX_ORIGINAL_BYTES))
    found = fuzz_runs.real_media(tmp_path, seed=1)
    kinds = [(path.relative_to(tmp_path).parts[0], path.suffix) for path in found]
    assert sorted(kinds) == sorted(
        [("one", ".png"), ("two", ".png")] * fuzz_runs.ORIGINALS_PER_KIND + [("one", ".mp4"), ("two", ".mp4")]
    )
    assert len(set(found)) == len(found) and not [path for path in found if path.stem == "large"]
    assert found == fuzz_runs.real_media(tmp_path, seed=1) != fuzz_runs.real_media(tmp_path, seed=2)


def test_silence_is_noticed() -> None:
    inputs = {number: Input(number, f"/{number}.mp4") for number in (1, 2, 3)}

    def reads() -> Iterator[Read]:
        for number, seconds in ((1, 0.0), (2, 0.2), (3, 0.05)):
            for _ in range(2):
                time.sleep(seconds)
                yield Read(inputs[number], FrameWindow(0.0, 1.0, (0,)))
            yield Read(inputs[number], Again())

    watch = fuzz_runs.Watch()
    assert [(read.id, read.item) for read in watch.over(reads())] == [(read.id, read.item) for read in reads()]
    assert 0.2 <= watch.silence_s < watch.slowest_s[0] >= 0.4 and watch.slowest_s[1] == "2.mp4"
