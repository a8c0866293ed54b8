"""Tests of the log of a search.

Written lines are read again, a torn last line is ignored, and the log of another search is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.runtimes.contract.errors import BundleError
from vidrisk.train.tune_log import LOG, Outcome, TuneLog

FIRST = Outcome(0, 0, {}, (0.5, 0.25), 0.75, 1.5)
SECOND = Outcome(3, 0, {"optim.epochs": 5, "augment": ["flip"]}, (), None, 0.1, "the loss is not finite")


def written(folder: Path) -> Path:
    log = TuneLog(folder, "f", 3)
    assert log.get(0, 0) is None and not list(log)
    for outcome in (FIRST, SECOND):
        log.add(outcome)
    return folder / LOG


def test_what_was_measured_is_known_again(tmp_path: Path) -> None:
    written(tmp_path / "tune")
    log = TuneLog(tmp_path / "tune", "f", 3)
    assert [log.get(0, 0), log.get(3, 0), log.get(0, 1)] == [FIRST, SECOND, None] and list(log) == [FIRST, SECOND]


@given(cut=st.integers(1, 400))
def test_a_torn_line_does_not_count_and_is_overwritten(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.mktemp("torn"))
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    log = TuneLog(path.parent, "f", 3)
    assert list(log) in ([], [FIRST])
    for outcome in (FIRST, SECOND):
        if log.get(outcome.trial, outcome.fold) is None:
            log.add(outcome)
    assert path.read_bytes() == content


def test_another_search_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    for fingerprint, folds in (("g", 3), ("f", 4)):
        with pytest.raises(BundleError, match="left by a search with other settings or data"):
            TuneLog(tmp_path, fingerprint, folds)


@pytest.mark.parametrize(
    "line",
    [b"[]", b"{", b'{"trial": 1, "fold": 0, "more": 2, "version": "1.0"}', b'{"trial": 1, "version": "2.0"}', b"\xff"],
)
def test_a_damaged_line_in_the_middle_is_refused(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path)
    head, _, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + line + b"\n" + second)
    with pytest.raises(BundleError, match="is damaged"):
        TuneLog(tmp_path, "f", 3)


def test_keys_of_a_newer_minor_version_are_ignored(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = [
        {**json.loads(line), "version": "1.99", "more": 1} for line in path.read_text(encoding="utf-8").splitlines()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert list(TuneLog(tmp_path, "f", 3)) == [FIRST, SECOND]
