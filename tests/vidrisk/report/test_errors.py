"""Tests of the error page: most confident errors first, with the input of the model; no code in a name is run."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from colour import ACTION, RISK, colour_classifier
from small_media import write_photo, write_video

from vidrisk.data import Sample, Table
from vidrisk.frames import Interval
from vidrisk.jobs.evaluate import evaluate
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.report import errors
from vidrisk.report.errors import build_errors
from vidrisk.runtimes.contract.contract import Contract, Target

ONE = InferSettings(workers=1)
EVIL = "<script>evil()</script>'\u202e"


def page_of(table: Table, contract: Contract, path: Path) -> str:
    with colour_classifier(contract) as classifier:
        return build_errors(evaluate(classifier, table, ONE), path).read_text(encoding="utf-8")


def cards_of(page: str) -> list[str]:
    return [
        unescape(re.sub(r"<[^>]+>", " ", card)) for card in re.findall(r'<li class="error">(.*?)</li>', page, re.DOTALL)
    ]


def test_photos_are_shown_with_truth_and_answer(tmp_path: Path) -> None:
    samples = [
        Sample(
            Path(write_photo(tmp_path / f"{i}{EVIL.replace('/', '')}.png", shown)),
            f"{i}{EVIL}.png",
            {"defect": true, "level": "严重"},
        )
        for i, (true, shown) in enumerate((("red", "red"), ("green", "blue"), ("red", "blue")))
    ]
    page = page_of(Table(tmp_path, "risk", tuple(samples)), RISK, tmp_path / "errors.html")
    defects, levels = page.split('id="target-2"')
    assert len(cards_of(defects)) == 2 and defects.count("data:image/webp;base64,") == 2
    assert all("answer  blue" in re.sub(r"\s{2,}", "  ", card) for card in cards_of(defects))
    assert {"green", "red"} == {re.search(r"truth\s+(\w+)", card)[1] for card in cards_of(defects)}  # type: ignore[index]
    assert len(cards_of(levels)) == 2 and "轻微" in levels
    assert "<script" not in page and "&lt;script&gt;evil()" in page and "\u202e" not in page
    assert "default-src 'none'" in page


def test_clips_and_parts_are_shown_by_frames_of_what_was_answered(tmp_path: Path) -> None:
    clip = Path(write_video(tmp_path / "a.mp4", ("red", "blue", "green", "green")))
    samples = (
        Sample(clip, "a.mp4", {"action": "red"}, interval=Interval(2.0, 4.0)),
        Sample(clip, "a.mp4", {"action": "red"}, interval=Interval(0.0, 1.0)),
    )
    page = page_of(Table(tmp_path, "action", samples), ACTION, tmp_path / "errors.html")
    (card,) = re.findall(r'<li class="error">(.*?)</li>', page, re.DOTALL)
    times = [float(time) for time in re.findall(r"at ([\d.]+) s", card)]
    assert len(times) == errors.FRAMES and all(2.0 <= time < 4.0 for time in times) and "a.mp4 [2, 4) s" in card


def test_errors_of_several_labels_are_of_one_label_each(tmp_path: Path) -> None:
    contract = RISK.model_copy(
        update={"targets": (Target(name="defect", labels=("red", "green", "blue"), multi_label=True),), "guidance": ()}
    )
    sample = Sample(Path(write_photo(tmp_path / "a.png", "blue")), "a.png", {"defect": ("red",)})
    text = " ".join(cards_of(page_of(Table(tmp_path, "risk", (sample,)), contract, tmp_path / "errors.html")))
    assert re.search(r"truth\s+blue: does not hold\s+answer\s+blue: holds", text)
    assert not re.search(r"truth\s+green", text) or "green: does not hold" in text


def test_a_file_that_has_gone_and_a_model_without_errors(tmp_path: Path) -> None:
    path = Path(write_photo(tmp_path / "a.png", "blue"))
    table = Table(tmp_path, "risk", (Sample(path, "a.png", {"defect": "red", "level": "轻微"}),))
    with colour_classifier(RISK) as classifier:
        result = evaluate(classifier, table, ONE)
    path.unlink()
    page = build_errors(result, tmp_path / "errors.html").read_text(encoding="utf-8")
    assert "The file can no longer be read." in page and "No errors." in page


@pytest.mark.parametrize("count", [60])
def test_the_page_has_fifty_errors_at_most(tmp_path: Path, count: int) -> None:
    samples = tuple(
        Sample(Path(write_photo(tmp_path / f"{i}.png", "blue")), f"{i}.png", {"defect": "red", "level": "轻微"})
        for i in range(count)
    )
    page = page_of(Table(tmp_path, "risk", samples), RISK, tmp_path / "errors.html")
    assert len(cards_of(page)) == 50 and len(page) < 50 * errors.MAX_CARD_BYTES
