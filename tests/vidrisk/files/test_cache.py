from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import vidrisk.files.cache
from vidrisk.files.cache import ArrayCache, array_cache, key_of
from vidrisk.runtimes.contract.errors import SettingsError, SpecError

ROOT = Path(__file__).parents[2]
ARRAYS = st.dictionaries(
    st.text(max_size=8),
    hnp.arrays(
        st.sampled_from(["?", "u1", "i8", "f2", "f4", ">f8", "c8"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    max_size=3,
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def cache(tmp_path: Path) -> ArrayCache:
    return ArrayCache(tmp_path / "arrays", 2**20)


def ramp(number: int, count: int = 1000) -> dict[str, npt.NDArray[Any]]:
    return {"values": (number + np.arange(count)).astype(np.uint8)}


def files_of(cache: ArrayCache) -> list[Path]:
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


def bytes_of(cache: ArrayCache) -> int:
    return sum(path.stat().st_size for path in files_of(cache))


def same(left: dict[str, npt.NDArray[Any]] | None, right: dict[str, npt.NDArray[Any]]) -> bool:
    """Return whether the arrays are equal bit by bit, so that NaN equals NaN."""

    def bits(arrays: dict[str, npt.NDArray[Any]]) -> list[tuple[Any, ...]]:
        return [(name, array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()]

    return left is not None and bits(left) == bits(right)


@QUICK
@given(arrays=ARRAYS)
def test_what_is_put_is_got(cache: ArrayCache, arrays: dict[str, npt.NDArray[Any]]) -> None:
    cache.put(key_of("a"), arrays)
    got = cache.get(key_of("a"))
    assert same(got, arrays) and got is not None
    assert all(array.flags.writeable and array.flags.c_contiguous for array in got.values())
    turned = {name: array.T[::-1] if array.ndim else array for name, array in arrays.items()}
    cache.put(key_of("a"), turned)
    assert same(cache.get(key_of("a")), turned)


def test_a_key_that_was_never_put(cache: ArrayCache) -> None:
    assert cache.get(key_of("a")) is None
    cache.put(key_of("a"), {})
    assert cache.get(key_of("a")) == {} and cache.get(key_of("b")) is None


@pytest.mark.parametrize(
    "entry",
    [
        ["a", "|O", [1], 0],
        ["a", "<f4", [10**12], 0],
        ["a", ",", [1], 0],
        ["a", "(1,2", [1], 0],
        ["a", "<f4", ["x"], 0],
        ["a", "<f4", [-1], 0],
        ["a"],
        5,
    ],
)
def test_an_index_that_is_none_of_ours_is_no_entry(entry: object, tmp_path: Path) -> None:
    cache, index = ArrayCache(tmp_path, 1 << 30), json.dumps([entry]).encode()
    cache.put("ab12", {"a": np.ones(3, np.float32)})
    path = tmp_path / "ab" / "12"
    path.write_bytes(vidrisk.files.cache._HEAD.pack(vidrisk.files.cache._MAGIC, len(index), zlib.crc32(index)) + index)
    assert cache.get("ab12") is None and not path.exists()


@pytest.mark.parametrize("array", [np.array([object()]), np.array(["text"]), np.zeros(1, [("a", "f4")])])
def test_only_numbers_are_kept(cache: ArrayCache, array: npt.NDArray[Any]) -> None:
    with pytest.raises(SpecError, match="allowed: numbers"):
        cache.put(key_of("a"), {"x": array})


@QUICK
@given(arrays=ARRAYS, data=st.data())
def test_damage_is_never_another_value(
    cache: ArrayCache, arrays: dict[str, npt.NDArray[Any]], data: st.DataObject
) -> None:
    cache.put(key_of("a"), arrays)
    (path,) = files_of(cache)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (bytes(flipped), whole[:at], bytes(len(whole))):
        path.write_bytes(damaged)
        got = cache.get(key_of("a"))
        assert same(got, arrays) if got is not None else not path.exists()
        assert got is None or damaged == bytes(flipped)  # at most a byte that says nothing
    cache.put(key_of("a"), arrays)
    assert same(cache.get(key_of("a")), arrays)


@given(
    st.lists(st.text(st.characters(), max_size=3), max_size=4),
    st.lists(st.text(st.characters(), max_size=3), max_size=4),
)
def test_different_parts_make_different_keys(left: list[str], right: list[str]) -> None:
    assert (key_of(*left) == key_of(*right)) == (left == right)
    assert len(key_of(*left)) == 64


def test_a_path_that_is_no_unicode_is_part_of_a_key() -> None:
    assert key_of(os.fsdecode(b"\xff")) != key_of(os.fsdecode(b"\xfe"))


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path, 80_000)
    keys = [key_of(str(number)) for number in range(8)]
    for number, key in enumerate(keys):
        cache.put(key, ramp(number, 8000))
        os.utime(tmp_path / key[:2] / key[2:], (number, number))
    assert cache.get(keys[0])  # used just now
    later = ArrayCache(tmp_path, 80_000)
    later.put(key_of("new"), ramp(0, 16_000))
    kept = [number for number, key in enumerate(keys) if later.get(key)]
    assert kept == [0, 2, 3, 4, 5, 6, 7] and later.get(key_of("new"))


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 23_999) | st.integers(25_000, 30_000), min_size=20, max_size=60))
def test_the_bound_is_respected_after_every_put(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    cache = ArrayCache(tmp_path_factory.mktemp("arrays"), 100_000)
    for number, size in enumerate(sizes):
        cache.put(key_of(str(number)), {"x": np.zeros(size, np.uint8)})
        assert bytes_of(cache) <= 100_000
        assert (cache.get(key_of(str(number))) is not None) == (size < 24_000)  # a quarter, less the index


def test_the_folder_is_looked_at_rarely(cache: ArrayCache, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    look = cache._make_room

    def counted(size: int) -> None:
        looks.append(size)
        look(size)

    monkeypatch.setattr(cache, "_make_room", counted)
    for number in range(2000):  # twice the bound
        cache.put(key_of(str(number)), ramp(number))
    assert bytes_of(cache) <= cache.max_bytes
    assert len(looks) <= 2 * vidrisk.files.cache.SCAN_PART_OF_BOUND + 4


def test_a_bound_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "arrays", 0)
    cache.put(key_of("a"), ramp(0))
    assert cache.get(key_of("a")) is None and not cache.folder.exists()


def test_what_a_killed_process_left_goes_with_the_rest(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path, 80_000)
    cache.put(key_of("a"), ramp(0, 8000))
    left = tmp_path / "ab" / "cd.123-4.tmp"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(bytes(70_000))
    os.utime(left, (0, 0))
    cache = ArrayCache(tmp_path, 80_000)
    cache.put(key_of("b"), ramp(0, 8000))
    assert not left.exists() and cache.get(key_of("a")) and cache.get(key_of("b"))


def test_the_last_space_of_a_disk_is_left_to_others(cache: ArrayCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(key_of("a"), ramp(0))
    monkeypatch.setattr(vidrisk.files.cache, "MIN_FREE_BYTES", 2**62)
    later = ArrayCache(cache.folder, cache.max_bytes)
    later.put(key_of("b"), ramp(0))
    assert files_of(later) == []


def test_a_folder_that_cannot_be_made_costs_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ArrayCache(tmp_path / "file" / "arrays", 2**20)
    with caplog.at_level("INFO", logger="vidrisk.files.cache"):
        for number in range(3):
            cache.put(key_of(str(number)), ramp(number))
            assert cache.get(key_of(str(number))) is None
    assert [record.levelname for record in caplog.records] == ["INFO"] and "is no longer written" in caplog.text


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Return a function that starts a process which runs code, with ``cache`` in ``tmp_path``."""
    begin = f"""
        import resource, sys, numpy as np
        from pathlib import Path
        from vidrisk.files.cache import ArrayCache, key_of
        cache = ArrayCache(Path({str(tmp_path)!r}), 2**20)
        def arrays(number): return {{"values": np.full(4000 + number, number, np.int32)}}
    """

    def run(code: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(begin) + textwrap.dedent(code)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )

    return run


def test_two_processes_at_once(tmp_path: Path, python: Callable[[str], subprocess.Popen[str]]) -> None:
    """A reader gets the stored value or nothing while two processes write the same keys and evict entries."""
    writers = [
        python("""
        got = 0
        for number in range(400):
            cache.put(key_of(str(number % 90)), arrays(number % 90))
            back = cache.get(key_of(str(number * 7 % 90)))
            if back is not None:
                assert np.array_equal(back["values"], arrays(number * 7 % 90)["values"])
                got += 1
        print(got)
    """)
        for _ in range(2)
    ]
    ends = [writer.communicate(timeout=60) for writer in writers]
    assert [(writer.returncode, error) for writer, (_, error) in zip(writers, ends, strict=True)] == [(0, "")] * 2
    assert all(int(out) > 50 for out, _ in ends)
    cache = ArrayCache(tmp_path, 2**20)
    assert bytes_of(cache) <= 2**20 * (1 + 1 / vidrisk.files.cache.SCAN_PART_OF_BOUND)
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_entry_stays_whole_while_another_process_writes_it_again(
    tmp_path: Path, python: Callable[[str], subprocess.Popen[str]]
) -> None:
    cache, values = ArrayCache(tmp_path, 2**20), {"values": np.arange(50_000, dtype=np.int32)}
    cache.put(key_of("a"), values)
    writer = python("""
        print("at work", flush=True)
        while not (cache.folder / "stop").exists():
            cache.put(key_of("a"), {"values": np.arange(50_000, dtype=np.int32)})
    """)
    assert writer.stdout is not None and writer.stdout.readline()
    try:
        for _ in range(1500):
            assert same(cache.get(key_of("a")), values)
    finally:
        (tmp_path / "stop").touch()
        _, error = writer.communicate(timeout=60)
    assert (writer.returncode, error) == (0, "")


def test_a_full_disk_costs_no_run(tmp_path: Path, python: Callable[[str], subprocess.Popen[str]]) -> None:
    process = python("""
        import logging
        logging.basicConfig(level="INFO", stream=sys.stdout, format="%(levelname)s %(message)s")
        cache.put(key_of("0"), {"small": np.zeros(10)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for number in range(1, 5):
            cache.put(key_of(str(number)), arrays(number))
            assert cache.get(key_of(str(number))) is None
        assert cache.get(key_of("0"))["small"].shape == (10,)
    """)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert out.count("\n") == 1 and out.startswith("INFO") and "File too large" in out
    assert [path.parent.name + path.name for path in tmp_path.rglob("*") if path.is_file()] == [key_of("0")]


def test_the_users_cache_and_its_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path))
    monkeypatch.delenv("VIDRISK_CACHE_GB", raising=False)
    assert (array_cache().folder, array_cache().max_bytes) == (tmp_path / "arrays", 2 * 2**30)
    monkeypatch.setenv("VIDRISK_CACHE_GB", "0.5")
    assert array_cache().max_bytes == 2**29
    for wrong in ("much", "-1", "nan", "inf", "2GB"):
        monkeypatch.setenv("VIDRISK_CACHE_GB", wrong)
        with pytest.raises(
            SettingsError, match=f"VIDRISK_CACHE_GB={wrong}; allowed: a number of gigabytes from 0; fix: unset"
        ):
            array_cache()
