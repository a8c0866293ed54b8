from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tracemalloc
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vidrisk.decode.messages import READ_STATES, InputEnd
from vidrisk.inference.encode import EncodedFrames
from vidrisk.jobs.ledger import Ledger
from vidrisk.jobs.saved_features import FeatureFile, SavedFeatures, features_of, features_path, read_features
from vidrisk.runtimes.contract.errors import DataError, SpecError

ROOT = Path(__file__).parents[3]
HALF = float(np.finfo(np.float16).max)


def frames(count: int, width: int = 5, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)).astype(np.float32), np.arange(count) / 25


def save(path: Path, *parts: tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]], width: int = 5) -> None:
    file = FeatureFile(path, width)
    for features, time_s in parts:
        file.append(features, time_s)
    file.finish()


@settings(max_examples=50, deadline=None)
@given(
    features=hnp.arrays(np.float32, st.tuples(st.integers(0, 9), st.integers(1, 7)), elements=st.floats(width=32)),
    data=st.data(),
)
def test_what_is_appended_is_read(features: npt.NDArray[np.float32], data: st.DataObject) -> None:
    count, width = features.shape
    time_s = data.draw(hnp.arrays(np.float64, count, elements=st.floats(0, 1e6)))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=3)))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        parts = zip(np.split(features, cuts), np.split(time_s, cuts), strict=True)
        save(features_path(out, 12), *parts, width=width)
        got, times = read_features(out, 12)
        plain = np.load(out / "features" / "00000012.npy")
        assert got.shape == (count, width) and np.array_equal(times, time_s) and times.dtype == np.float64
        assert np.array_equal(got, plain["features"], equal_nan=True) and np.array_equal(times, plain["time_s"])
        wanted = np.clip(features.astype(np.float64), -HALF, HALF)
        number = np.isfinite(features)
        assert np.array_equal(number, ~np.isnan(got))
        error = np.abs(got[number] - wanted[number])
    assert (error <= np.maximum(np.abs(wanted[number]) * 2.0**-11, 2.0**-25)).all()


def test_features_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    save(features_path(tmp_path, 1), frames(3))
    features, time_s = read_features(tmp_path, 1)
    assert isinstance(features, np.memmap) and isinstance(time_s, np.memmap) and not features.flags.writeable


def test_nothing_is_visible_until_it_is_whole(tmp_path: Path) -> None:
    path = features_path(tmp_path, 1)
    file = FeatureFile(path, 5)
    file.append(*frames(3))
    with pytest.raises(DataError, match=r"no features of row 1; fix: run infer with save_features"):
        read_features(tmp_path, 1)
    file.finish()
    assert len(read_features(tmp_path, 1)[0]) == 3
    file.discard()  # too late
    again = FeatureFile(path, 5)
    again.append(*frames(2))
    again.discard()
    assert len(read_features(tmp_path, 1)[0]) == 3 and [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_process_that_is_killed_leaves_nothing_that_counts(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, numpy as np; from pathlib import Path\n"
        "from vidrisk.jobs.saved_features import FeatureFile, features_path\n"
        f"file = FeatureFile(features_path(Path({str(tmp_path)!r}), 1), 5)\n"
        "for _ in range(100): file.append(np.ones((100, 5), np.float32), np.zeros(100))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    (left,) = (tmp_path / "features").iterdir()
    assert left.stat().st_size > 10_000
    with pytest.raises(DataError, match="no features of row 1"):
        read_features(tmp_path, 1)
    save(features_path(tmp_path, 1), frames(4))  # done again: what was left is overwritten
    assert np.array_equal(read_features(tmp_path, 1)[1], frames(4)[1]) and not left.exists()


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    features, time_s = frames(10, 128)
    file = FeatureFile(features_path(tmp_path, 1), 128)
    tracemalloc.start()
    try:
        for _ in range(1000):
            file.append(features, time_s)
        file.finish()
        assert read_features(tmp_path, 1)[0].shape == (10_000, 128)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000  # of 2.6 MB


@pytest.mark.parametrize(("frames_at_once", "times"), [(1, 190), (100, 5)], ids=["met at the end", "met on the way"])
def test_a_full_disk_is_one_line_and_can_be_discarded(tmp_path: Path, frames_at_once: int, times: int) -> None:
    code = (
        "import resource, numpy as np; from pathlib import Path\n"
        "from vidrisk.jobs.saved_features import FeatureFile, features_path\n"
        "from vidrisk.runtimes.contract.errors import VidriskError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        f"file = FeatureFile(features_path(Path({str(tmp_path)!r}), 1), 50)\n"
        "try:\n"
        f"    for _ in range({times}): file.append(np.ones(({frames_at_once}, 50), np.float32), np.zeros({frames_at_once}))\n"
        "    file.finish()\n"
        "except VidriskError as error: print(error)\n"
        "file.discard()\n"
    )
    end = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert end.stderr == "" and end.stdout.count("\n") == 1 and "File too large; fix: make room" in end.stdout
    assert list((tmp_path / "features").iterdir()) == []


@pytest.mark.parametrize(("features", "time_s"), [((3, 4), (3,)), ((3, 5), (2,)), ((5,), (5,)), ((3, 5), (3, 1))])
def test_what_does_not_fit_is_refused(tmp_path: Path, features: tuple[int, ...], time_s: tuple[int, ...]) -> None:
    file = FeatureFile(features_path(tmp_path, 1), 5)
    with pytest.raises(SpecError, match=r"allowed: \(n, 5\) at \(n,\)"):
        file.append(np.zeros(features, np.float32), np.zeros(time_s))
    file.discard()


@pytest.mark.parametrize(
    "damage", [b"", b"nothing", "cut", np.zeros(3)], ids=["empty", "foreign", "cut", "plain array"]
)
def test_a_damaged_file_is_said(tmp_path: Path, damage: bytes | str | npt.NDArray[np.float64]) -> None:
    path = features_path(tmp_path, 1)
    save(path, frames(30))
    if isinstance(damage, np.ndarray):
        np.save(path, damage)
    else:
        path.write_bytes(path.read_bytes()[:300] if isinstance(damage, str) else damage)
    with pytest.raises(DataError, match=r"00000001\.npy cannot be read"):
        read_features(tmp_path, 1)


@pytest.mark.parametrize("is_begun", [False, True], ids=["read nothing", "read a part"])
@pytest.mark.parametrize("state", ["ok", "partial", "corrupt", "skipped", "timeout"])
def test_an_input_that_is_done_again_keeps_nothing_of_before(tmp_path: Path, state: str, is_begun: bool) -> None:
    save(features_path(tmp_path, 1), frames(3))
    with closing(SavedFeatures(tmp_path)) as saved:
        if is_begun or state in READ_STATES:
            features, time_s = frames(2)
            saved.append(1, EncodedFrames(np.arange(2), time_s, features))
        saved.finish(1, InputEnd(state))
    if state in READ_STATES:
        assert len(read_features(tmp_path, 1)[0]) == 2
    else:
        with pytest.raises(DataError, match="no features of row 1"):
            read_features(tmp_path, 1)
    assert len(list((tmp_path / "features").iterdir())) == (state in READ_STATES)


def test_an_input_that_is_read_again_or_not_ended_keeps_what_was(tmp_path: Path) -> None:
    save(features_path(tmp_path, 1), frames(3))
    with closing(SavedFeatures(tmp_path)) as saved:
        saved.discard(1)
        saved.append(1, EncodedFrames(np.arange(2), frames(2)[1], frames(2)[0]))
    assert len(read_features(tmp_path, 1)[0]) == 3 and len(list((tmp_path / "features").iterdir())) == 1


def test_features_of_a_run_come_with_their_paths(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Ledger(out, {}, resume=False) as ledger:
        ledger.add(["/a.mp4", "/b.mp4", "/c.mp4", "/d.mp4"])
        states = ("ok", "corrupt", "partial", "pending")
        for number, (row, state) in enumerate(zip(ledger.rows(), states, strict=True)):
            save(features_path(out, row.id), frames(2, seed=number))  # some from before they failed
            if state != "pending":
                ledger.finish(replace(row, state=state), b"")
    found = {path: features[:] for path, features, _ in features_of(out)}
    assert list(found) == ["/a.mp4", "/c.mp4"]
    assert np.array_equal(found["/c.mp4"], frames(2, seed=2)[0].astype(np.float16))
    features_path(out, 3).unlink()
    with pytest.raises(DataError, match="no features of row 3"):
        list(features_of(out))
