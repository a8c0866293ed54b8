"""Tests of the comparison page: its content and order, the code that it never runs, and its size.

Some tests open the page in a real browser.
"""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from report_pages import CHROMIUM, open_page
from report_runs import SCHEME, report, write_classifier_run, write_photos, write_run, write_truth

from vidrisk.data import load_cases
from vidrisk.jobs.compare_reports import compare_run
from vidrisk.jobs.join_reports import read_leads
from vidrisk.jobs.similar_cases import SimilarCases, index_from_run
from vidrisk.report import build_comparison, comparison
from vidrisk.runtimes.contract.errors import DataError

NAMES = tuple(f"a rather long name of a folder 站点/{number}{'_with_a_very_long_name' * 5}.png" for number in range(6))
EVIL = '<script>window.evil = 1</script><img src=x onerror="window.evil = 2">"\u202e</ins><style>body{color:rgb(1,2,3)}</style>'
LEVELS = ("轻微", "轻微", "严重", "严重", "中等", "轻微")
FOUND = ("轻微", "严重", "轻微", "", "中等", "轻微")


def fields(level: str, text: str = "墙体有裂缝，宽度 2 mm") -> dict[str, str]:
    return {"level": level, "defect": text, "risk": "", "advice": "A crack in the wall: repair it" if level else ""}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with six reports of different kinds.

    The reports are right, too high, too low, not parsed, right with untrusted HTML, and without a truth.
    """
    folder = tmp_path_factory.mktemp("site")
    photos = write_photos(folder / "photos", NAMES)
    write_truth(
        photos / "truth.csv",
        [
            {
                "id": f"D-{number}",
                "image_path": name,
                "level": level,
                "defect": "墙体有竖向裂缝，宽度 2 mm",
                "advice": "A long crack in the wall: repair it",
            }
            for number, (name, level) in enumerate(zip(NAMES[:5], LEVELS, strict=False))
        ],
    )
    classes = write_classifier_run(folder / "classes", photos)
    told = {
        name: report(fields(level), parse_ok=bool(level), uncertain=None)
        for name, level in zip(NAMES, FOUND, strict=True)
    }
    told[NAMES[3]] = report(fields(""), parse_ok=False, problems=["it is cut off"], text='{"level":"严' + EVIL)
    told[NAMES[4]] = report(fields("中等", EVIL))
    write_run(folder / "out", photos, told, classes=classes, uncertain=False)
    return folder


def built(site: Path, tmp_path: Path, *, both_ways: bool = False) -> Path:
    out = shutil.copytree(site / "out", tmp_path / "out")
    truth = load_cases(site / "photos" / "truth.csv", SCHEME)
    leads = read_leads(site / "classes", SCHEME) if both_ways else None
    similar = SimilarCases(index_from_run(site / "classes", truth), site / "classes") if both_ways else None
    compare_run(out, truth, SCHEME, leads=leads, similar=similar)
    return build_comparison(out)


def cards(page: str) -> list[str]:
    return re.findall(r'<li class="case.*?</li>', page, re.DOTALL)


def test_the_page_shows_the_worst_first_and_marks_differences(site: Path, tmp_path: Path) -> None:
    page = built(site, tmp_path).read_text(encoding="utf-8")
    kinds = [re.findall(r'class="case ([a-z ]*)"', card)[0].split() for card in cards(page)]
    assert kinds == [["wrong", "unparsed"], ["wrong"], ["wrong"], [], [], ["alone"]]
    names = [re.findall(r"<bdi>(\d)_", card)[0] for card in cards(page)]
    assert names[:3] == ["3", "2", "1"]  # without a level, too low, too high
    assert "墙体有<del>竖向</del>裂缝" in page and "A <del>long</del> crack" in page
    assert page.count("data:image/webp;base64,") == 6
    filters = re.findall(r'for="show-(\w+)"', page)
    assert filters == ["all", "wrong", "unparsed", "alone"]
    text = unescape(re.sub(r"<[^>]+>", "", page.split("<body>")[1]))
    assert "2 of 5 right" in text and "1 without a level count as wrong" in text and "1 too low, 1 too high" in text
    assert "Reports without a truth" in text and "Cases without a report" not in text


def test_a_stranger_s_html_is_text(site: Path, tmp_path: Path) -> None:
    page = built(site, tmp_path, both_ways=True).read_text(encoding="utf-8")
    assert "<script" not in page and 'onerror="' not in page and page.count("<style>") == 2 and "\u202e" not in page
    assert "&lt;script&gt;" in page and "\\u202e" in page
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "script-src" not in policy
    assert " style=" not in page and "http:" not in page and "https:" not in page


def test_both_ways_and_similar_cases_are_named_as_such(site: Path, tmp_path: Path) -> None:
    page = built(site, tmp_path, both_ways=True).read_text(encoding="utf-8")
    assert page.count("classifier and report disagree") == 2 and 'for="show-differs"' in page
    assert page.count("From similar cases, written by people about other photos") == 6
    assert "similarity 1.00" in page and "Levels of the classifier" in page and "From the labelled data" in page
    first = cards(page)[0]
    assert (
        first.index("classifier") < first.index('<span class="role">report') < first.index('<span class="role">truth')
    )
    own = next(card for card in cards(page) if "<bdi>D-0</bdi></span>" in card)
    assert '<bdi class="muted">D-0</bdi>' not in own


def test_the_page_is_bounded(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_CASES", 4)
    page = built(site, tmp_path / "few").read_text(encoding="utf-8")
    assert len(cards(page)) == 4 and "4 of 6 reports are shown; the other 2 are in comparison.jsonl" in page
    monkeypatch.setattr(comparison, "MAX_PAGE_BYTES", 10)
    page = built(site, tmp_path / "one").read_text(encoding="utf-8")
    assert len(cards(page)) == 1 and "1 of 6 reports are shown" in page


def test_long_texts_leave_the_page_bounded(site: Path, tmp_path: Path) -> None:
    out = shutil.copytree(site / "out", tmp_path / "out")
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["report"] |= {"fields": fields("轻微", "裂缝" * 2000), "text": "x" * 100_000, "parse_ok": False}
    (out / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    compare_run(out, site / "photos" / "truth.csv", SCHEME)
    page = build_comparison(out).read_text(encoding="utf-8")
    assert len(page.encode()) < 200_000 and "2,800 more characters" in page


def test_a_run_that_was_not_compared_has_no_page(site: Path, tmp_path: Path) -> None:
    out = shutil.copytree(site / "out", tmp_path / "out")
    with pytest.raises(DataError, match=r"has no comparison.json; fix: compare the run first"):
        build_comparison(out)


PROBE = """
  addEventListener("load", () => {
    const visible = () => [...document.querySelectorAll(".case")].filter((card) => card.offsetParent !== null).length;
    const found = { width: document.documentElement.scrollWidth, all: visible(), evil: window.evil ?? null };
    found.text = getComputedStyle(document.body).color;
    for (const kind of ["wrong", "unparsed", "differs", "alone"]) {
      document.querySelector(`label[for=show-${kind}]`).click();
      found[kind] = visible();
    }
    document.getElementById("show-all").click();
    const right = (node) => node.getBoundingClientRect().right;
    const inner = [...document.querySelectorAll(".case *")];
    found.overflow = inner.filter((node) => right(node) > right(node.closest(".case")) + 1).length;
    found.columns = getComputedStyle(document.querySelector(".field:has(del)")).gridTemplateColumns.split(" ").length;
    found.marks = [...document.querySelectorAll("del")].map((mark) => getComputedStyle(mark).textDecorationLine);
    found.broken = [...document.images].filter((image) => image.complete && !image.naturalWidth).length;
    const names = performance.getEntriesByType("resource").map((entry) => entry.name);
    found.requests = names.filter((name) => !name.startsWith("data:"));
    found.lang = document.querySelector(".field dt").lang;
    parent.postMessage(JSON.stringify(found), "*");
  });"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, True)])
def test_the_page_in_chromium(width: int, dark: bool, site: Path, tmp_path: Path) -> None:
    found, log = open_page(built(site, tmp_path, both_ways=True), tmp_path / "profile", PROBE, width=width, dark=dark)
    assert found["width"] <= width and found["overflow"] == 0
    counts: dict[str, Any] = {kind: found[kind] for kind in ("all", "wrong", "unparsed", "differs", "alone")}
    assert counts == {"all": 6, "wrong": 3, "unparsed": 1, "differs": 2, "alone": 1}
    assert found["columns"] == (1 if width < 640 else 2) and set(found["marks"]) == {"underline"}
    assert (found["text"] == "rgb(230, 235, 241)") == dark and found["evil"] is None
    assert found["broken"] == 0 and found["requests"] == [] and found["lang"] == "zh"
    assert "CONSOLE" not in log and "Uncaught" not in log


def test_photos_of_tables_are_shown(site: Path, tmp_path: Path) -> None:
    """The page shows the photo of a case from a file or from a row of the table itself."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    content = (site / "photos" / NAMES[0]).read_bytes()
    pq.write_table(
        pa.table(
            {
                "image": [{"bytes": content, "path": "a.png"}, {"bytes": b"no photo", "path": "b.png"}],
                "level": ["轻微", "严重"],
            }
        ),
        tmp_path / "test.parquet",
    )
    out = shutil.copytree(site / "out", tmp_path / "out")
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    keys = [f"{tmp_path}/test.parquet#case-1", f"{tmp_path}/test.parquet#case-2", f"{site}/photos/truth.csv#D-1"]
    for line, key in zip(lines, keys, strict=False):
        line |= {"path": key, "report": line["report"] | {"case": key.partition("#")[2]}}
    (out / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:3]), encoding="utf-8")
    compare_run(out, tmp_path / "test.parquet", SCHEME)
    page = build_comparison(out).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 1 and page.count("no photo</div>") == 2
    compare_run(out, site / "photos" / "truth.csv", SCHEME)
    assert build_comparison(out).read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 1
