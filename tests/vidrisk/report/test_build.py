from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from colour import ACTION, RISK, colour_classifier
from PIL import Image
from small_media import write_photo, write_video

from vidrisk.inference.predictions import Prediction, read_predictions
from vidrisk.jobs.folder import LEDGER
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.segments import SEGMENTS, Hysteresis, write_segments
from vidrisk.jobs.sources import find_inputs
from vidrisk.report import build_report
from vidrisk.report.build import _doubts, _texts, moments_from_prediction
from vidrisk.report.results import MAX_CARDS
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import DataError, VidriskError
from vidrisk.runtimes.contract.specs import TimeSpec
from vidrisk.runtimes.html import BIDI_CONTROLS, visible_text

MAX_PAGE_BYTES = 5_000_000
THRESHOLDS = Hysteresis(0.5, 0.35)
WINDOW = Prediction("/v.mp4", 2.0, 4.0, "a", 1.0, False, None, None, None, {"action": {"a": 1.0}})


def run(contract: Contract, folder: Path, out: Path, **settings: float) -> str:
    run_folder(colour_classifier(contract), find_inputs([folder]), out, InferSettings(**settings))  # type: ignore[arg-type]
    return build_report(out).read_text(encoding="utf-8")


def merged(contract: Contract, folder: Path, out: Path, hysteresis: Hysteresis = THRESHOLDS, **settings: float) -> str:
    """Return the page of a run whose windows are merged with these thresholds."""
    run(contract, folder, out, **settings)
    write_segments(out, hysteresis)
    return build_report(out).read_text(encoding="utf-8")


def card(page: str, name: str) -> str:
    """Return the card of one input, without its pictures."""
    found = re.search(rf'<li class="card"[^>]* data-name="{re.escape(name)}".*?\n    </li>', page, re.DOTALL)
    assert found
    return re.sub(r"data:image/webp;base64,[^\"]*", "", found.group())


def listed(card: str) -> list[tuple[str, str]]:
    """Return the label and time of each segment in the list."""
    return re.findall(r'<b class="what"[^>]*>([^<]*)</b><span>([^<]*)</span>', card)


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


def tile(page: str, name: str) -> list[str]:
    """Return the number and the note of a tile."""
    found = re.search(rf'<div class="tile[^>]*><dt>{name}</dt>(.*?)</div>', page, re.DOTALL)
    assert found
    return [
        " ".join(re.sub(r"<[^>]+>", "", text).split())
        for text in re.findall(r"<dd[^>]*>(.*?)</dd>", found[1], re.DOTALL)
    ]


def test_uncertain_answers_are_counted_and_say_what_they_could_be(photos: Path, tmp_path: Path) -> None:
    write_photo(photos / "doubtful.png", "grey")
    page = run(RISK, photos, tmp_path / "out")
    assert tile(page, "Uncertain") == ["1", "25 % of the predictions; not known for level: no samples"]
    doubtful = card(page, "doubtful.png")
    assert 'data-uncertain="1"' in doubtful and '<span class="badge " lang="en">uncertain</span>' in doubtful
    assert '<p class="doubt">defect: less sure of every label than usual</p>' in doubtful
    assert 'class="doubt"' not in card(page, "bad.png") and 'name="uncertain"' in page
    assert "the true label is not excluded in 90 % of inputs" in page
    page = build_doubtful(ACTION, photos, tmp_path / "two", threshold=0.3)
    assert (
        '<p class="doubt">could be <b lang="en">red</b> or <b lang="en">green</b> or <b lang="en">blue</b></p>'
        in card(page, "doubtful.png")
    )


def test_every_doubt_of_several_targets_is_named() -> None:
    doubtful = replace(
        WINDOW,
        uncertain=True,
        targets={"defect": {"a": 0.5, "b": 0.4, "c": 0.1}, "level": {"低": 0.6, "高": 0.4}},
        candidates={"defect": ["a", "b"], "level": ["低"]},
    )
    assert _doubts(doubtful) == [("defect", ["a", "b"])]
    assert _doubts(replace(doubtful, candidates={"defect": ["b"], "level": []})) == [("defect", ["b"]), ("level", [])]


def test_a_field_with_the_same_value_as_the_label_is_shown_all_the_same() -> None:
    written = {"case": "1", "fields": {"level": "none", "defect": "none", "advice": ""}, "parse_ok": True, "text": "{}"}
    prediction = Prediction("/1.png", None, None, "none", 0.9, None, None, "none", "none", {}, report=written)
    assert _texts(prediction, "level") == [("Defect", "none")]


def test_without_thresholds_nothing_is_said_to_be_certain(photos: Path, tmp_path: Path) -> None:
    page = build_doubtful(ACTION, photos, tmp_path / "out", threshold=None)
    assert tile(page, "Uncertain") == ["–", "not known: a run has no thresholds; export fits them"]
    assert 'name="uncertain"' not in page and 'data-uncertain="1"' not in page and ">uncertain<" not in page
    rows = re.findall(r'<tr><th scope="row" lang="en">(\w+)</th>(.*?)</tr>', page, re.DOTALL)
    assert {name: re.findall(r">([^<>]*)</td>", cells)[-1] for name, cells in rows} == dict.fromkeys(
        ("red", "green", "blue"), "–"
    )


def build_doubtful(contract: Contract, folder: Path, out: Path, threshold: float | None) -> str:
    run_folder(colour_classifier(contract, threshold=threshold), find_inputs([folder]), out)
    return build_report(out).read_text(encoding="utf-8")


def test_clips_are_strips_with_times(photos: Path, tmp_path: Path) -> None:
    write_video(photos / "long.mp4", ("red", "green"))
    page = merged(ACTION, photos, tmp_path / "out", window_s=1.0)
    assert page.count('alt="long.mp4 at ') == 4 and "the least certain of 2 windows" in page
    assert re.search(r'alt="long\.mp4 at [01]\.\d\d s"', page)


def test_a_folder_without_segments_shows_no_timeline(photos: Path, tmp_path: Path) -> None:
    write_video(photos / "long.mp4", ("red", "green"))
    run(ACTION, photos, tmp_path / "out", window_s=1.0)
    (tmp_path / "out" / SEGMENTS).unlink(missing_ok=True)
    page = build_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "one of 2 windows" in page and page.count('alt="long.mp4 at ') == 4
    assert 'class="timeline"' not in page and "segments.jsonl" not in page


def test_a_video_has_a_timeline_with_what_happens_when(photos: Path, tmp_path: Path) -> None:
    write_video(photos / "long.mp4", ("red", "green", "red", "blue"))
    page = merged(ACTION, photos, tmp_path / "out", window_s=1.0)
    assert page.count('class="timeline"') == 1
    long = card(page, "long.mp4")
    assert listed(long) == [
        ("red", "0.00–1.00 s"),
        ("green", "1.00–2.00 s"),
        ("red", "2.00–3.00 s"),
        ("blue", "3.00–4.00 s"),
    ]
    assert re.findall(r'<path class="([^"]*)" d="([^"]*)"', long) == [
        ("label-0", "M0 0h250M500 0h250"),
        ("label-1", "M250 0h250"),
        ("label-2", "M750 0h250"),
    ]
    assert re.findall(r'alt="(\w+) at \d\.\d\d s"', long) == ["red", "green", "red", "blue"]
    assert "4 segments in 4.00 s" in long and "no clear label" not in long and "left-out" not in long


def test_gaps_stay_empty_and_are_counted(photos: Path, tmp_path: Path) -> None:
    write_video(photos / "long.mp4", ("red", "grey", "grey", "red"))
    long = card(merged(ACTION, photos, tmp_path / "out", window_s=1.0), "long.mp4")
    assert '<path class="label-0" d="M0 0h250M750 0h250"/>' in long and "no clear label 2.00 s" in long
    write_video(photos / "long.mp4", ("grey", "grey"))
    nothing = card(merged(ACTION, photos, tmp_path / "other", window_s=1.0), "long.mp4")
    assert "0 segments in 2.00 s" in nothing and listed(nothing) == [] and "<path" not in nothing


def test_severities_colour_the_timeline(photos: Path, tmp_path: Path) -> None:
    write_video(photos / "long.mp4", ("blue", "red"))
    contract = RISK.model_copy(update={"time": ACTION.time})
    long = card(merged(contract, photos, tmp_path / "out", window_s=1.0), "long.mp4")
    assert re.findall(r'<path class="([^"]*)" d="([^"]*)"', long) == [("low", "M0 0h500"), ("severe", "M500 0h500")]
    assert "the most severe of 2 windows" in long and [label for label, _ in listed(long)] == ["blue", "red"]


def test_hostile_labels_stay_text(photos: Path, tmp_path: Path) -> None:
    target = Target(name="action", labels=("<b>red</b>", "\"onload='x'", "蓝"))
    write_video(photos / "long.mp4", ("red", "green", "blue"))
    page = merged(ACTION.model_copy(update={"targets": (target,)}), photos, tmp_path / "out", window_s=1.0)
    assert "<b>red" not in page and [unescape(label) for label, _ in listed(card(page, "long.mp4"))] == list(
        target.labels
    )
    assert '<b class="what" lang="zh">蓝</b>' in page


def test_an_hour_of_windows_is_drawn_in_few_elements(photos: Path, tmp_path: Path) -> None:
    write_video(photos / "long.mp4", ("red", "green"))
    out = tmp_path / "out"
    run(ACTION, photos, out, window_s=1.0)
    windows = [one for one in read_predictions(out) if one.path.endswith("long.mp4")]
    hour = [replace(windows[number % 2], start_s=number / 2, end_s=number / 2 + 1) for number in range(7200)]
    (out / "predictions.jsonl").write_bytes(b"".join(one.to_json() for one in hour))
    assert write_segments(out, THRESHOLDS) == 7200
    long = card(build_report(out).read_text(encoding="utf-8"), "long.mp4")
    assert "40 of 7,200 segments, the longest of every label first; all are in segments.jsonl" in long
    assert "The bar shows one of them every 3.60 s." in long and "the least certain of 7,200 windows" in long
    assert len(listed(long)) == 40 and len(re.findall("<[a-z]", long)) < 300 and len(long) < 30_000
    moments = [time for _, time in listed(long)]
    assert moments == sorted(moments, key=lambda time: float(time.split("–")[0].replace(":", "")))


def test_500_timelines_stay_under_5_mb(tmp_path: Path) -> None:
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    write_video(folder / "0000.mp4", ("red", "green"))
    run(ACTION, folder, out, window_s=1.0)
    red, green = read_predictions(out)
    with (out / "predictions.jsonl").open("wb") as file:
        for number in range(MAX_CARDS):
            path = folder / f"{number:04}.mp4"
            if number:
                os.link(folder / "0000.mp4", path)
            for place in range(30):  # flickering from window to window
                window = green if place % 2 else red
                file.write(replace(window, path=str(path), start_s=place / 15, end_s=(place + 1) / 15).to_json())
    assert write_segments(out, THRESHOLDS) == 500 * 30
    page = build_report(out).read_text(encoding="utf-8")
    assert page.count('class="timeline"') == 500 and page.count("5 of 30 segments") == 500
    assert page.count("<img") == 500 * 4 and len(page.encode()) < MAX_PAGE_BYTES


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


def test_names_hold_nothing_that_html_forbids_or_that_turns_text_round(photos: Path, tmp_path: Path) -> None:
    controls = "".join(map(chr, [*range(1, 32), *range(127, 160)])).replace("/", "")
    write_photo(photos / f"a{controls[:20]}.png", "red")
    write_photo(photos / f"b{controls[20:]}.png", "red")
    (photos / "c\u202egnp.exe\u2066\u200f\ufdd0.png").write_bytes(b"no photo")
    page = run(RISK, photos, tmp_path / "out")
    assert not (BIDI_CONTROLS | {"\ufdd0"}) & set(page)
    assert not {
        character for character in page if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n"
    }
    assert r"c\u202egnp.exe\u2066\u200f\ufdd0.png" in page and r"a\x01\x02" in page
    assert "蓝" in visible_text("蓝 🎥 👨‍👩‍👧 שלום") and visible_text("👨‍👩‍👧\nשלום") == "👨‍👩‍👧\nשלום"


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidrisk.report import results

    monkeypatch.setattr(results, "MAX_CARDS", 8)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        write_photo(folder / f"grey{number:02}.png", "grey")
    write_photo(folder / "green.png", "green")
    shown = cards(run(ACTION, folder, tmp_path / "out"))
    assert len(shown) == 8 and "green.png" in shown and shown[0].startswith("grey")


def test_moments_are_those_of_the_window() -> None:
    assert moments_from_prediction(WINDOW, TimeSpec(4, 2.0, 1.0), 8) == [2.25, 2.75, 3.25, 3.75]
    assert moments_from_prediction(WINDOW, TimeSpec(4, 2.0, 1.0), 2) == [2.25, 3.75]
    assert moments_from_prediction(WINDOW, TimeSpec(2), 8) == [2.5, 3.5]
    assert moments_from_prediction(WINDOW, None, 8) == [3.0]
    assert moments_from_prediction(replace(WINDOW, start_s=None, end_s=None), TimeSpec(4), 8) == [0.0]
    cut = replace(WINDOW, end_s=3.0)  # the last window of a video keeps its rate
    assert moments_from_prediction(cut, TimeSpec(4, 2.0, 1.0), 8) == [2.25, 2.75, 3.25, 3.75]
