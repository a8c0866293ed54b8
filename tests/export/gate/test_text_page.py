"""Tests of the page of a language model's gate: what it reports of a refusal, and that it escapes foreign text."""

from __future__ import annotations

import math

import pytest

from vidrisk.export.gate.report import GateReport, Verdict
from vidrisk.export.gate.text_page import text_gate_page
from vidrisk.export.gate.text_report import ChangedAnswer, FieldFigures, RecipeTrial, TextHop, TokenFigures
from vidrisk.runtimes.html import csp_digest

NAME = "<script>alert(1)</script>\u202e.jpg"
TOKENS = TokenFigures(4, 96, math.inf, 0.5, 0.1, 0.25, 0.75, 2.0, 2.2)


def change(index: int, truth: str, before: str, after: str) -> ChangedAnswer:
    return ChangedAnswer(
        index, f"{index} {NAME}", ("level",), {"level": truth}, {"level": before}, {"level": after} if after else {}
    )


def report(examples: tuple[ChangedAnswer, ...], changed: int, *, passed: bool) -> GateReport:
    fields = FieldFigures(
        4,
        1.0,
        0.75,
        {"level": 0.5},
        "level",
        {"advice": -0.25},
        0.75,
        0.5,
        25.0,
        (-5.0, 55.0),
        1.0,
        4,
        changed,
        examples,
        33.0,
    )
    made = GateReport(1.0, 4)
    made.text_hops = [
        TextHop(
            "onnx fp32 → int8", "int8", "rounded", passed, "the level <b>falls</b>", passed, 4, TOKENS, None, fields
        )
    ]
    made.text_recipes = [RecipeTrial("int4 in groups of 32", 2_000_000, TOKENS, "too far")]
    made.verdicts = [Verdict("int8", passed, "the level <b>falls</b>")]
    return made


def test_a_refusal_says_why_and_shows_what_became_wrong_first() -> None:
    examples = (change(1, "low", "high", "low"), change(2, "low", "low", "high"), change(3, "low", "low", ""))
    page = text_gate_page(report(examples, 3, passed=False), "reports.bundle")
    assert "Refused:</span> nothing was shipped" in page and "the level &lt;b&gt;falls&lt;/b&gt;" in page
    assert [page.index(f'aria-label="{number} ') for number in (3, 2, 1)] == sorted(
        page.index(f'aria-label="{number} ') for number in (3, 2, 1)
    )
    assert "no whole answer" in page and "∞" in page and "−25.0 %" in page and "are not shown" not in page


def test_names_of_strangers_stay_text_and_the_page_runs_nothing() -> None:
    page = text_gate_page(report((change(1, "low", "low", "high"),), 100, passed=True), NAME)
    assert "<script" not in page and "&lt;script&gt;" in page and "\u202e" not in page and "\\u202e" in page
    assert "default-src 'none'" in page and csp_digest(page.partition("<style>")[2].partition("</style>")[0]) in page
    assert "40 more are not shown" in page and "overruled on request" in page


@pytest.mark.parametrize("hops", [[], [TextHop("template → prompts", "fp32", "prompts", True, "", False, 3)]])
def test_a_report_that_has_just_begun_is_a_page(hops: list[TextHop]) -> None:
    made = GateReport(1.0, 3)
    made.text_hops = hops
    assert "<main>" in text_gate_page(made, "reports.bundle")
