"""Tests of kills at random moments, in a short form; ``benchmarks/kill_resume.py`` runs for any duration."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import kills
import pytest

from vidrisk.inference.predictions import Prediction
from vidrisk.jobs.ledger import Ledger

NOTHING = kills.Difference(lost=0, twice=0, wrong=(), probability=0.0)
KILLS = 4


@pytest.mark.slow
def test_whatever_is_killed_when_nothing_is_lost(tmp_path: Path) -> None:
    media, out, undisturbed = (tmp_path / name for name in ("media", "out", "undisturbed"))
    expected = kills.write_media(media, files=120)
    assert len(expected) == 120 and sum(states != {"ok"} for states in expected.values()) == 12 == len(kills.STATES)
    victim = kills.Victim(media, tmp_path)
    victim.finish(undisturbed)
    assert kills.difference(undisturbed, expected, undisturbed) == NOTHING
    chance = random.Random(4)
    # Every run takes longer than that: a decoder that hangs is waited for twice.
    longest_s = 0.7 * kills.FILE_TIMEOUT_S
    hits = Counter(
        hit for number in range(KILLS) for hit in victim.kill(out, chance, longest_s, worker_first=number % 2 == 1)
    )
    victim.finish(out)
    assert kills.difference(out, expected, undisturbed) == NOTHING
    assert hits["worker"] == KILLS / 2 and hits["run"] >= KILLS / 2
    kills.wait_for_no_orphans(media)


def write_run(out: Path, rows: dict[str, tuple[str, list[Prediction]]]) -> Path:
    with Ledger(out, {}, resume=False) as ledger:
        ledger.add(rows)
        for row in ledger.rows():
            state, predictions = rows[row.path]
            ledger.finish(
                replace(row, state=state, predictions=len(predictions)), b"".join(p.to_json() for p in predictions)
            )
    return out


def test_what_is_lost_or_twice_or_wrong_is_counted(tmp_path: Path) -> None:
    first = Prediction("/a", 0.0, 1.0, "x", 0.9, False, None, None, None, {"t": {"x": 0.9, "y": 0.1}})
    second, other = replace(first, start_s=1.0, end_s=2.0), replace(first, path="/b")
    close, flipped = replace(second, targets={"t": {"x": 0.875, "y": 0.125}}), replace(second, label="y", score=0.1)
    expected = {"/a": frozenset({"ok"}), "/b": frozenset({"ok"}), "/c": frozenset({"corrupt", "crashed"})}
    right = {"/a": ("ok", [first, second]), "/b": ("ok", [other]), "/c": ("corrupt", list[Prediction]())}
    undisturbed = write_run(tmp_path / "undisturbed", right)
    for name, change, lost, twice, wrong, probability in (
        ("same", {}, 0, 0, 0, 0.0),
        ("crashed", {"/c": ("crashed", [])}, 0, 0, 0, 0.0),
        ("lost", {"/a": ("ok", [first])}, 1, 0, 0, 0.0),
        ("twice", {"/b": ("ok", [other, other])}, 0, 1, 0, 0.0),
        ("stranger", {"/d": ("ok", [replace(first, path="/d")])}, 0, 2, 1, 0.0),
        ("state", {"/c": ("ok", [])}, 0, 0, 1, 0.0),
        ("close", {"/a": ("ok", [first, close])}, 0, 0, 0, 0.025),
        ("label", {"/a": ("ok", [first, flipped])}, 0, 0, 1, 0.0),
    ):
        found = kills.difference(write_run(tmp_path / name, right | change), expected, undisturbed)
        assert (found.lost, found.twice, len(found.wrong)) == (lost, twice, wrong), (name, found)
        assert found.probability == pytest.approx(probability)
    fewer = write_run(tmp_path / "fewer", {path: right[path] for path in ("/a", "/c")})
    assert kills.difference(fewer, expected, undisturbed) == kills.Difference(
        lost=2, twice=0, wrong=(), probability=0.0
    )
