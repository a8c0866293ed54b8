"""Tests of the figures for fields of answers: parsed or not, equal or not, right or not, and confidence of a level."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from gate_cases import FORM, LEVELS, SCHEMA

from vidrisk.export.text.field_figures import Answers, at_places, compare_answers, write_answers
from vidrisk.export.text.level_confidence import fit_level_thresholds, fit_temperatures
from vidrisk.export.text.limits import FieldLimits
from vidrisk.export.text.samples import GateSample, ReportForm, spread
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.text.engine import FakeTextEngine
from vidrisk.runtimes.text.requests import Answer, Request


def sample(number: int, level: str = "low") -> GateSample:
    return GateSample(f"photo {number}", (np.array([number]),), np.array([1]), {"level": level, "part": "wall"})


def fields(level: str = "low", part: str = "wall", advice: str = "fix") -> dict[str, str]:
    return {"level": level, "part": part, "advice": advice}


def answers(*of_samples: dict[str, str] | None) -> Answers:
    return Answers(of_samples, np.zeros((len(of_samples), 3), np.float32), 10.0)


def test_answers_are_asked_for_by_the_schema_and_read_back() -> None:
    def answered(request: Request) -> Answer:
        number = int(request.prompt.parts[0][0])
        text = json.dumps(fields("high"), separators=(",", ":"))
        compared = {"low": -3.0, "mid": -2.0, "high": -0.5} if number else None
        return Answer(
            text if number != 2 else text[:20], "schema" if number != 2 else "length", (1,) * 5, compared=compared
        )

    asked: list[Request] = []
    engine = FakeTextEngine(lambda request: asked.append(request) or answered(request))
    found = write_answers(engine, [sample(number) for number in range(3)], FORM, 40)
    assert found.fields == (fields("high"), fields("high"), None)
    assert np.isnan(found.scores[0]).all() and found.scores[1].tolist() == [-3, -2, -0.5] and found.tokens_per_s > 0
    assert asked[0].limit == 40 and asked[0].schema == SCHEMA and asked[0].temperature == 0
    assert asked[0].comparison == FORM.comparison and FORM.comparison.until == '","'


def test_changes_of_fields_are_counted_and_shown() -> None:
    before = answers(fields("low"), fields("low"), fields("high"), None, fields("mid"))
    after = answers(fields("low", advice="fix it"), fields("mid"), fields("high", part="roof"), fields("low"), None)
    samples = [sample(number, level) for number, level in enumerate(("low", "low", "high", "low", ""))]
    found = compare_answers(before, after, samples, FORM)
    assert (found.complete_before, found.complete_after) == (0.8, 0.8) and found.agreement == {
        "level": 0.5,
        "part": 0.5,
    }
    assert (found.judged, found.accuracy_before, found.accuracy_after, found.drop_points) == (4, 0.75, 0.75, 0)
    assert found.length_drift == {"advice": pytest.approx(1 / 3)} and found.changed == 4
    assert [change.fields for change in found.examples] == [("level",), ("part",), (), ()]
    assert found.examples[-1].after == {} and found.examples[-2].before == {}
    assert [change.index for change in at_places(found, [0, 20, 40, 60, 80]).examples] == [20, 40, 60, 80]


def test_nothing_to_count_is_no_figure() -> None:
    found = compare_answers(answers(None), answers(fields()), [replace(sample(0), truth={})], FORM)
    assert found.judged == 0 and all(map(math.isnan, (found.drop_points, found.accuracy_before, found.level_agreement)))
    assert FieldLimits().reason(found, 1.0) == ""


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ([fields()] * 40, ""),
        ([fields()] * 37 + [fields(part="roof")] * 3, ""),
        ([fields()] * 39 + [None], "97.5 % of the answers are complete, before it was 100.0 %"),
        ([fields()] * 35 + [fields(part="roof")] * 5, "part stays in 87.5 % of the answers, at least 90 % have to"),
        ([fields(advice="fix, and fix")] * 40, r"length of advice changes by \+300 %, at most 50 %"),
        ([fields()] * 39 + [fields("mid")], "accuracy of level falls by 2.50 points, at most 1 is"),
    ],
)
def test_limits_of_fields(after: list[dict[str, str] | None], said: str) -> None:
    found = compare_answers(answers(*[fields()] * 40), answers(*after), [sample(number) for number in range(40)], FORM)
    reason = FieldLimits().reason(found, 1.0)
    assert (reason == "") == (said == "")
    if said:
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(reason)


def test_a_level_has_a_temperature_and_abstains_below_its_threshold() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 400)
    samples = [sample(number, LEVELS[level]) for number, level in enumerate(truth)] + [sample(400, "")]
    margins = np.concatenate([2.0 * np.eye(3)[truth] + rng.gumbel(size=(400, 3)), [[np.nan] * 3]]).astype(np.float32)
    exact = Answers((None,) * 401, 4 * margins, 0.0)  # four times too sure
    flat = Answers((None,) * 401, margins, 0.0)
    temperature = fit_temperatures({"fp32": exact, "int8": flat}, samples, FORM)
    assert temperature["fp32"]["level"] == pytest.approx(4 * temperature["int8"]["level"], rel=1e-3)
    assert temperature["fp32"]["level"] > 2
    coverage = fit_level_thresholds({"fp32": exact, "int8": flat}, temperature, samples, FORM, 0.9)
    fits = [coverage[name]["level"] for name in ("fp32", "int8")]
    assert fits[0].samples == 400 and fits[0].groups[0].threshold == pytest.approx(
        fits[1].groups[0].threshold, abs=1e-3
    )
    assert (
        fits[0].accuracy is not None
        and fits[0].accuracy_of_kept is not None
        and fits[0].accuracy_of_kept > fits[0].accuracy
    )


def test_too_few_levels_have_no_threshold_and_say_so() -> None:
    few = Answers((None,) * 3, np.eye(3, dtype=np.float32), 0.0)
    samples = [sample(number, level) for number, level in enumerate(LEVELS)]
    temperature = fit_temperatures({"fp32": few}, samples, FORM)
    assert temperature == {"fp32": {"level": 1.0}}
    assert (
        "needs at least 10"
        in fit_level_thresholds({"fp32": few}, temperature, samples, FORM, 0.9)["fp32"]["level"].reason
    )


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", '{"level":"low"}', '{"part":"wall","level":"low","advice":""}', "[" * 100_000]
)
def test_other_texts_are_no_answer(text: str) -> None:
    assert FORM.fields_from_text(text) is None


def test_the_level_is_a_choice_and_may_come_last() -> None:
    only = {**SCHEMA, "properties": {"level": {"enum": ["", "a", "b"]}}, "required": ["level"]}
    assert ReportForm(only, "level").comparison.until == '"}' and ReportForm(only, "level").levels == ("a", "b")
    with pytest.raises(SettingsError, match=r"level 'grade' of a report; allowed: .*level, part"):
        ReportForm(SCHEMA, "grade")
    assert spread([sample(number) for number in range(10)], 4) == [0, 3, 6, 9] and spread([sample(0)], 4) == [0]
