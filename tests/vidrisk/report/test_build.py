from __future__ import annotations

import os
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from colour import ACTION, RISK, colour_classifier
from PIL import Image
from small_media import write_photo, write_video

from vidrisk.infer.folder import LEDGER
from vidrisk.infer.pipeline import InferSettings, run_inference
from vidrisk.infer.sources import find_inputs
from vidrisk.report import build_report
from vidrisk.report.results import MAX_CARDS
from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.errors import DataError, VidriskError

MAX_PAGE_BYTES = 5_000_000


def run(contract: Contract, folder: Path, out: Path, **settings: float) -> str:
    run_inference(colour_classifier(contract), find_inputs([folder]), out, InferSettings(**settings))  # type: ignore[arg-type]
    return build_report(out).read_text(encoding="utf-8")


def cards(page: str) -> list[str]:
    return [unescape(name) for name in re.findall(r'<li class="card"[^>]* data-name="([^"]*)"', page)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in {"calm.png": "blue", "mild.png": "green", "bad.png": "red"}.items():
        write_photo(folder / name, colour, size=(80, 40))
    return folder


def test_the_worst_comes_first_with_what_to_do(photos: Path, tmp_path: Path) -> None:
    page = run(RISK, photos, tmp_path / "out")
    assert cards(page) == ["bad.png", "mild.png", "calm.png"]
    assert "Worst first" in page and "Ordered by expected severity" in page
    assert '<dd lang="zh">立即停工。</dd>' in page and '<dd lang="zh">墙体有贯穿裂缝。</dd>' in page
    assert '<span class="badge severe" lang="zh">严重</span>' in page


def test_actions_show_the_least_certain_first(photos: Path, tmp_path: Path) -> None:
    write_photo(photos / "doubtful.png", "grey")
    page = run(ACTION, photos, tmp_path / "out")
    assert cards(page)[0] == "doubtful.png" and "Least certain first" in page and "severity</" not in page.lower()


def test_clips_are_strips_with_times(photos: Path, tmp_path: Path) -> None:
    write_video(photos / "long.mp4", ("red", "green"))
    page = run(ACTION, photos, tmp_path / "out", window_s=1.0)
    assert page.count('alt="long.mp4 at ') == 4 and "one of 2 windows" in page
    assert re.search(r'alt="long\.mp4 at [01]\.\d\d s"', page)


def test_thumbnails_keep_the_aspect(photos: Path, tmp_path: Path) -> None:
    page = run(RISK, photos, tmp_path / "out")
    sizes = re.findall(r'<img src="[^"]+" width="(\d+)" height="(\d+)"', page)
    assert len(sizes) == 3 and all(int(width) == 2 * int(height) for width, height in sizes)


def test_it_is_one_file_without_a_network(photos: Path, tmp_path: Path) -> None:
    page = run(RISK, photos, tmp_path / "out")
    assert re.findall(r'(?:src|href|action)="(?!data:|#)([^"]*)"', page) == []
    assert "http://" not in page and "https://" not in page and "@import" not in page and "url(" not in page


def test_hostile_names_and_reasons_stay_text(photos: Path, tmp_path: Path) -> None:
    write_photo(photos / "<script>alert(1)<.png", "red")
    write_photo(photos / "\"onload='x'.png", "red")
    write_photo(photos / os.fsdecode(b"\xff\xfe.png"), "red")
    (photos / "<b>bold.png").write_bytes(b"no photo")
    page = run(RISK, photos, tmp_path / "out")
    assert "<script>alert" not in page and "<b>bold" not in page and "&lt;b&gt;bold.png" in page
    assert {"<script>alert(1)<.png", "\"onload='x'.png"} <= set(cards(page))
    assert len(cards(page)) == 6


def test_failures_have_their_reasons(photos: Path, tmp_path: Path) -> None:
    (photos / "empty.png").write_bytes(b"")
    page = run(RISK, photos, tmp_path / "out")
    row = re.search(r'<td class="mono">empty\.png</td>.*?</tr>', page, re.DOTALL)
    assert row and "corrupt" in row.group() and "is empty (0 bytes)" in row.group()


def test_nothing_could_be_predicted(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "empty.png").write_bytes(b"")
    page = run(RISK, tmp_path / "photos", tmp_path / "out")
    assert "No input could be predicted." in page and "empty.png" in page


def test_provenance(photos: Path, tmp_path: Path) -> None:
    page = run(RISK, photos, tmp_path / "out")
    for text in ("colours.bundle", "0" * 64, np.__version__, "fake", "fp32"):
        assert text in page


def test_it_is_rebuilt_from_the_folder_alone_and_missing_files_get_a_placeholder(photos: Path, tmp_path: Path) -> None:
    first = run(RISK, photos, tmp_path / "out")
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    (moved / "report.html").unlink()
    assert build_report(moved).read_text(encoding="utf-8") == first
    (photos / "bad.png").unlink()
    page = build_report(moved).read_text(encoding="utf-8")
    assert page.count("The file is no longer there") == 1 and cards(page) == cards(first)


def test_a_run_that_did_not_end_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did not end"):
        build_report(tmp_path)


def test_a_folder_without_a_ledger_has_no_report(photos: Path, tmp_path: Path) -> None:
    run(RISK, photos, tmp_path / "out")
    (tmp_path / "out" / LEDGER).unlink()
    with pytest.raises(VidriskError, match="holds no ledger"):
        build_report(tmp_path / "out")


def test_500_inputs_stay_under_5_mb_and_more_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)  # hard to compress
    Image.fromarray(noise).save(folder / "0000.jpg", quality=90)
    for number in range(1, MAX_CARDS + 7):
        os.link(folder / "0000.jpg", folder / f"{number:04}.jpg")
    page = run(RISK, folder, tmp_path / "out")
    assert len(cards(page)) == MAX_CARDS == page.count('<img src="data:image/webp')
    assert "500 of 507 inputs are shown" in page and "the other 7 are in predictions.jsonl" in page
    assert len(page.encode()) < MAX_PAGE_BYTES


def test_bounded_galleries_of_actions_keep_sure_examples_of_every_class(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidrisk.report import results

    monkeypatch.setattr(results, "MAX_CARDS", 8)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        write_photo(folder / f"grey{number:02}.png", "grey")
    write_photo(folder / "green.png", "green")
    shown = cards(run(ACTION, folder, tmp_path / "out"))
    assert len(shown) == 8 and "green.png" in shown and shown[0].startswith("grey")
