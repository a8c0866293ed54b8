"""Tests of the third part of the demo, with few photos and a small language model instead of SmolLM2."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from backbones import EMBEDDED
from vlms import save_language_model

from vidrisk import demo_reports
from vidrisk.data.case_tables import load_cases
from vidrisk.demo_reports import run_demo_reports, write_demo_cases
from vidrisk.runtimes.contract.errors import SettingsError

pytest.importorskip("elpv_dataset", reason="the extra demo is not installed")


def test_the_cases_are_balanced_and_split(tmp_path: Path) -> None:
    table, held_out, scheme = write_demo_cases(tmp_path)
    cases = load_cases(table, scheme, photos=Path("/"))
    assert Counter(case.split for case in cases.cases) == {"train": 320, "val": 40, "test": 60}
    assert set(cases.of_split("test").level_counts().values()) == {15}
    assert len({photo for case in cases.cases for photo in case.photos}) == len(cases) == 420
    assert {case.id for case in load_cases(held_out, scheme, photos=Path("/")).cases} == {
        case.id for case in cases.of_split("test").cases
    }


@pytest.mark.slow(minutes=1)
def test_from_photos_to_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "language").mkdir()
    language = save_language_model(tmp_path / "language", "LlamaForCausalLM")
    for name, value in (("TRAIN", 16), ("VAL", 8), ("TEST", 8), ("BACKBONE", f"compose:{EMBEDDED}+{language}")):
        monkeypatch.setattr(demo_reports, name, value)
    monkeypatch.setattr(
        demo_reports, "SETTINGS", (*demo_reports.SETTINGS, "optim.epochs=1", "pixel.height=96", "pixel.width=96")
    )
    found = run_demo_reports(tmp_path / "out", lambda *_: None)
    assert found.comparison.scores.reports == 8 and "<h1" in found.page.read_text(encoding="utf-8")
    with pytest.raises(SettingsError, match="exists and is not empty"):
        run_demo_reports(tmp_path / "out", lambda *_: None)
