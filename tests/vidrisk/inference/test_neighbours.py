"""Tests of the search for the nearest labelled cases.

The search is exact and returns each case once. It accepts only features of the same encoder, and its file
needs no pickle.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.inference.neighbours import (
    CaseIndex,
    LabelledPhoto,
    index_from_features,
    normalize_rows,
    read_index,
    write_index,
)
from vidrisk.runtimes.contract.errors import DataError, SettingsError, SpecError, VidriskError


def photo(case: str, name: str = "") -> LabelledPhoto:
    return LabelledPhoto(
        case, name or f"{case}.jpg", f"/photos/{name or case}.jpg", {"level": "严重", "advice": f"修 {case}"}
    )


PLANE = np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])


@pytest.fixture
def index() -> CaseIndex:
    return index_from_features(PLANE, [photo("a"), photo("b"), photo("c"), photo("a", "a2")], "digest")


def test_the_nearest_by_hand(index: CaseIndex) -> None:
    (found,) = index.nearest(np.array([[2.0, 1.0]]), "digest", 3)
    assert [each.case for each in found] == ["b", "a", "c"]
    assert [each.similarity for each in found] == pytest.approx(
        [3 / np.sqrt(10), 2 / np.sqrt(5), 1 / np.sqrt(5)], abs=1e-6
    )
    assert found[0].fields["advice"] == "修 b" and found[0].to_dict()["path"] == "/photos/b.jpg"
    assert [each.photo for each in index.nearest(np.array([[-1.0, 0.1]]), "digest", 1)[0]] == ["a2"]


def test_its_own_case_is_left_out(index: CaseIndex) -> None:
    found = index.nearest(np.array([[1.0, 0.0], [1.0, 0.0]]), "digest", 1, ("a", ""))
    assert [each[0].case for each in found] == ["b", "a"]
    assert len(index.nearest(PLANE[:1], "digest", 10, ("a",))[0]) == 2


def test_features_without_a_direction_are_like_nothing(index: CaseIndex) -> None:
    queries = np.array([[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [1e300, 0.0]])
    assert [len(each) for each in index.nearest(queries, "digest", 2)] == [0, 0, 0, 2]
    assert len(index_from_features(np.array([[0.0, 0.0], [1.0, 0.0]]), [photo("a"), photo("b")], "d")) == 1
    with pytest.raises(DataError, match="none of 1 photos has features"):
        index_from_features(np.zeros((1, 2)), [photo("a")], "d")


def test_features_of_another_encoder_are_refused(index: CaseIndex) -> None:
    with pytest.raises(SettingsError, match=r"features of encoder other…, the index of cases has those of digest…"):
        index.nearest(PLANE, "other")
    with pytest.raises(SpecError):
        index.nearest(np.ones((1, 3)), "digest")
    with pytest.raises(SpecError):
        index.nearest(PLANE, "digest", 1, ("a",))


@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_neighbours_are_those_of_a_loop(photos: int, queries: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, asked = rng.normal(size=(photos, 5)), rng.normal(size=(queries, 5))
    index = index_from_features(vectors, [photo(str(number)) for number in range(photos)], "d")
    found = index.nearest(asked, "d", count)
    assert len(found) == queries
    for place in (0, queries - 1):
        cosines = [
            float(vector @ asked[place] / np.linalg.norm(vector) / np.linalg.norm(asked[place])) for vector in vectors
        ]
        similarities = [each.similarity for each in found[place]]
        assert similarities == pytest.approx(sorted(cosines, reverse=True)[:count], abs=1e-5)
        assert similarities == pytest.approx([cosines[int(each.case)] for each in found[place]], abs=1e-5)


@given(st.lists(st.floats(-1e30, 1e30), min_size=3, max_size=3))
def test_rows_get_the_length_one(row: list[float]) -> None:
    vectors, usable = normalize_rows(np.array([row]))
    assert np.linalg.norm(vectors) == pytest.approx(1 if any(row) else 0, abs=1e-5) and usable[0] == any(row)


def test_an_index_is_read_back(index: CaseIndex, tmp_path: Path) -> None:
    write_index(index, tmp_path / "cases.npz")
    again = read_index(tmp_path / "cases.npz")
    assert again.photos == index.photos and again.encoder == "digest" and np.array_equal(again.vectors, index.vectors)
    with np.load(tmp_path / "cases.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"vectors", "text"}
        assert json.loads(arrays["text"].tobytes())["version"] == "1.0"
    with pytest.raises(VidriskError, match="cannot be written"):
        write_index(index, tmp_path / "missing" / "cases.npz")


def damaged(path: Path, **changes: object) -> Path:
    text = {"encoder": "d", "photos": [{"case": "a", "photo": "a", "path": "", "fields": {}}], "version": "1.0"}
    arrays = {"vectors": np.array([[1.0, 0.0]], np.float32), "text": np.frombuffer(json.dumps(text).encode(), np.uint8)}
    np.savez(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
    return path


def as_text(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


@pytest.mark.parametrize(
    "changes",
    [
        {"vectors": None},
        {"text": None},
        {"vectors": np.ones((2, 2), np.float32)},
        {"vectors": np.ones((1, 2), np.float32)},
        {"vectors": np.array([[1.0, 0.0]])},
        {"vectors": np.array([[np.nan, 0.0]], np.float32)},
        {"vectors": np.array([[{}]], object)},
        {"text": as_text([])},
        {"text": as_text({"encoder": "d"})},
        {"text": as_text({"encoder": "d", "photos": [{}]})},
        {"text": as_text({"encoder": "d", "photos": 3})},
        {"text": as_text({"encoder": "d", "photos": [], "version": "2.0"})},
        {"text": np.array([255], np.uint8)},
    ],
)
def test_a_damaged_index_is_refused_in_one_line(changes: dict[str, object], tmp_path: Path) -> None:
    read_index(damaged(tmp_path / "good.npz"))
    with pytest.raises(DataError) as error:
        read_index(damaged(tmp_path / "cases.npz", **changes))
    assert "\n" not in str(error.value)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cases.npz").write_bytes(b"PK\x03\x04 no archive")
    for path, message in (
        (tmp_path / "cases.npz", "is no index of cases"),
        (tmp_path / "none.npz", "does not exist"),
        (tmp_path, "is no index of cases"),
    ):
        with pytest.raises(DataError, match=message):
            read_index(path)
