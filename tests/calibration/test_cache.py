"""Tests of the statistics cache: statistics are restored unchanged.

A cache that is damaged or cannot be written costs a new measurement, but never causes an error.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.calibration.cache import KEPT_FILES, key_of, load_statistics, save_statistics
from vidrisk.calibration.histogram import Histogram
from vidrisk.calibration.observers import Statistics, observe_statistics

MODEL = b"model"
DATA: list[bytes | np.ndarray] = [b"ab", np.arange(6, dtype=np.float32)]
SETTINGS: dict[str, object] = {"method": "mse", "samples": 8}


@pytest.fixture(scope="module")
def statistics(cnn: onnx.ModelProto) -> dict[str, Statistics]:
    found = observe_statistics(cnn, [{"x": np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)}])
    return found | {"with/odd: characters\n«é»": found["r1"]}


def assert_equal(found: dict[str, Statistics] | None, expected: dict[str, Statistics]) -> None:
    assert found is not None
    assert list(found) == list(expected)
    for name, one in expected.items():
        other = found[name]
        np.testing.assert_array_equal(other.histogram.counts, one.histogram.counts, strict=True)
        np.testing.assert_array_equal(other.channel_largest, one.channel_largest, strict=True)
        np.testing.assert_array_equal(other.channel_mean, one.channel_mean, strict=True)
        for attribute in ("first", "exponent", "low", "high", "zeros"):
            assert getattr(other.histogram, attribute) == getattr(one.histogram, attribute)


def test_statistics_come_back_as_they_were(tmp_path: Path, statistics: dict[str, Statistics]) -> None:
    folder = tmp_path / "new" / "folder"
    save_statistics(folder, "key", statistics)
    assert_equal(load_statistics(folder, "key"), statistics)
    assert [path.name for path in folder.iterdir()] == ["statistics-key.npz"]


def test_what_came_back_can_observe_more(tmp_path: Path, statistics: dict[str, Statistics]) -> None:
    save_statistics(tmp_path, "key", statistics)
    found = load_statistics(tmp_path, "key")
    assert found is not None
    more = np.full(3, 1e3, np.float32)
    found["x"].histogram.observe(more)
    assert found["x"].histogram.count == statistics["x"].histogram.count + 3


CONSTANT = Statistics(Histogram(np.ones(1, np.int64), 0, -20, 0.0, 0.0, 1), np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("kept", [{}, {"constant": CONSTANT}], ids=["none", "one"])
def test_few_statistics_come_back(tmp_path: Path, kept: dict[str, Statistics]) -> None:
    save_statistics(tmp_path, "key", kept)
    assert_equal(load_statistics(tmp_path, "key"), kept)


def test_another_key_holds_nothing(tmp_path: Path, statistics: dict[str, Statistics]) -> None:
    save_statistics(tmp_path, "key", statistics)
    assert load_statistics(tmp_path, "other") is None
    assert load_statistics(tmp_path / "absent", "key") is None


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "array", "pickled", "incomplete"])
def test_a_damaged_file_counts_as_absent(
    tmp_path: Path, statistics: dict[str, Statistics], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_statistics(tmp_path, "key", statistics)
    path = tmp_path / "statistics-key.npz"
    raw = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif damage == "flipped":
        path.write_bytes(raw[:2000] + bytes([raw[2000] ^ 255]) + raw[2001:])
    elif damage == "foreign":
        path.write_bytes(b"not an archive")
    elif damage == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "pickled":
        np.savez(path, names=np.array([{"an": "object"}], dtype=object))
    else:
        np.savez(path, names=np.frombuffer(b'["x"]', np.uint8))
    with caplog.at_level(logging.WARNING):
        assert load_statistics(tmp_path, "key") is None
    assert "statistics-key.npz cannot be read" in caplog.text
    save_statistics(tmp_path, "key", statistics)
    assert_equal(load_statistics(tmp_path, "key"), statistics)


def test_a_folder_that_cannot_be_written_costs_a_log_line(
    tmp_path: Path, statistics: dict[str, Statistics], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.INFO, "vidrisk"):
        save_statistics(tmp_path / "file", "key", statistics)
    assert "the calibration statistics were not cached" in caplog.text
    assert load_statistics(tmp_path / "file", "key") is None


def test_the_newest_files_are_kept(tmp_path: Path, statistics: dict[str, Statistics]) -> None:
    one = {"x": statistics["x"]}
    (tmp_path / "search.jsonl").write_text("another's")
    for i in range(KEPT_FILES + 3):
        save_statistics(tmp_path, str(i), one)
        os.utime(tmp_path / f"statistics-{i}.npz", (i, i))
    save_statistics(tmp_path, "last", one)
    kept = {path.name for path in tmp_path.iterdir()}
    assert len(kept) == KEPT_FILES + 1
    assert {"search.jsonl", "statistics-last.npz", f"statistics-{KEPT_FILES + 2}.npz"} <= kept
    assert not kept & {f"statistics-{i}.npz" for i in range(4)}


def test_a_key_is_stable() -> None:
    key = key_of(MODEL, DATA, SETTINGS)
    assert key == key_of(MODEL, iter(DATA), dict(reversed(SETTINGS.items())))
    assert key == key_of(
        MODEL, [b"ab", np.arange(12, dtype=np.float32)[::2] / 2], SETTINGS
    )  # memory layout does not count
    assert len(key) == 64


@pytest.mark.parametrize(
    ("model", "data", "settings"),
    [
        (b"other", DATA, SETTINGS),
        (MODEL, DATA[:1], SETTINGS),
        (MODEL, DATA[::-1], SETTINGS),
        (MODEL, [b"ab", np.arange(6, dtype=np.float64)], SETTINGS),
        (MODEL, [b"ab", np.arange(6, dtype=np.float32).reshape(2, 3)], SETTINGS),
        (MODEL, DATA, SETTINGS | {"samples": 9}),
        (MODEL, [], SETTINGS),
    ],
)
def test_a_key_depends_on_everything(model: bytes, data: list[bytes | np.ndarray], settings: dict[str, object]) -> None:
    assert key_of(model, data, settings) != key_of(MODEL, DATA, SETTINGS)


@given(parts=st.lists(st.binary(max_size=3), max_size=3), others=st.lists(st.binary(max_size=3), max_size=3))
def test_where_one_part_ends_counts(parts: list[bytes], others: list[bytes]) -> None:
    assert (key_of(b"", parts, {}) == key_of(b"", others, {})) == (parts == others)
