"""Cache of calibration statistics: a second export of the same model on the same samples skips the measurement."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.calibration.histogram import Histogram
from vidrisk.calibration.observers import Statistics
from vidrisk.runtimes.folders import is_private_folder, make_private_folder, open_private, write_private
from vidrisk.runtimes.runner import Array

log = logging.getLogger(__name__)

FORMAT = 1  # version of the files and of the meaning of the statistics; part of every key
KEPT_FILES = 16


def key_of(model: bytes, data: Iterable[bytes | Array], settings: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of a model, its calibration data in order, and JSON settings in any order."""
    digest = hashlib.sha256()
    _add(digest, json.dumps([FORMAT, settings], sort_keys=True).encode())
    _add(digest, model)
    for item in data:
        if isinstance(item, bytes):
            _add(digest, item)
        else:
            _add(digest, json.dumps([item.dtype.str, item.shape]).encode())
            _add(digest, np.ascontiguousarray(item).data)
    return digest.hexdigest()


def _add(digest: Any, part: bytes | memoryview) -> None:
    # the length prefix keeps "ab" + "c" apart from "a" + "bc"
    digest.update(len(memoryview(part).cast("B")).to_bytes(8, "little"))
    digest.update(part)


def load_statistics(folder: Path, key: str) -> dict[str, Statistics] | None:
    """Read what ``save_statistics`` stored under ``key``, or return None if it is missing or damaged."""
    path = _path(folder, key)
    if not path.is_file() or not is_private_folder(folder):
        return None
    try:
        with open_private(path) as file, np.load(file, allow_pickle=False) as arrays:
            return _statistics_from_arrays(arrays)
    except Exception as error:  # zipfile and numpy raise a dozen types for damaged files, without a common base
        log.warning("%s cannot be read; the calibration data is measured again: %s", path, error)
        return None


def save_statistics(folder: Path, key: str, statistics: Mapping[str, Statistics]) -> None:
    """Store statistics under ``key``, and delete all but the newest ``KEPT_FILES`` files in ``folder``."""
    path = _path(folder, key)
    try:
        make_private_folder(folder)
        with write_private(path) as file:
            np.savez(file, allow_pickle=False, **_arrays_from_statistics(statistics))
        for kind in ("statistics-*", "*.jsonl"):  # search journals lie in the same folder
            kept = sorted(folder.glob(kind), key=lambda old: old.stat().st_mtime_ns, reverse=True)
            for old in kept[KEPT_FILES:]:
                old.unlink(missing_ok=True)
    except OSError as error:
        # A read-only home only costs a measurement per export.
        log.info("the calibration statistics were not cached: %s", error)


def _path(folder: Path, key: str) -> Path:
    return folder / f"statistics-{key}.npz"


def _arrays_from_statistics(statistics: Mapping[str, Statistics]) -> dict[str, npt.NDArray[Any]]:
    """Store one row per activation; values of varying length are concatenated, with their lengths in the rows.

    Names are JSON, so any character is legal.
    """
    every = list(statistics.values())
    histograms = [one.histogram for one in every]
    return {
        "names": np.frombuffer(json.dumps(list(statistics)).encode(), np.uint8),
        "integers": np.array(
            [
                (h.first, h.exponent, h.zeros, len(h.counts), len(s.channel_mean))
                for h, s in zip(histograms, every, strict=True)
            ],
            np.int64,
        ).reshape(-1, 5),
        "ends": np.array([(h.low, h.high) for h in histograms], np.float64).reshape(-1, 2),
        "counts": np.concatenate([np.zeros(0, np.int64), *(h.counts for h in histograms)]),
        "channel_largest": np.concatenate([np.zeros(0), *(one.channel_largest for one in every)]),
        "channel_mean": np.concatenate([np.zeros(0), *(one.channel_mean for one in every)]),
    }


def _statistics_from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Statistics]:
    names = json.loads(arrays["names"].tobytes())
    integers = arrays["integers"]
    counts = np.split(arrays["counts"], np.cumsum(integers[:, 3])[:-1])
    largest, mean = (
        np.split(arrays[name], np.cumsum(integers[:, 4])[:-1]) for name in ("channel_largest", "channel_mean")
    )
    statistics = {}
    for row, name in enumerate(names):
        first, exponent, zeros = (int(value) for value in integers[row, :3])
        low, high = (float(value) for value in arrays["ends"][row])
        statistics[name] = Statistics(
            Histogram(counts[row], first, exponent, low, high, zeros), largest[row], mean[row]
        )
    return statistics
