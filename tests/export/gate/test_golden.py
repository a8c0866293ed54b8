"""Tests of golden samples: their choice, the size of their file, and the expected answers of each variant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vidrisk.export.export import export_bundle
from vidrisk.export.gate import golden as module
from vidrisk.export.gate.golden import rank_samples
from vidrisk.export.gate.outputs import Validation
from vidrisk.export.trained import ExportOptions, Trained
from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.golden import GOLDEN, Golden, read_golden, webp_from_frame

Make = Callable[..., Any]


@st.composite
def judged(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    samples = draw(st.integers(1, 40))
    classes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=3))
    logits = {
        f"t{n}": draw(hnp.arrays(np.float32, (samples, count), elements=st.floats(-9, 9, width=32)))
        for n, count in enumerate(classes)
    }
    truth = {
        f"t{n}": draw(hnp.arrays(np.int64, samples, elements=st.integers(0, count - 1)))
        for n, count in enumerate(classes)
    }
    return logits, truth


def targets_of(logits: dict[str, np.ndarray]) -> list[Target]:
    return [Target(name=name, labels=tuple(map(str, range(values.shape[1])))) for name, values in logits.items()]


@given(judged())
def test_every_sample_has_a_place_and_every_class_comes_first(
    case: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
) -> None:
    logits, truth = case
    order = rank_samples(targets_of(logits), logits, truth)
    assert sorted(order) == list(range(len(order))) and order == rank_samples(targets_of(logits), logits, truth)
    groups = [(target, label) for target, labels in truth.items() for label in np.unique(labels)]
    first = order[: len(groups)]
    assert all(any(truth[target][sample] == label for sample in first) for target, label in groups)


def test_the_sure_and_the_unsure_take_turns() -> None:
    margins = np.array([5, 1, 9, 3, 7], np.float32)
    logits = np.stack([margins, np.zeros(5, np.float32)], axis=1)
    assert rank_samples(targets_of({"a": logits}), {"a": logits}, {"a": np.zeros(5, np.int64)}) == [2, 1, 4, 3, 0]


def test_overconfident_logits_still_have_a_nearest() -> None:
    logits = np.array([[400, 0], [90, 0], [200, 0]], np.float32)  # all probabilities are 1
    assert rank_samples(targets_of({"a": logits}), {"a": logits}, {"a": np.zeros(3, np.int64)})[:2] == [0, 1]


def test_of_several_labels_every_label_and_none_of_them_come_first() -> None:
    target = Target(name="a", labels=("x", "y"), multi_label=True)
    logits = np.array([[3, -3], [5, -5], [3, 1], [-2, 2], [-4, -1]], np.float32)
    truth = np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    order = rank_samples([target], {"a": logits}, {"a": truth})
    assert sorted(order) == [0, 1, 2, 3, 4] and order[:3] == [1, 3, 4]


@pytest.fixture
def small(make_trained: Make, small_encoder: Make) -> tuple[Trained, Validation]:
    trained, validation = make_trained(small_encoder(), 32, samples=60)
    return trained, validation


def exported(small: tuple[Trained, Validation], out: Path, **options: Any) -> tuple[Bundle, Golden | None]:
    bundle, _ = export_bundle(small[0], out, small[1], None, ExportOptions(**options))
    return bundle, read_golden(bundle)


def test_an_export_seals_samples_with_what_every_variant_answers(small: Any, tmp_path: Path) -> None:
    bundle, golden = exported(small, tmp_path / "a")
    assert golden is not None and bundle.manifest.golden is True
    told, expected = golden.told, golden.told.variants["fp32"]
    assert told.samples == 32 and told.runtime == "onnxruntime" and set(told.variants) == set(bundle.manifest.variants)
    assert expected.files == {name: sha256_of(bundle.root / name) for name in ("encoder.fp32.onnx", "head.fp32.onnx")}
    assert expected.temperature == bundle.manifest.variants["fp32"].temperature and set(expected.spread) == {"openvino"}
    known = {
        frames.tobytes(): int(label) for frames, label in zip(small[1].frames, small[1].truth["action"], strict=True)
    }
    labels = [
        known[frames.tobytes()] for frames in golden.frames
    ]  # every picture is one of the validation samples, to the bit
    assert set(labels) == set(known.values())
    assert [int(np.argmax(row)) for row in expected.logits["action"]] == labels


def test_the_same_export_seals_the_same_file(small: Any, tmp_path: Path) -> None:
    first, second = (exported(small, tmp_path / name)[0].root / GOLDEN for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_pictures_are_only_sealed_where_they_may_be(small: Any, tmp_path: Path) -> None:
    bundle, golden = exported(small, tmp_path / "a", golden=False)
    assert golden is None and bundle.manifest.golden is False and not (bundle.root / GOLDEN).exists()


def test_fewer_samples_rather_than_a_large_file_and_every_class_first(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sum(len(webp_from_frame(frame)) for frame in small[1].frames[0])
    monkeypatch.setattr(module, "CLIPS_BYTES", one * 6)
    bundle, golden = exported(small, tmp_path / "a")
    assert golden is not None and 4 <= golden.told.samples <= 8
    assert (bundle.root / GOLDEN).stat().st_size < one * 6 + 8000
    of_class = {int(np.argmax(row)) for row in golden.told.variants["fp32"].logits["action"]}
    assert of_class == set(small[1].truth["action"].tolist())
    monkeypatch.setattr(module, "CLIPS_BYTES", 1)
    assert (found := exported(small, tmp_path / "b")[1]) is not None and found.told.samples == 1


def test_a_sample_that_is_too_large_is_no_reason_to_refuse(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "most_samples", lambda contract: 0)
    bundle, golden = exported(small, tmp_path / "a")
    assert golden is None and bundle.manifest.golden is False and "no golden samples: a single one has" in caplog.text
