from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from colour import ACTION, RISK
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.inference.predictions import Prediction, prediction_from_json, prediction_from_probabilities
from vidrisk.runtimes import Contract, PixelSpec, Target
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.uncertainty import Uncertainty

# Any text a file name can decode to: valid Unicode, and surrogates that stand for undecodable bytes.
paths = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(["\udc80", "\udcff", '"', "\\", "\n"]))
texts = st.text(st.characters(exclude_categories=["Cs"]))
scores = st.floats(0, 1).map(lambda value: round(value, 6))
moments = st.none() | st.floats(0, 1e5).map(lambda value: round(value, 6))
predictions = st.builds(
    Prediction,
    path=paths,
    start_s=moments,
    end_s=moments,
    label=texts,
    score=scores,
    uncertain=st.none() | st.booleans(),
    severity=st.none() | st.floats(0, 100).map(lambda value: round(value, 6)),
    level=st.none() | texts,
    defect=st.none() | texts,
    targets=st.dictionaries(texts, st.dictionaries(texts, scores)),
    risk=texts,
    advice=texts,
    description=texts,
    state=st.sampled_from(["ok", "partial"]),
    candidates=st.dictionaries(texts, st.lists(texts)),
).map(lambda one: one if one.candidates else replace(one, uncertain=None))


@given(predictions)
def test_a_line_comes_back_as_it_was(prediction: Prediction) -> None:
    line = prediction.to_json()
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    line.decode("utf-8")
    assert prediction_from_json(line) == prediction


def test_floats_have_six_digits_and_keys_an_order() -> None:
    line = prediction_from_probabilities(
        ACTION,
        "/x.mp4",
        (0.0, 1 / 3),
        {"action": np.array([0.1, 0.2, 0.7], np.float32)},
        Uncertainty(0.9, {"action": (0.8, 0.15, 0.1)}),
    ).to_json()
    assert line == (
        b'{"path": "/x.mp4", "start_s": 0.0, "end_s": 0.333333, "label": "blue", "score": 0.7, '
        b'"uncertain": true, "severity": null, "level": null, "defect": null, '
        b'"targets": {"action": {"red": 0.1, "green": 0.2, "blue": 0.7}}, '
        b'"risk": "", "advice": "", "description": "", "state": "ok", '
        b'"candidates": {"action": ["blue", "green"]}, "id": "", "reason": "", "report": null, "labels": {}, '
        b'"version": "1.4"}\n'
    )


def test_risk_has_severity_level_and_guidance() -> None:
    prediction = prediction_from_probabilities(
        RISK,
        "/墙.jpg",
        (None, None),
        {"defect": np.array([0.8, 0.1, 0.1], np.float32), "level": np.array([0.1, 0.3, 0.6], np.float32)},
    )
    assert (prediction.label, prediction.defect, prediction.level) == ("red", "red", "严重")
    assert prediction.severity == pytest.approx(75.0)
    assert prediction.advice == "立即停工。" and prediction.uncertain is None and prediction.candidates == {}
    assert "墙.jpg".encode() in prediction.to_json() and "立即停工".encode() in prediction.to_json()


@pytest.mark.parametrize(
    ("defect", "level", "uncertain", "candidates"),
    [
        ((0.8, 0.1, 0.1), (0.1, 0.1, 0.8), False, {"defect": ["red"], "level": ["严重"]}),
        ((0.8, 0.1, 0.1), (0.1, 0.4, 0.5), True, {"defect": ["red"], "level": ["严重", "中等"]}),  # any target
        ((0.4, 0.2, 0.4), (0.1, 0.1, 0.8), True, {"defect": ["red", "blue"], "level": ["严重"]}),
        ((0.28, 0.36, 0.36), (0.1, 0.1, 0.8), True, {"defect": ["green", "blue"], "level": ["严重"]}),
        ((0.8, 0.1, 0.1), (0.28, 0.29, 0.43), False, {"defect": ["red"], "level": ["严重"]}),
    ],
)
def test_a_prediction_is_uncertain_where_any_target_is(
    defect: tuple[float, ...], level: tuple[float, ...], uncertain: bool, candidates: dict[str, list[str]]
) -> None:
    knows = Uncertainty(0.9, {"defect": (0.3, 0.3, 0.3), "level": (0.3, 0.3, 0.3)})
    scores = {"defect": np.array(defect, np.float32), "level": np.array(level, np.float32)}
    prediction = prediction_from_probabilities(RISK, "/x.jpg", (None, None), scores, knows)
    assert (prediction.uncertain, prediction.candidates) == (uncertain, candidates)
    assert prediction_from_json(prediction.to_json()).candidates == candidates


def test_a_line_of_before_has_no_candidates_and_does_not_claim_to_be_certain() -> None:
    line = (
        b'{"path": "/x.mp4", "start_s": 0.0, "end_s": 0.5, "label": "blue", "score": 0.7, "uncertain": false, '
        b'"severity": null, "level": null, "defect": null, "targets": {"action": {"red": 0.3, "blue": 0.7}}, '
        b'"risk": "", "advice": "", "description": "", "state": "partial"}\n'
    )
    prediction = prediction_from_json(line)
    assert (prediction.label, prediction.uncertain, prediction.candidates, prediction.state) == (
        "blue",
        None,
        {},
        "partial",
    )
    for cut, by in ((b'"label": "blue", ', b""), (b'"state"', b'"status"'), (b"}\n", b', "new": 1}\n')):
        with pytest.raises(DataError, match=r"predictions\.jsonl does not have the keys of this version"):
            prediction_from_json(line.replace(cut, by))


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"path": 1', json.dumps({"path": "x", "label": "y"})])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(DataError, match=r"predictions\.jsonl"):
        prediction_from_json(line)


SEVERAL = Contract(
    task="action+risk",
    pixel=PixelSpec(2, 2),
    targets=(
        Target(name="defect", labels=("none", "crack", "rust"), multi_label=True),
        Target(name="level", labels=("low", "high")),
    ),
)
LEAST = {"defect": {"none": 0.9, "crack": 0.5, "rust": 0.2}}


def several(*scores: float, decision: dict[str, dict[str, float]] | None = LEAST) -> Prediction:
    return prediction_from_probabilities(
        SEVERAL,
        "/x.png",
        (None, None),
        {"defect": np.array(scores, np.float32), "level": np.array([0.2, 0.8], np.float32)},
        decision=decision,
    )


def test_every_label_that_reaches_its_threshold_is_named_the_surest_first() -> None:
    prediction = several(0.4, 0.6, 0.7)
    assert prediction.labels == {"defect": ["rust", "crack"]}
    assert (prediction.label, prediction.defect, prediction.level) == ("rust", "rust", "high")
    assert prediction.score == pytest.approx(0.7) and several(0.4, 0.4, 0.2).labels == {"defect": ["rust"]}
    assert prediction_from_json(prediction.to_json()).labels == {"defect": ["rust", "crack"]}


def test_where_no_label_holds_the_score_is_how_surely_none_does() -> None:
    """If no label reaches its threshold, the score is the certainty that no label applies.

    A label with the name ``none`` is a different case.
    """
    nothing = several(0.1, 0.45, 0.1)
    assert (nothing.label, nothing.labels) == ("none", {"defect": []}) and nothing.score == pytest.approx(0.55)
    named = several(0.95, 0.1, 0.1)
    assert (named.label, named.labels) == ("none", {"defect": ["none"]}) and named.score == pytest.approx(0.95)


def test_without_thresholds_the_most_probable_label_is_the_answer() -> None:
    prediction = several(0.1, 0.45, 0.1, decision=None)
    assert (prediction.label, prediction.labels) == ("crack", {})


def test_lines_of_before_have_no_labels() -> None:
    line = json.loads(several(0.1, 0.9, 0.1).to_json())
    del line["labels"]
    assert prediction_from_json(json.dumps(line)).labels == {}
