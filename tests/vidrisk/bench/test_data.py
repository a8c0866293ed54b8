from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import pytest
from colour import ACTION, RISK, colour_classifier
from hypothesis import given
from hypothesis import strategies as st
from small_media import write_photo, write_video

from vidrisk.bench.alone import Candidate
from vidrisk.bench.data import accuracies, data_from_path, end_to_end, evenly_spread
from vidrisk.runtimes.contract.errors import DataError

A, B = Candidate("onnxruntime", "fp32"), Candidate("openvino", "int8")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Return a folder with two clips per colour, all of them correctly labelled."""
    for colour in ("red", "green", "blue"):
        (tmp_path / "clips" / colour).mkdir(parents=True)
        for number in range(2):
            write_video(tmp_path / "clips" / colour / f"{number}.mp4", (colour,))
    return tmp_path / "clips"


@given(st.integers(1, 500), st.integers(1, 500))
def test_spread_is_even(count: int, limit: int) -> None:
    chosen = evenly_spread(count, limit)
    assert len(chosen) == min(count, limit) and chosen[0] == 0 and chosen[-1] < count
    steps = {after - before for before, after in pairwise(chosen)}
    assert not steps or 0 < min(steps) <= max(steps) <= min(steps) + 1


def test_labelled_data_is_spread_over_its_classes(clips: Path) -> None:
    data = data_from_path(clips, ACTION, limit=3)
    assert data.found == 6 and len(data.inputs.paths) == 3 and data.unlabelled == ""
    assert data.table is not None and [str(sample.path) for sample in data.table.samples] == list(data.inputs.paths)
    assert {sample.labels["action"] for sample in data.table.samples} == {"red", "green", "blue"}
    assert (data.held.clips, data.held.frames, data.held.unreadable) == (3, 12, 0)


def test_data_without_labels_or_with_others(clips: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    write_photo(loose / "a.png")
    (loose / "broken.png").write_bytes(b"")
    data = data_from_path(loose, RISK, limit=10)
    assert data.table is None and data.unlabelled == "loose has no sub-folder per class"
    assert (data.held.clips, data.held.frames, data.held.unreadable) == (1, 1, 1)
    (clips / "green").rename(clips / "purple")
    others = data_from_path(clips, ACTION, limit=10)
    assert others.table is None and "'purple'" in others.unlabelled and others.held.clips == 6


def test_a_manifest(clips: Path) -> None:
    manifest = clips / "m.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "label"], ["red/0.mp4", "red"], ["blue/1.mp4", "blue"]])
    data = data_from_path(manifest, ACTION, limit=10)
    assert data.table is not None and data.inputs.paths == (str(clips / "red" / "0.mp4"), str(clips / "blue" / "1.mp4"))
    manifest.write_text("path,label\nnone.mp4,red\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"m\.csv"):
        data_from_path(manifest, ACTION, limit=10)


def test_nothing_there_or_nothing_that_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clip or photo found"):
        data_from_path(tmp_path / "none", ACTION, limit=1)
    (tmp_path / "zero.mp4").touch()
    with pytest.raises(DataError, match="none of 1 inputs can be read"):
        data_from_path(tmp_path, ACTION, limit=1)


def test_the_whole_way_is_held_against_its_stages(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidrisk.bench.data.BUDGET_S", 0.0)
    told: list[str] = []
    data = data_from_path(clips, ACTION, limit=6)
    with colour_classifier(ACTION) as quick, colour_classifier(ACTION, seconds_per_batch=0.5) as slow:
        rates = {A: 1e6, B: 48.0}
        decode, found = end_to_end({A: quick, B: slow}, data, rates, lambda what, done, total: told.append(what))
        scores = accuracies({A: quick}, data.table, lambda *progress: None) if data.table else {}
    assert decode.rounds == 1 and decode.held.clips == 6 and set(told) == {"end to end, round 1"}
    for candidate, way in found.items():
        encode = rates[candidate] * 6 / 24
        assert way.encode_clips_per_s == pytest.approx(encode, abs=0.01)
        assert way.of_slower_stage == pytest.approx(way.clips_per_s / min(decode.clips_per_s, encode), rel=0.01)
        assert way.of_both_stages == pytest.approx(way.clips_per_s * (1 / decode.clips_per_s + 1 / encode), rel=0.01)
    assert found[B].clips_per_s < 6 / 0.5
    assert scores == {
        A: {
            "action": {
                "n": 6,
                "top1": 1.0,
                "macro_f1": 1.0,
                "mean_average_precision": 1.0,
                "ece": scores[A]["action"]["ece"],
            }
        }
    }
