"""Tests of messages about models, which depend on the models' stages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import pytest
from colour import ACTION

from vidrisk.inference.model import Classifier
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import Stage, frame_encoder_stages, window_encoder_stages
from vidrisk.runtimes.runner import Array, Arrays, FakeRunner

PAIRS = frame_encoder_stages(ACTION, 3, group=2)
STATE = TensorSpec("state", "float32", ("batch", 3))
VISION, TEXT_STAGE = PAIRS[0], Stage(name="text", per="window", inputs=PAIRS[1].inputs, outputs=(STATE,))
WITH_TEXT = (VISION, TEXT_STAGE, Stage(name="head", per="window", inputs=(STATE,), outputs=ACTION.answers()))
WINDOWS = window_encoder_stages(ACTION, 3)


def classifier_of(stages: Sequence[Stage]) -> Classifier:
    def refuse(feed: Mapping[str, Array]) -> Arrays:
        raise AssertionError("nothing is asked")

    return Classifier(
        stages,
        [FakeRunner(stage.inputs, stage.outputs, refuse) for stage in stages],
        ACTION,
        variant="fp32",
        provenance={"model": "m.bundle", "digest": "3" * 64},
    )


@pytest.mark.parametrize(
    ("stages", "fix"),
    [
        (PAIRS, "train with rgb_diff=false, or leave save_features out"),
        (WITH_TEXT, "leave save_features out"),
        (WINDOWS, "leave save_features out"),
    ],
    ids=["pairs", "text", "windows"],
)
def test_models_without_a_feature_per_frame_are_told_what_helps(stages: Sequence[Stage], fix: str) -> None:
    with classifier_of(stages) as classifier:
        with pytest.raises(SettingsError) as refused:
            InferSettings(save_features=True).for_reading(classifier)
        assert refused.value.what == "m.bundle has no feature per frame" and refused.value.fix == fix
        with pytest.raises(SettingsError) as refused:
            classifier.require_feature()
        assert refused.value.fix == ("train with rgb_diff=false" if stages is PAIRS else None)


def test_a_feature_per_frame_can_be_kept() -> None:
    with classifier_of(frame_encoder_stages(ACTION, 3)) as classifier:
        assert classifier.require_feature().name == "features"


@pytest.mark.parametrize(
    ("stages", "warns"), [(PAIRS, True), (WITH_TEXT, False), (WINDOWS, False)], ids=["pairs", "text", "windows"]
)
def test_keyframes_are_warned_of_where_frames_are_compared(
    stages: Sequence[Stage], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with classifier_of(stages) as classifier:
        InferSettings(frames="keyframes").for_reading(classifier)
    assert ("compares consecutive frames, and with keyframes" in caplog.text) == warns
