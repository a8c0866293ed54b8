from __future__ import annotations

import json

import numpy as np
import pytest
from colour import ACTION, RISK
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.infer.predictions import Prediction, prediction_from_json, prediction_from_probabilities
from vidrisk.runtimes.errors import DataError

# Any text a file name can decode to: valid Unicode, and surrogates that stand for undecodable bytes.
paths = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(["\udc80", "\udcff", '"', "\\", "\n"]))
texts = st.text(st.characters(exclude_categories=["Cs"]))
scores = st.floats(0, 1).map(lambda value: round(value, 6))
moments = st.none() | st.floats(0, 1e5).map(lambda value: round(value, 6))
predictions = st.builds(
    Prediction, path=paths, start_s=moments, end_s=moments, label=texts, score=scores, uncertain=st.booleans(),
    severity=st.none() | st.floats(0, 100).map(lambda value: round(value, 6)), level=st.none() | texts,
    defect=st.none() | texts, targets=st.dictionaries(texts, st.dictionaries(texts, scores)), risk=texts, advice=texts,
    description=texts, state=st.sampled_from(["ok", "partial"]))


@given(predictions)
def test_a_line_comes_back_as_it_was(prediction: Prediction) -> None:
    line = prediction.to_json()
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    line.decode("utf-8")
    assert prediction_from_json(line) == prediction


def test_floats_have_six_digits_and_keys_an_order() -> None:
    line = prediction_from_probabilities(ACTION, "/x.mp4", (0.0, 1 / 3), {"action": np.array([0.1, 0.2, 0.7], np.float32)},
                                         threshold=0.8).to_json()
    assert line == (b'{"path": "/x.mp4", "start_s": 0.0, "end_s": 0.333333, "label": "blue", "score": 0.7, '
                    b'"uncertain": true, "severity": null, "level": null, "defect": null, '
                    b'"targets": {"action": {"red": 0.1, "green": 0.2, "blue": 0.7}}, '
                    b'"risk": "", "advice": "", "description": "", "state": "ok"}\n')


def test_risk_has_severity_level_and_guidance() -> None:
    prediction = prediction_from_probabilities(
        RISK, "/墙.jpg", (None, None),
        {"defect": np.array([0.8, 0.1, 0.1], np.float32), "level": np.array([0.1, 0.3, 0.6], np.float32)})
    assert (prediction.label, prediction.defect, prediction.level) == ("red", "red", "严重")
    assert prediction.severity == pytest.approx(75.0)
    assert prediction.advice == "立即停工。" and not prediction.uncertain
    assert "墙.jpg".encode() in prediction.to_json() and "立即停工".encode() in prediction.to_json()


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"path": 1', json.dumps({"path": "x", "label": "y"})])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(DataError, match=r"predictions\.jsonl"):
        prediction_from_json(line)
