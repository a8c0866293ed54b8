"""Tests of the page in a real browser: no errors, no requests, no sideways scroll on a phone, working filters."""

from __future__ import annotations

from pathlib import Path

import pytest
from colour import ACTION, RISK, colour_classifier
from report_pages import CHROMIUM, open_page
from small_media import write_photo, write_video
from small_report_bundle import report_bundle

from vidrisk.inference.open_reporter import open_reporter
from vidrisk.jobs.case_inputs import find_cases
from vidrisk.jobs.report_run import run_reports
from vidrisk.jobs.report_settings import ReportSettings
from vidrisk.jobs.run_folder import run_folder
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.jobs.segments import Hysteresis, write_segments
from vidrisk.jobs.sources import find_inputs
from vidrisk.report import build_report
from vidrisk.runtimes.contract.contract import Contract, Target

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")

PROBE = """
  const cards = () => [...document.querySelectorAll(".card")];
  const visible = () => cards().filter((card) => card.offsetParent !== null).map((card) => card.dataset.label);
  addEventListener("load", () => {
    const found = { width: document.documentElement.scrollWidth, all: visible() };
    found.text = getComputedStyle(document.body).color;
    const label = document.querySelector("select[name=label]");
    label.value = "blue";
    label.dispatchEvent(new Event("input", { bubbles: true }));
    found.blue = visible();
    document.querySelector('.card[data-label="blue"] button.view').click();
    found.dialog = document.getElementById("lightbox").open;
    const names = performance.getEntriesByType("resource").map((entry) => entry.name);
    found.requests = names.filter((name) => !name.startsWith("data:"));
    found.broken = [...document.images].filter((image) => image.complete && !image.naturalWidth).length;
    parent.postMessage(JSON.stringify(found), "*");
  });"""
TIMELINE_PROBE = """
  addEventListener("load", () => {
    const card = document.querySelector(".card:has(.timeline)");
    card.querySelector(".timeline").scrollIntoView({ behavior: "instant" });
    const box = (node) => node.getBoundingClientRect();
    const bar = card.querySelector(".axis svg");
    const found = { width: document.documentElement.scrollWidth, text: card.querySelector(".segments").innerText };
    found.bar = [box(bar).left, box(bar).width, box(bar).height];
    const paths = [...bar.querySelectorAll("path")];
    found.colours = Object.fromEntries(paths.map((path) => [path.className.baseVal, getComputedStyle(path).stroke]));
    found.swatches = [...card.querySelectorAll(".segments .swatch")].map((swatch) => getComputedStyle(swatch).backgroundColor);
    // what lies under a point of the bar: a colour, or nothing in a gap
    found.under = [0.125, 0.375, 0.625, 0.875].map((part) => document.elementsFromPoint(
      box(bar).left + part * box(bar).width, box(bar).top + box(bar).height - 3).find((node) => node.closest(".axis svg")).tagName);
    found.legend = [...card.querySelectorAll(".legend li")].map((entry) => entry.innerText);
    found.overflow = [...card.querySelectorAll(".timeline *")].filter((node) => box(node).right > box(card).right + 1).length;
    const label = document.querySelector("select[name=label]");
    label.value = "blue";
    label.dispatchEvent(new Event("input", { bubbles: true }));
    found.kept = card.offsetParent !== null;
    card.querySelector("button.view:has(.peaks)").click();
    found.enlarged = document.querySelectorAll("#stage .peaks img").length;
    found.broken = [...document.images].filter((image) => image.complete && !image.naturalWidth).length;
    parent.postMessage(JSON.stringify(found), "*");
  });"""


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "a rather long name of a folder of photos 站点"
    folder.mkdir()
    for colour in ("red", "green", "blue"):
        write_photo(folder / f"{colour}{'_with_a_very_long_name' * 6}.png", colour)
    write_video(folder / "clip.mp4", ("red", "blue"))
    (folder / f"broken{'_with_a_very_long_name' * 6}.png").write_bytes(b"no photo")
    return folder


@pytest.mark.parametrize(("contract", "width", "dark"), [(RISK, 390, False), (ACTION, 390, True), (RISK, 1280, True)])
def test_the_page_in_chromium(contract: Contract, width: int, dark: bool, media: Path, tmp_path: Path) -> None:
    run_folder(colour_classifier(contract), find_inputs([media]), tmp_path / "out")
    found, log = open_page(build_report(tmp_path / "out"), tmp_path / "profile", PROBE, width=width, dark=dark)
    assert found["width"] <= width
    assert len(found["all"]) == 4 and found["blue"] and set(found["blue"]) == {"blue"}
    assert found["dialog"] and found["requests"] == [] and found["broken"] == 0
    assert (found["text"] == "rgb(230, 235, 241)") == dark
    assert "CONSOLE" not in log and "Uncaught" not in log


DOUBT_PROBE = """
  addEventListener("load", () => {
    const visible = () => [...document.querySelectorAll(".card")].filter((card) => card.offsetParent !== null);
    const found = { width: document.documentElement.scrollWidth, all: visible().length };
    const box = document.querySelector("input[name=uncertain]");
    found.filter = box !== null;
    if (box) box.click();
    found.left = visible().map((card) => card.querySelector(".file bdi").textContent);
    found.doubts = visible().map((card) => card.querySelector(".doubt")?.textContent ?? "");
    found.tile = [...document.querySelectorAll(".tile")].map((tile) => tile.innerText).find((text) => text.startsWith("Uncertain"));
    parent.postMessage(JSON.stringify(found), "*");
  });"""


@pytest.mark.parametrize(("threshold", "width"), [(0.3, 390), (None, 390), (0.3, 1280)])
def test_uncertain_answers_in_chromium(threshold: float | None, width: int, media: Path, tmp_path: Path) -> None:
    """With thresholds, uncertain answers can be filtered; without them, the page neither counts nor filters them."""
    write_photo(media / "grey.png", "grey")
    run_folder(colour_classifier(ACTION, threshold=threshold), find_inputs([media]), tmp_path / "out")
    found, log = open_page(build_report(tmp_path / "out"), tmp_path / "profile", DOUBT_PROBE, width=width, dark=False)
    assert found["width"] <= width and found["all"] == 5
    number, note = found["tile"].splitlines()[1:]
    if threshold is None:
        assert not found["filter"] and len(found["left"]) == 5 and set(found["doubts"]) == {""}
        assert (number, note) == ("–", "not known: a run has no thresholds; export fits them")
    else:
        assert sorted(found["left"]) == ["clip.mp4", "grey.png"]
        assert sorted(found["doubts"]) == ["could be blue or red", "could be red or green or blue"]
        assert (number, note) == ("2", "40 % of the predictions")
    assert "CONSOLE" not in log and "Uncaught" not in log


LONG_LABEL = "<i>carrying_something_heavy_" + "without_any_place_to_break_the_line_" * 3


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_a_timeline_in_chromium(width: int, dark: bool, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / f"long{'_with_a_very_long_name' * 6}.mp4", ("red", "grey", "blue", "red"))
    write_video(tmp_path / "clips" / "short.mp4", ("blue",))
    contract = ACTION.model_copy(update={"targets": (Target(name="action", labels=(LONG_LABEL, "green", "blue")),)})
    out = tmp_path / "out"
    run_folder(colour_classifier(contract), find_inputs([tmp_path / "clips"]), out, InferSettings(window_s=1.0))
    write_segments(out, Hysteresis(0.5, 0.35))
    found, log = open_page(build_report(out), tmp_path / "profile", TIMELINE_PROBE, width=width, dark=dark)
    assert found["width"] <= width and found["overflow"] == 0
    left, bar_width, height = found["bar"]
    assert left > 0 and bar_width > 250 and height > 10
    assert found["under"] == ["path", "svg", "path", "path"]
    texts = [" ".join(line.split()) for line in found["text"].splitlines()]
    places = [
        next(i for i, text in enumerate(texts) if what in text)
        for what in ("0.00–1.00 s", "2.00–3.00 s", "3.00–4.00 s")
    ]
    assert places == sorted(places) and sum(LONG_LABEL in text for text in texts) == 2 and "blue" in found["text"]
    assert found["swatches"] == [found["colours"][kind] for kind in ("label-0", "label-2", "label-0")]
    assert len(set(found["colours"].values())) == 2
    assert found["legend"] == [f"{LONG_LABEL} 2.00 s", "blue 1.00 s", "no clear label 1.00 s"]
    assert found["kept"] and found["enlarged"] == 3 and found["broken"] == 0
    assert "CONSOLE" not in log and "Uncaught" not in log


INJECTED = """<script>document.title = "taken over"; window.evil = 1</script>
<img src="data:image/png;base64,AAAA" onerror="window.evil = 2"><svg onload="window.evil = 3"></svg>
<a id="link" href="javascript:window.evil = 4">link</a><style>body { color: rgb(1, 2, 3) }</style>"""
INJECTED_PROBE = """
  addEventListener("load", () => {
    document.getElementById("link").click();
    setTimeout(() => parent.postMessage(JSON.stringify({ evil: window.evil ?? null, title: document.title,
      text: getComputedStyle(document.body).color, filters: !document.getElementById("toolbar").hidden,
      name: document.querySelector(".card .file bdi").textContent }), "*"), 500);
  });"""


def test_what_slips_through_the_escaping_runs_nothing(tmp_path: Path) -> None:
    """Injected markup runs no script, even if it is in the page without escaping.

    The test inserts the markup as if a name had been written into the page unchanged.
    """
    (tmp_path / "photos").mkdir()
    write_photo(tmp_path / "photos" / "a\u202egnp.exe\x07.png", "red")
    run_folder(colour_classifier(RISK), find_inputs([tmp_path / "photos"]), tmp_path / "out")
    page = build_report(tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("<main>", f"<main>{INJECTED}"), encoding="utf-8")
    found, log = open_page(page, tmp_path / "profile", INJECTED_PROBE, width=1280, dark=False)
    assert found == {
        "evil": None,
        "title": "colours.bundle: 1 inputs",
        "text": found["text"],
        "filters": True,
        "name": "a\\u202egnp.exe\\x07.png",
    }
    assert found["text"] != "rgb(1, 2, 3)" and log.count("Content Security Policy") >= 4


ANSWERS_PROBE = """
  addEventListener("load", () => {
    const visible = () => [...document.querySelectorAll(".card")].filter((card) => card.offsetParent !== null);
    const found = { width: document.documentElement.scrollWidth, all: visible().map((card) => card.dataset.name) };
    const search = document.querySelector("input[name=search]");
    search.value = "green";
    search.dispatchEvent(new Event("input", { bubbles: true }));
    found.left = visible().map((card) => card.querySelector("h3").textContent);
    found.selects = document.querySelectorAll("select").length;
    document.querySelector('.card[data-name^="green"] button.view').click();
    found.title = document.getElementById("stage-title").textContent;
    found.question = document.querySelector(".question").innerText;
    parent.postMessage(JSON.stringify(found), "*");
  });"""


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_answers_to_a_question_in_chromium(width: int, dark: bool, media: Path, tmp_path: Path) -> None:
    question = f"What is it?\nAnd is it {'very_' * 40}bad?"
    with open_reporter(report_bundle(), threads=1, answer_tokens=60) as reporter:
        run_reports(reporter, find_cases([media], None), tmp_path / "out", ReportSettings(workers=1, question=question))
    found, log = open_page(build_report(tmp_path / "out"), tmp_path / "profile", ANSWERS_PROBE, width=width, dark=dark)
    assert found["width"] <= width and found["selects"] == 0 and found["question"] == question
    assert found["all"] == sorted(found["all"]) and len(found["all"]) == 3
    assert found["left"] == [name for name in found["all"] if name.startswith("green")]
    assert found["title"] == f"\u2068{found['left'][0]}\u2069"
    assert "CONSOLE" not in log and "Uncaught" not in log
