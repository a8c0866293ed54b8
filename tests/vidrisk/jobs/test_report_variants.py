"""Tests of the choice of the variant to ship; the gate's answers are scripted, so only the choice is tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidrisk.export.gate.report import GateReport
from vidrisk.export.gate.text_page import text_gate_page
from vidrisk.export.gate.text_report import FieldFigures, TextHop
from vidrisk.export.text.gate_options import GraphVariant
from vidrisk.export.text.packing import INT4
from vidrisk.export.text.recipe_search import RecipeChoice
from vidrisk.export.text.report_bundle import ReportVariant
from vidrisk.export.trained import ExportOptions
from vidrisk.jobs import report_variants
from vidrisk.jobs.report_variants import NarrowVision, choose_variant
from vidrisk.runtimes.contract.errors import GateRefused

ANSWERS = 100
EXACT = ReportVariant(
    "fp32", {"vision": Path("vision.fp32.onnx")}, Path("text.fp32.onnx"), {"vision": "fp32", "text": "fp32"}
)
VISIONS = (NarrowVision(Path("v0"), [np.zeros(1)]), NarrowVision(Path("v2"), [np.ones(1)], ("a", "b")))  # type: ignore[list-item]
Said = float | str | None


def fields_of(agreement: float) -> FieldFigures:
    return FieldFigures(
        samples=ANSWERS,
        complete_before=1.0,
        complete_after=1.0,
        agreement={"level": 1.0, "defect": agreement},
        level="level",
        length_drift={},
        accuracy_before=0.8,
        accuracy_after=0.8,
        drop_points=0.0,
        interval_points=(0.0, 0.0),
        p_value=1.0,
        judged=ANSWERS,
        changed=0,
        examples=(),
        tokens_per_s=90.0,
    )


@dataclass
class Scripted:
    """A gate with scripted answers: the agreement of the fields by (text, vision), or None without fields.

    A string as answer names the hop that refuses.
    """

    says: dict[tuple[str, str], Said]
    other: Said = 0.5
    asked: list[tuple[str, str]] = field(default_factory=list)
    exact: int = 0

    def judge_exact(self) -> None:
        self.exact += 1

    def judge(self, variants: list[GraphVariant]) -> GateReport:
        assert self.exact == 1
        report = GateReport(1.0, ANSWERS)
        if not variants:
            return report
        (variant,) = variants
        vision = next((str(each.path) for each in VISIONS if each.visual is variant.visual), "fp32")
        self.asked.append((variant.graph.name.removeprefix("text.").removesuffix(".onnx"), vision))
        said = self.says.get(self.asked[-1], self.other)
        refused = isinstance(said, str)
        fields = fields_of(said) if isinstance(said, float) else None
        report.text_hops.append(
            TextHop(
                said if refused else "onnx fp32 → int8",
                "int8",
                "rounded",
                not refused,  # type: ignore[arg-type]
                "too far" if refused else "",
                False,
                ANSWERS,
                fields=fields,
            )
        )
        if refused:
            raise GateRefused("no", report=report)
        return report


Choose = Callable[..., tuple[list[tuple[str, str]], GateReport, list[ReportVariant]]]


@pytest.fixture
def choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Choose:
    monkeypatch.setattr(report_variants, "pack_text", lambda graph, out, recipe: out.write_bytes(b""))
    choice = RecipeChoice(INT4, "int4", None, ())

    def made(says: dict[tuple[str, str], Said], other: Said = 0.5, **options: Any) -> Any:
        gate = Scripted(says, other)
        report, variants = choose_variant(
            gate, EXACT, choice, iter(VISIONS), tmp_path, ExportOptions(int8=True, **options)
        )  # type: ignore[arg-type]
        return gate.asked, report, variants

    return made


INT8_TEXT = "int8-weight-only"


def test_the_first_that_writes_the_same_fields_is_taken(choose: Choose) -> None:
    asked, report, (variant,) = choose({("int4", "v0"): 0.95, ("int4", "v2"): 0.99})
    assert asked == [("int4", "v0"), ("int4", "v2")]
    assert variant.precision == {"vision": "mixed", "text": "int4"} and variant.stages == {"vision": Path("v2")}
    assert [(each.float_blocks, each.agreement, each.chosen) for each in report.text_variants] == [
        ((), 0.95, False),
        (("a", "b"), 0.99, True),
    ]
    assert "2 blocks of it in float32" in report.text_variants[1].what
    page = text_gate_page(report, "walls.bundle")
    assert "Variants offered" in page and "a, b" in page and "slightly too good" in page


def test_else_the_one_that_agrees_in_most_and_one_answer_is_no_difference(choose: Choose) -> None:
    asked, _, (variant,) = choose(
        {("int4", "v2"): 0.96, ("int4", "fp32"): 0.97, (INT8_TEXT, "v2"): 0.98, (INT8_TEXT, "fp32"): 0.975}
    )
    assert len(asked) == 6 and ("fp32", "v0") not in asked  # something packed was admitted
    assert variant.precision == {"vision": "mixed", "text": INT8_TEXT}


@pytest.mark.parametrize(("agreement", "count"), [(0.99, 1), (0.98, 6)])
def test_one_changed_answer_of_a_hundred_is_enough(choose: Choose, agreement: float, count: int) -> None:
    assert len(choose({("int4", "v0"): agreement})[0]) == count


def test_a_larger_drop_that_is_allowed_allows_as_many_changes(choose: Choose) -> None:
    assert len(choose({("int4", "v0"): 0.95}, max_drop=5)[0]) == 1
    assert len(choose({("int4", "v0"): 0.90}, allow_drop=True)[0]) == 1


def test_without_fields_the_first_is_taken(choose: Choose) -> None:
    asked, report, _ = choose({}, other=None)
    assert asked == [("int4", "v0")] and report.text_variants[0].agreement is None
    assert len(choose({}, other=float("nan"))[0]) == 1


def test_a_refused_half_is_not_offered_again(choose: Choose) -> None:
    asked, _, (variant,) = choose(
        {("int4", "v0"): "vision → int8", ("int4", "v2"): "text → int8", (INT8_TEXT, "v2"): 1.0}
    )
    assert asked == [("int4", "v0"), ("int4", "v2"), (INT8_TEXT, "v2")] and variant.precision["text"] == INT8_TEXT


def test_vision_alone_where_no_packed_text_is_admitted(choose: Choose) -> None:
    refused = dict.fromkeys(
        [(text, vision) for text in ("int4", INT8_TEXT) for vision in ("v0", "v2", "fp32")], "onnx fp32 → int8"
    )
    asked, report, (variant,) = choose({**refused, ("text.fp32", "v0"): 1.0, ("fp32", "v0"): 1.0})
    assert len(asked) == 7 and variant.precision == {"vision": "int8", "text": "fp32"}
    assert [each.reason for each in report.text_variants] == ["too far"] * 6 + [""]


def test_where_nothing_is_admitted(choose: Choose) -> None:
    asked, report, variants = choose({}, other="onnx fp32 → int8")
    assert (
        variants == []
        and len(asked) == 8
        and not report.verdicts[-1].shipped
        and "too far" in report.verdicts[-1].reason
    )
    with pytest.raises(GateRefused, match="refused every variant with fewer bits"):
        choose({}, other="onnx fp32 → int8", only="int8")


def test_strict_loses_nothing_that_was_admitted(choose: Choose) -> None:
    _, _, (variant,) = choose({("int4", "v0"): 0.9}, other="onnx fp32 → int8", strict=True)
    assert variant.stages == {"vision": Path("v0")}
    with pytest.raises(GateRefused):
        choose({}, other="onnx fp32 → int8", strict=True)


def test_no_further_one_is_looked_for_after_the_time(choose: Choose) -> None:
    assert len(choose({}, search_s=0)[0]) == 1


def test_visions_are_made_when_they_are_asked_for(tmp_path: Path, choose: Choose) -> None:
    made: list[Path] = []

    def visions() -> Iterator[NarrowVision]:
        for each in VISIONS:
            made.append(each.path)
            yield each

    gate = Scripted({("int4", "v0"): 1.0})
    choose_variant(gate, EXACT, RecipeChoice(INT4, "int4", None, ()), visions(), tmp_path, ExportOptions(int8=True))  # type: ignore[arg-type]
    assert made == [Path("v0")]
