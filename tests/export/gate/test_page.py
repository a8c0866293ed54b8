"""Tests of the gate's page: its text, the exclusion of markup from files, and its look in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidrisk.calibration.points import ALL_QUANTIZED, BETTER, Outcome, Point
from vidrisk.export.gate.coverage import fit_coverage
from vidrisk.export.gate.hops import few_samples_note, float_hop, lossy_hop, training_hop
from vidrisk.export.gate.outputs import Outputs, Validation
from vidrisk.export.gate.page import MAX_THUMBNAILS, gate_page, picture_from_clip
from vidrisk.export.gate.report import GateReport, Lap, Selection, Speed, Verdict
from vidrisk.runtimes import Contract, PixelSpec, Target, TimeSpec
from vidrisk.runtimes.html import csp_digest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LABELS = ("裂纹", "scratch", "完好", "a rather long class name of somebody else's making")
CONTRACT = Contract(
    task="risk",
    pixel=PixelSpec(32, 32),
    targets=(Target(name="defect", labels=LABELS), Target(name="level", labels=("轻微", "中等", "严重"), ordered=True)),
)
TWO = ("/backbone/blocks.0/depthwise", "/backbone/blocks.4/depthwise")
POINTS = [
    Point((), Outcome("0" * 21 + "1" * 219, ("-" * 6 + "=" * 234,), 3.1), True, False, (0.6,) * 15, (1.0,) * 15),
    Point(TWO, Outcome("0" * 3 + "1" * 237, ("=" * 240,), 1.2), True, True, (0.7,) * 15, (1.0,) * 15),
]


def made(
    samples: int = 240,
    *,
    noise: float = 0.35,
    moments: int = 1,
    side: int = 32,
    max_drop: float = 10.0,
    allow_drop: bool = False,
    name: str = "站点 7/line_{}_of_a_camera_with_a_long_name.jpg",
    contract: Contract = CONTRACT,
    coverage: float = 0.9,
) -> tuple[GateReport, np.ndarray]:
    """Return a report as an export leaves it, and its frames.

    Every hop is judged by the real code, on invented answers.
    """
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:side, :side] / side
    frames = np.stack(
        [
            np.stack(
                [(255 * np.abs(np.sin(f * x + i + m / 3 + c) * np.cos(f * y))).astype(np.uint8) for c in range(3)], -1
            )
            for i in range(samples)
            for m in range(moments)
            for f in [1 + i % 7]
        ]
    )
    truth = {t.name: rng.integers(0, len(t.labels), samples) for t in contract.targets}
    logits = {
        t.name: (np.eye(len(t.labels))[truth[t.name]] * 2.2 + rng.normal(size=(samples, len(t.labels)))).astype(
            np.float32
        )
        for t in contract.targets
    }
    validation = Validation(
        frames.reshape(samples, moments, side, side, 3), truth, [name.format(i) for i in range(samples)]
    )
    before = Outputs({"features": rng.normal(size=(samples, 8)).astype(np.float32)}, logits, 92.4)
    blurred = replace(
        before,
        cuts={"features": before.cuts["features"] * 1.01},
        ms_per_frame=1.31,
        logits={t: each + rng.normal(size=each.shape).astype(np.float32) * noise for t, each in logits.items()},
    )
    report = GateReport(max_drop, samples, note=few_samples_note(samples, max_drop))
    merged = replace(before, ms_per_frame=30.2)
    report.hops = [
        training_hop(before, validation, contract, {t: float((logits[t].argmax(1) == truth[t]).mean()) for t in truth}),
        float_hop("adapter → merged", "merged", "torch", before, merged, validation, contract),
    ]
    for runtime, ms in (("openvino", 1.87), ("onnxruntime", 3.3)):
        onnx = replace(before, ms_per_frame=ms)
        report.hops.append(float_hop("merged → onnx fp32", "fp32", runtime, merged, onnx, validation, contract))
        report.laps.append(Lap("fp32", runtime, ms, 1e3 / ms, 13_434_211))
    for runtime, ms in (("openvino", 1.31), ("onnxruntime", 1.62)):
        report.hops.append(
            lossy_hop(
                "onnx fp32 → mixed",
                "mixed",
                runtime,
                before,
                replace(blurred, ms_per_frame=ms),
                validation,
                contract,
                max_drop=max_drop,
                allow_drop=allow_drop,
            )
        )
        report.laps.append(Lap("mixed", runtime, ms, 1e3 / ms, 3_912_004))
    report.search = [
        {
            "block": f"/backbone/blocks.{i}/depthwise",
            "nodes": 3 + i % 3,
            "precision": "float" if i in (0, 4) else "int8",
            "noise_share": share,
            "probability_shift": share / 9,
            "float_ms": 0.01 * (1 + i % 4),
        }
        for i, share in enumerate(rng.dirichlet(np.full(18, 0.3)))
    ]
    report.points = [POINTS[0].to_row(), POINTS[1].to_row(BETTER)]
    report.speeds = [Speed("mixed", "openvino", "openvino", 1.62, 1.58, 1.66, 11)]
    report.selection = Selection(samples // 3, samples - samples // 3, True, BETTER)
    report.recipe = [
        {"name": "plain min-max", "sqnr_db": 14.2, "chosen": False},
        {"name": "equalised, bias corrected, mse", "sqnr_db": 23.9, "chosen": True},
    ]
    report.calibration = {"frames": 256, "profile": "cpu", "recipe": "equalised, bias corrected, mse", "replaced": 2}
    passed = all(hop.passed for hop in report.hops)
    if passed:
        report.temperature = {"fp32": {"defect": 1.31, "level": 0.94}, "mixed": {"defect": 1.44, "level": 0.97}}
        report.coverage = fit_coverage(
            {"fp32": before, "mixed": blurred}, report.temperature, validation, contract, coverage
        )
    reason = next((hop.reason for hop in report.hops if not hop.passed), "")
    report.verdicts = [Verdict("fp32", True), Verdict("mixed", True)] if passed else [Verdict("mixed", False, reason)]
    return report, validation.frames


class Tags(HTMLParser):
    """A parser that collects every tag with its attributes, and the text of the page outside of styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(**settings: Any) -> tuple[GateReport, Tags]:
    report, frames = made(**settings)
    return report, Tags(gate_page(report, CONTRACT, frames, "elpv.bundle"))


def test_packed_weights_are_told_like_recipes() -> None:
    report, frames = made()
    report.points = [
        replace(point, recipe=f"int{bits} weights in groups of 64", size_bytes=bits * 500_000).to_row(
            BETTER if bits == 4 else ""
        )
        for point, bits in zip(POINTS, (8, 4), strict=True)
    ]
    report.recipe = [
        {"name": f"text: int{bits} weights in groups of 64", "sqnr_db": 4.0 * bits, "chosen": bits == 4}
        for bits in (4, 8)
    ]
    report.calibration = {
        "text: recipe": "int4 weights in groups of 64",
        "text: in float32": "model.layers.0, model.layers.7",
    }
    report.search = [{**row, "precision": "float" if row["precision"] == "float" else "int4"} for row in report.search]
    report.precision = {"mixed": {"text": "int4"}}
    page = gate_page(report, CONTRACT, frames, "elpv.bundle")
    for said in (
        "Text: recipeint4 weights in groups of 64",
        "Text: in float32model.layers.0, model.layers.7",
        "2 of 18 blocks stay in floating point",
        "or, with packed weights, which save memory, not slower or at most half as large",
    ):
        assert said in Tags(page).text, said
    rows = rows_of(page)
    assert ["text: int4 weights in groups of 64", "16.0", "✓ chosen"] in rows
    assert any(row[0].startswith("2 int4 weights in groups of 64") and "✓ chosen" in row[-1] for row in rows)
    assert any(row[0].startswith("none int8 weights in groups of 64") for row in rows)
    assert [row[-2] for row in rows if "weights in groups of 64" in row[0] and len(row) == 7] == ["4.0 MB", "2.0 MB"]
    assert "of equally fast points, the smallest is taken" in Tags(page).text
    assert "of equally fast points" not in page_of()[1].text
    assert "packed weights" not in page_of()[1].text


def test_a_shipped_bundle() -> None:
    report, page = page_of()
    assert "80 samples have chosen the precision of the blocks, 160 others have judged the result" in page.text
    worst = max(report.hops[-2:], key=lambda hop: hop.drop_points)
    assert "✓ Shipped: fp32, mixed" in page.text and "refused" not in page.text
    assert f"{worst.flipped} of 240 flipped, mixed on" in page.text
    assert re.search(r"Speed ?1\.62 × ?95 % interval 1\.58 to 1\.66", page.text) and re.search(
        r"Size ?3\.9 MB", page.text
    )
    assert "2 of 18 blocks stay in floating point" in page.text
    assert "裂纹" in page.text and "1.44" in page.text and "equalised, bias corrected, mse" in page.text
    for change in worst.changes:
        low, high = (f"{end:.1f}".replace("-", "−") for end in change.interval_points)
        assert f"{low} to {high}" in page.text


def rows_of(page: str) -> list[list[str]]:
    """Return the cells of every row of every table as texts."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [
        [
            " ".join(unescape(re.sub(r"<[^>]+>", " ", cell)).split())
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in rows
    ]


def percent(*shares: float | None) -> list[str]:
    return [f"{100 * share:.1f} %" for share in shares if share is not None]


def test_the_page_says_when_an_answer_is_uncertain() -> None:
    """The page shows the thresholds for uncertain answers: one per class, or one for all classes.

    With 240 samples, every class has enough for a threshold of its own at 90 %, and none has enough at 95 %.
    """
    report, frames = made()
    page = gate_page(report, CONTRACT, frames, "b")
    fit, rows = report.coverage["mixed"]["level"], rows_of(page)
    assert fit.is_per_class and fit.interval and "When an answer is uncertain" in page
    assert [
        "mixed",
        "level",
        "all, thresholds per class",
        "–",
        "90.0 %",
        " to ".join(percent(*fit.interval)),
        *percent(fit.kept, fit.accuracy_of_kept, fit.accuracy),
        "240",
    ] in rows
    for group in fit.groups:
        assert [
            "",
            "",
            group.labels[0],
            f"{group.threshold:.3f}",
            "",
            " to ".join(percent(*group.interval)),
            "",
            "",
            "",
            str(group.samples),
        ] in rows
    report, frames = made(coverage=0.95)
    fit = report.coverage["mixed"]["defect"]
    assert fit.interval and [
        "mixed",
        "defect",
        "all, one threshold",
        f"{fit.groups[0].threshold:.3f}",
        "95.0 %",
        " to ".join(percent(*fit.interval)),
        *percent(fit.kept, fit.accuracy_of_kept, fit.accuracy),
        "240",
    ] in rows_of(gate_page(report, CONTRACT, frames, "b"))


def test_too_few_samples_for_a_threshold_are_said_with_a_dash() -> None:
    report, frames = made(8, max_drop=100)
    accuracy = percent(report.coverage["fp32"]["level"].accuracy)
    assert [
        "fp32",
        "level",
        "no threshold 8 validation samples; a coverage of 90 % needs at least 10",
        "–",
        "90.0 %",
        "–",
        "–",
        "–",
        *accuracy,
        "8",
    ] in rows_of(gate_page(report, CONTRACT, frames, "b"))


def test_what_stays_in_float32_is_said_with_its_reason() -> None:
    report, frames = made()
    report.target = "jetson"
    report.half = {"frames": 64, "cosine": 0.99987, "blocks": {"backbone.layers.3": 0.9}}
    report.float32 = [
        {"what": "Softmax", "nodes": 12, "reason": "sums, squares and powers"},
        {"what": "backbone.layers.3", "nodes": 14, "reason": "values up to 7e+04, FP16 ends at 65504"},
    ]
    page = Tags(gate_page(report, CONTRACT, frames, "a"))
    assert "on 64 frames, the features of the worst one keep a cosine of 0.99987" in page.text
    assert "No TensorRT is installed here, so engines were not tried." in page.text
    assert re.search(r"backbone\.layers\.3 ?14 ?values up to 7e\+04, FP16 ends at 65504", page.text)
    report.parsed_by = ("tensorrt 10.3.0", "tensorrt-rtx 1.7.1")
    assert (
        "Every graph was read by tensorrt 10.3.0, tensorrt-rtx 1.7.1"
        in Tags(gate_page(report, CONTRACT, frames, "a")).text
    )
    assert "What stays in float32" not in page_of()[1].text


def test_a_refused_export_names_the_hop_and_the_reason() -> None:
    report, page = page_of(noise=2.0, max_drop=0.3)
    refused = next(hop for hop in report.hops if not hop.passed)
    assert "✗ Refused: nothing was shipped" in page.text
    assert f"onnx fp32 → mixed (openvino): {refused.reason}." in page.text
    assert refused.reason.startswith("top-1 falls by")


def test_a_waived_drop_is_said_first() -> None:
    report, frames = made(noise=2.0, max_drop=0.3, allow_drop=True)
    report.verdicts[1] = Verdict("mixed", True, "top-1 falls by 9 points")
    page = Tags(gate_page(report, CONTRACT, frames, "b"))
    said = (
        "! Shipped: fp32, mixed The gate would have refused it, and was overruled on request: top-1 falls by 9 points."
    )
    assert said in page.text
    assert page.text.count("! let pass") == 2


def test_the_trade_between_points_is_shown() -> None:
    page = page_of()[1]
    assert f"Chosen: {BETTER}." in page.text
    assert re.search(
        r"none ?91\.2 % ?87\.0 % to 94\.2 % ?2\.50 ?0\.2 to 4\.7 ?3\.1 ?1\.67 ×.{0,20}✗ aim missed", page.text
    )
    assert re.search(r"2 ?/backbone.{40,80}98\.8 %.*1\.43 ×.{0,20}✓ chosen ✓ reached", page.text)


def test_the_page_says_where_the_same_samples_chose_and_judged() -> None:
    report, frames = made(60)
    report.selection = Selection(60, 60, False, ALL_QUANTIZED, "", None)
    page = Tags(gate_page(report, CONTRACT, frames, "b"))
    assert "The same 60 samples have chosen the precision of the blocks and judged the result" in page.text
    assert "One choice alone was tried" in page.text
    report.selection = Selection(60, 60, False, BETTER, "top-1 falls by 2.50 points, at most 1 is allowed", 0.4)
    page = Tags(gate_page(report, CONTRACT, frames, "b"))
    assert "By the bootstrap, the drop looks 0.4 points too small for that." in page.text
    assert "Refused first, by the samples that judge: top-1 falls by 2.50 points, at most 1 is allowed." in page.text


def test_confidence_is_shown_beside_accuracy() -> None:
    report, page = page_of()
    moved = max(change.confidence_points for change in max(report.hops[-2:], key=lambda hop: hop.drop_points).changes)
    assert re.search(rf"Confidence moves by ?{moved:.1f} points", page.text)
    assert "and confidence may move by 100" in page.text
    assert "classes with fewer than 10 such answers are not judged alone" in page.text
    assert "it may rise by 50 points beyond the drop, and by what chance explains" in page.text


def test_a_variant_that_is_not_faster_was_left_out_with_its_reason() -> None:
    report, frames = made()
    report.verdicts = [
        Verdict("mixed", False, "mixed is not faster than floating point: 1.01 × its speed"),
        Verdict("fp32", True),
    ]
    report.speeds = [Speed("mixed", "openvino", "openvino", 1.01, 0.97, 1.04, 44)]
    page = Tags(gate_page(report, CONTRACT, frames, "b"))
    assert "✓ Shipped: fp32" in page.text
    assert "mixed was left out: mixed is not faster than floating point: 1.01 × its speed." in page.text
    assert "interval 0.97 to 1.04 from 44 paired turns: not faster beyond chance." in page.text


def test_a_slower_variant_is_refused_in_its_own_words() -> None:
    report, frames = made()
    report.verdicts = [Verdict("mixed", False, "mixed needs 12.1 ms per frame at best")]
    page = Tags(gate_page(report, CONTRACT, frames, "b"))
    assert "✗ Refused: nothing was shipped mixed: mixed needs 12.1 ms per frame at best." in page.text


@pytest.mark.parametrize("hops", [0, 1, 2, 4])
def test_a_report_that_ends_early(hops: int) -> None:
    report, frames = made(60)
    short = GateReport(report.max_drop, 60, hops=report.hops[:hops], verdicts=[Verdict("merged", False, "no reason")])
    page = Tags(gate_page(short, CONTRACT, frames, "b"))
    assert "✗ Refused" in page.text and ("Hop by hop" in page.text) == (hops > 0)
    assert "60 samples" in page.text or "60 labelled photos" in page.text


def test_outputs_that_are_no_numbers_are_shown_as_such() -> None:
    _, frames = made(30)
    truth = {t.name: np.zeros(30, np.int64) for t in CONTRACT.targets}
    validation = Validation(frames, truth, [f"{i}" for i in range(30)])
    sound = Outputs(
        {"features": np.ones((30, 2), np.float32)},
        {t.name: np.tile(np.eye(len(t.labels), dtype=np.float32)[0], (30, 1)) for t in CONTRACT.targets},
        1.0,
    )
    broken = replace(sound, logits={t: np.full_like(each, np.nan) for t, each in sound.logits.items()})
    report = GateReport(
        1.0, 30, hops=[float_hop("adapter → merged", "merged", "torch", sound, broken, validation, CONTRACT)]
    )
    report.recipe = [{"name": "r", "sqnr_db": -np.inf, "chosen": False}]
    report.search = [
        {
            "block": "b",
            "nodes": 1,
            "precision": "int8",
            "noise_share": np.nan,
            "probability_shift": np.nan,
            "float_ms": 0.1,
        }
    ]
    page = Tags(gate_page(report, CONTRACT, frames, "b"))
    assert "adapter → merged (torch): outputs are not finite for 30 of 30 samples: 0, 1, 2, …." in page.text
    assert "not a number" in page.text and "−∞" in page.text and " ∞" in page.text and "nan" not in page.text


def test_nothing_from_a_file_becomes_markup() -> None:
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(2)>{}\udcff\u202e\x07'
    labels = ("<b>bold</b>", "'\"><svg onload=alert(3)>")
    contract = Contract(task="risk", pixel=PixelSpec(8, 8), targets=(Target(name="defect", labels=labels),))
    report, frames = made(60, noise=3.0, name=evil, contract=contract, max_drop=100)
    report.search[0]["block"] = report.recipe[0]["name"] = report.calibration["note"] = evil
    text = gate_page(report, contract, frames, evil)
    page = Tags(text)
    text.encode("utf-8")
    assert not {"script", "svg", "b onload"} & {tag for tag, _ in page.tags}
    assert all(
        str(image["src"]).startswith("data:image/jpeg;base64,") and "onerror" not in image
        for image in page.named("img")
    )
    assert page.named("img")
    policy = next(meta["content"] for meta in page.named("meta") if "http-equiv" in meta)
    assert policy and "default-src 'none'" in policy and "script-src" not in policy
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert f"style-src-elem {csp_digest(style)};" in policy
    assert not {"\u202e", "\x07"} & set(text) and r"\u202e\x07" in text
    assert not re.search(r"(?:src|href)=\"(?!data:)", text) and "url(" not in text and "@import" not in text


def test_flips_are_shown_once_losses_first_and_the_rest_is_counted() -> None:
    report, page = page_of(noise=2.0, max_drop=100.0)
    one = len(report.hops[-1].flips)
    assert one > MAX_THUMBNAILS
    assert len(page.named("img")) == MAX_THUMBNAILS
    assert f"{MAX_THUMBNAILS} are shown, {one - MAX_THUMBNAILS} more are not." in page.text
    assert "mixed openvino, mixed onnxruntime" in page.text
    outcomes = re.findall(r"now wrong|wrong both times|now right", page.text)
    assert outcomes == sorted(outcomes, key=["now wrong", "wrong both times", "now right"].index)


@pytest.mark.parametrize(
    ("moments", "height", "width", "size"),
    [
        (1, 224, 224, (128, 128)),
        (1, 100, 300, (128, 43)),
        (2, 224, 224, (256, 128)),
        (16, 240, 320, (512, 96)),
        (3, 20, 20, (60, 20)),
    ],
)
def test_pictures(moments: int, height: int, width: int, size: tuple[int, int]) -> None:
    clip = np.zeros((moments, height, width, 3), np.uint8)
    clip[0, ..., 0] = 255
    picture = picture_from_clip(clip)
    assert (picture.width, picture.height) == size
    with Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))) as image:
        assert image.format == "JPEG" and image.size == size
        red, green, _ = np.asarray(image)[size[1] // 2, 5]
    assert red > 240 and green < 15  # RGB, the first moment at the left


FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=3000",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
)
# The page forbids scripts: the frame around it looks inside.
FRAME = """<!DOCTYPE html><html style="color-scheme: light dark"><title>no answer</title>
<iframe style="width: %dpx; height: 900px; border: 0" src="gate.html"></iframe>
<script>addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument;
  page.querySelectorAll("img").forEach((image) => { image.loading = "eager"; });
  const names = page.defaultView.performance.getEntriesByType("resource").map((entry) => entry.name);
  document.title = JSON.stringify({
    width: page.documentElement.scrollWidth, text: page.defaultView.getComputedStyle(page.body).color,
    boxes: page.querySelectorAll(".scroll").length, tables: page.querySelectorAll(".scroll > table").length,
    requests: names.filter((name) => !name.startsWith("data:")),
    broken: [...page.images].filter((image) => image.complete && !image.naturalWidth).length });
});</script></html>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize(("width", "dark", "moments"), [(390, False, 4), (1280, True, 1)])
def test_the_page_in_chromium(width: int, dark: bool, moments: int, tmp_path: Path) -> None:
    contract = CONTRACT.model_copy(update={"time": TimeSpec(moments)}) if moments > 1 else CONTRACT
    report, frames = made(
        60, moments=moments, contract=contract, max_drop=10, name="a_long_name_without_a_space" * 6 + "{}.mp4"
    )
    (tmp_path / "gate.html").write_text(
        gate_page(report, contract, frames, "a_bundle_with_a_long_name" * 4), encoding="utf-8"
    )
    (tmp_path / "frame.html").write_text(FRAME % width, encoding="utf-8")
    profile = tmp_path / "profile"
    result = subprocess.run(
        [
            str(CHROMIUM),
            *FLAGS,
            "--allow-file-access-from-files",
            f"--user-data-dir={profile}",
            "--window-size=1400,1000",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "HOME": os.fspath(profile)},
    )
    title = re.search(r"<title>(.*?)</title>", result.stdout, re.DOTALL)
    assert title and title.group(1) != "no answer"
    found = json.loads(unescape(title.group(1)))
    assert found["width"] <= width
    assert found["boxes"] == found["tables"] > 5 and found["requests"] == [] and found["broken"] == 0
    assert (found["text"] == "rgb(230, 235, 241)") == dark
    assert "CONSOLE" not in result.stderr and "Uncaught" not in result.stderr
