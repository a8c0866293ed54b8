"""Kills at random moments, the short form. ``benchmarks/kill_resume.py`` does it for as long as one likes."""

from __future__ import annotations

import random
from pathlib import Path

import kills
import pytest


@pytest.mark.slow
def test_whatever_is_killed_when_nothing_is_lost(tmp_path: Path) -> None:
    media = tmp_path / "media"
    expected = kills.write_media(media, files=90)
    victim = kills.Victim(media, tmp_path)
    victim.finish(tmp_path / "undisturbed")
    kills.check(tmp_path / "undisturbed", expected, tmp_path / "undisturbed")
    chance = random.Random(4)
    hits = [victim.kill_at_random(tmp_path / "out", chance, longest_s=1.5) for _ in range(6)]
    victim.finish(tmp_path / "out")
    kills.check(tmp_path / "out", expected, tmp_path / "undisturbed")
    assert any("run" in hit for hit in hits)
    kills.wait_for_no_orphans(media)
