"""Tests of the engine cache, from the bytes of a file to concurrent builders.

The cache does not read the engines: they are random bytes here.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError
from vidrisk.runtimes.tensorrt.cache import Batches, Engine, EngineKey, EngineStore, Missing, engine_store, graph_sha256
from vidrisk.runtimes.tensorrt.device import Device
from vidrisk.runtimes.tensorrt.engine_file import FORMAT

ROOT = Path(__file__).parents[3]
GRAPH = "ab" * 32
ORIN = Device("Orin", "8.7", "12.6", 8 << 30, 4 << 30)
ADA = Device("NVIDIA GeForce RTX 4090", "8.9", "13.0", 24 << 30, 20 << 30)
HERE = EngineKey("tensorrt", "10.3.0", "Orin", ("8.7",), "12", GRAPH, Batches())
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

ROWS = st.lists(st.integers(1, 4096), min_size=3, max_size=3).map(sorted)
KEYS = st.builds(
    EngineKey,
    kind=st.sampled_from(["tensorrt", "tensorrt-rtx"]),
    version=st.from_regex(r"\A[0-9]{1,2}(\.[0-9]{1,3}){2,3}\Z"),
    gpu=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    compute_capabilities=st.lists(st.from_regex(r"\A[0-9]{1,2}\.[0-9]\Z"), max_size=3).map(tuple),
    driver_major=st.sampled_from(["", "12", "13"]),
    graph_sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    batches=ROWS.map(lambda rows: Batches(*rows)),
    dla=st.booleans(),
    portable=st.booleans(),
    machine=st.sampled_from(["", "x86_64", "aarch64"]),
)


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


def keep(store: EngineStore, key: EngineKey = HERE, blob: bytes = b"engine", layers: str = "{}") -> Path:
    with store.lock(key):
        return store.add(key, blob, layers)


def found_here(store: EngineStore, device: Device = ORIN, version: str = "10.3.0") -> Engine | Missing:
    return store.find("tensorrt", version, device, GRAPH)


def reason(found: Engine | Missing) -> str:
    assert isinstance(found, Missing), found
    return found.reason


def files_of(store: EngineStore) -> list[str]:
    return sorted(path.suffix for path in store.folder.iterdir())


@QUICK
@given(key=KEYS, blob=st.binary(max_size=10_000))
def test_what_is_kept_is_got(tmp_path: Path, key: EngineKey, blob: bytes) -> None:
    store = EngineStore(tmp_path / "engines")
    path = keep(store, key, blob, '{"int8": 1}')
    engine = store.get(key)
    assert isinstance(engine, Engine) and (engine.key, engine.path, engine.bytes) == (key, path, len(blob))
    assert bytes(engine.blob()) == blob and engine.start % 4096 == 0
    assert json.loads(engine.layers_path.read_text()) == {"int8": 1}
    assert path.name.startswith(key.graph_sha256)
    other = replace(key, batches=Batches(1, 2, 3) if key.batches != Batches(1, 2, 3) else Batches(1, 2, 4))
    assert isinstance(store.get(other), Missing)


@QUICK
@given(left=KEYS, right=KEYS)
def test_different_keys_have_different_files(left: EngineKey, right: EngineKey) -> None:
    assert (left.stem == right.stem) == (left == right)
    assert replace(left).stem == left.stem


@QUICK
@given(blob=st.binary(min_size=1, max_size=5000), data=st.data())
def test_damage_is_never_loaded(tmp_path: Path, blob: bytes, data: st.DataObject) -> None:
    store = EngineStore(tmp_path / "engines")
    path = keep(store, HERE, blob)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1) | st.integers(len(whole) - len(blob), len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (bytes(flipped), whole[:at], whole + b"x", bytes(len(whole))):
        path.write_bytes(damaged)
        said = reason(found_here(store))
        if "format" not in said:  # of another version of this program: it stays
            assert said.endswith("and was removed") and list(store.folder.iterdir()) == []
        path.write_bytes(damaged)
        assert isinstance(store.get(HERE), Missing)
    path.write_bytes(whole)
    assert isinstance(found_here(store), Engine)


def test_another_format_is_left_alone(store: EngineStore) -> None:
    path = keep(store)
    data = bytearray(path.read_bytes())
    data[8] = FORMAT + 1
    path.write_bytes(data)
    assert reason(found_here(store)) == f"its file has format {FORMAT + 1}, here is {FORMAT}"
    assert path.exists()


def test_an_engine_under_another_name(store: EngineStore) -> None:
    path = keep(store)
    path.rename(path.with_name(f"{GRAPH}-{'0' * 16}.engine"))
    assert "the name of another engine" in reason(found_here(store))


def test_a_header_that_makes_no_sense(store: EngineStore) -> None:
    path = keep(store, replace(HERE, version="ten"))
    assert "is invalid" in reason(found_here(store)) and not path.exists()


def test_the_reason_why_none_fits(store: EngineStore) -> None:
    assert reason(found_here(store)) == "none has been built yet"
    keep(store)
    assert isinstance(found_here(store), Engine)
    assert reason(found_here(store, version="10.7.0")) == "built for tensorrt 10.3.0, here is 10.7.0"
    assert reason(found_here(store, ADA)) == "built for Orin (8.7), here is NVIDIA GeForce RTX 4090 (8.9)"
    nano = replace(ORIN, name="Orin Nano")
    assert reason(found_here(store, nano)) == "built for Orin (8.7), here is Orin Nano (8.7)"
    keep(store, replace(HERE, gpu="Orin, 16 SMs"))
    agx, nx = replace(ORIN, multiprocessors=16), replace(ORIN, multiprocessors=8)
    assert isinstance(found_here(store, agx), Engine)
    assert reason(found_here(store, nx)) == "built for Orin, 16 SMs (8.7), here is Orin, 8 SMs (8.7)"
    assert (
        reason(found_here(store, replace(agx, driver="13.0")))
        == "built with a driver for CUDA 12, here is one for CUDA 13"
    )
    assert isinstance(found_here(store, replace(ORIN, driver="12.9", free_bytes=0)), Engine)
    assert reason(store.find("tensorrt-rtx", "1.7.1", ADA, GRAPH)) == "built with tensorrt, here is tensorrt-rtx"
    assert reason(store.find("tensorrt", "10.3.0", ORIN, "cd" * 32)) == "none has been built yet"


def test_engines_built_ahead_of_time_ask_for_the_capability_alone(store: EngineStore) -> None:
    keep(store, EngineKey("tensorrt-rtx", "1.7.1", "", ("8.6", "8.9"), "", GRAPH, Batches()))
    assert isinstance(store.find("tensorrt-rtx", "1.7.1", ADA, GRAPH), Engine)
    assert isinstance(store.find("tensorrt-rtx", "1.7.1", replace(ADA, name="L4", driver="12.8"), GRAPH), Engine)
    said = reason(store.find("tensorrt-rtx", "1.7.1", replace(ADA, compute_capability="12.0"), GRAPH))
    assert said == "built for GPUs of compute capability (8.6, 8.9), here is NVIDIA GeForce RTX 4090 (12.0)"


@pytest.mark.parametrize(
    ("kind", "built_on", "version", "capability", "fits"),
    [
        ("tensorrt", ("8.7",), "10.7.0", "8.9", True),
        ("tensorrt", ("8.7",), "11.0.0", "12.0", True),
        ("tensorrt", ("8.7",), "10.2.9", "8.9", False),  # an earlier library
        ("tensorrt", ("8.7",), "10.7.0", "7.5", False),
        ("tensorrt", ("7.5",), "10.7.0", "8.9", False),
        ("tensorrt-rtx", (), "10.3.0", "12.0", True),
        ("tensorrt-rtx", (), "10.3.0", "7.5", False),
        ("tensorrt-rtx", (), "10.7.0", "8.9", False),  # for one version always
    ],
)
def test_portable_engines(kind: str, built_on: tuple[str, ...], version: str, capability: str, fits: bool) -> None:
    key = EngineKey(kind, "10.3.0", "", built_on, "", GRAPH, Batches(), portable=True)  # type: ignore[arg-type]
    device = replace(ADA, compute_capability=capability)
    assert (key.misfit(kind, version, device) is None) == fits  # type: ignore[arg-type]


def test_the_code_in_a_portable_engine_is_for_one_kind_of_processor() -> None:
    key = EngineKey("tensorrt", "10.3.0", "", ("8.6",), "", GRAPH, Batches(), portable=True, machine=platform.machine())
    assert key.misfit("tensorrt", "10.3.0", ADA) is None
    said = replace(key, machine="a toaster").misfit("tensorrt", "10.3.0", ADA)
    assert said == f"built for a toaster, here is {platform.machine()}"


def test_the_newest_engine_that_fits_is_taken(store: EngineStore) -> None:
    keep(store, blob=b"first")
    keep(store, replace(HERE, batches=Batches(1, 16, 16)), b"second")
    keep(store, replace(HERE, version="10.7.0"), b"third")
    engine = found_here(store)
    assert isinstance(engine, Engine) and bytes(engine.blob()) == b"second" and engine.key.batches.max == 16
    data = bytearray(engine.path.read_bytes())
    data[-1] ^= 1
    engine.path.write_bytes(data)
    older = found_here(store)
    assert isinstance(older, Engine) and bytes(older.blob()) == b"first"


@pytest.mark.parametrize("rows", [(0, 1, 2), (2, 1, 3), (1, 3, 2), (1, 8, 4097), (-1, 1, 1)])
def test_batches_that_make_no_sense(rows: tuple[int, int, int]) -> None:
    with pytest.raises(SettingsError, match="allowed: 1 ≤ MIN ≤ OPT ≤ MAX ≤ 4096"):
        Batches(*rows)


def graph_with_weights_in(path: Path, *locations: str) -> Path:
    tensors = [numpy_helper.from_array(np.zeros(8, np.float32), f"w{number}") for number in range(len(locations))]
    for tensor, location in zip(tensors, locations, strict=True):
        set_external_data(tensor, location, length=32)
        tensor.ClearField("raw_data")
    path.write_bytes(onnx.ModelProto(ir_version=10, graph=onnx.GraphProto(initializer=tensors)).SerializeToString())
    return path


def test_a_graph_is_its_file_and_all_files_that_it_takes_weights_from(tmp_path: Path) -> None:
    weights = tmp_path / "encoder.onnx.data", tmp_path / "shared.bin"
    graph = graph_with_weights_in(tmp_path / "encoder.onnx", *(path.name for path in weights), weights[1].name)
    digests = set()
    for contents in ((b"a", b"b"), (b"b", b"a"), (b"a", b"c"), (b"ab", b"")):
        for path, content in zip(weights, contents, strict=True):
            path.write_bytes(content)
        digests.add(graph_sha256(graph))
    assert len(digests) == 4 and all(len(digest) == 64 for digest in digests)
    alone = graph_with_weights_in(tmp_path / "alone.onnx")
    (tmp_path / "alone.onnx.data").write_bytes(b"of nobody")
    assert graph_sha256(alone) == sha256_of(alone)
    weights[1].unlink()
    with pytest.raises(RuntimeFailure, match=r"shared\.bin cannot be read: No such file.*fix: copy the bundle again"):
        graph_sha256(graph)
    graph.write_bytes(b"<net/>")
    with pytest.raises(RuntimeFailure, match="is not an ONNX file"):
        graph_sha256(graph)


SOMEBODY = 65534


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DISTRUSTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "file of somebody else": (lambda file: os.chown(file, SOMEBODY, SOMEBODY), f"belongs to user {SOMEBODY}"),
    "file for the group": (lambda file: file.chmod(0o660), r"may be written by others \(mode 0660\)"),
    "file for all": (lambda file: file.chmod(0o606), "may be written by others"),
    "link": (as_link, "is a link"),
    "folder of somebody else": (
        lambda file: os.chown(file.parent, SOMEBODY, SOMEBODY),
        f"engines belongs to user {SOMEBODY}",
    ),
    "folder for all": (lambda file: file.parent.chmod(0o777), "engines may be written by others"),
    "folder for the group": (lambda file: file.parent.chmod(0o770), "engines may be written by others"),
    "folder is a link": (lambda file: as_link(file.parent), "engines is a link"),
    "cache for all": (lambda file: file.parent.parent.chmod(0o777), "cache may be written by others"),
}


@pytest.mark.parametrize("case", DISTRUSTED)
def test_an_engine_that_somebody_else_may_have_put_there_is_not_loaded(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, said = DISTRUSTED[case]
    if "somebody" in case and os.geteuid():
        pytest.skip("only root can give files away")
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    store = engine_store()
    path = keep(store)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700 and stat.S_IMODE(path.stat().st_mode) == 0o600
    change(path)
    for found in (found_here(store), store.get(HERE)):
        assert re.search(said, reason(found)), found
    assert path.exists(), "it is ignored, not removed"
    if "folder" in case or "cache" in case:
        with pytest.raises(RuntimeFailure, match=f"cannot be stored in .*{said}.*fix: .*that only you can write"):
            keep(store)


def test_an_engine_of_root_and_a_cache_behind_ones_own_link_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large disk").mkdir(0o700)
    (tmp_path / "cache").symlink_to("large disk")
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    path = keep(engine_store())
    if not os.geteuid():
        monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)  # who sees files of root
    assert isinstance(found_here(engine_store()), Engine) and path.exists()


def test_what_was_verified_is_what_is_loaded(store: EngineStore) -> None:
    """A file that is replaced after its verification has no effect on what is loaded."""
    path = keep(store, blob=b"good")
    engine = found_here(store)
    assert isinstance(engine, Engine)
    other = keep(store, replace(HERE, dla=True), blob=b"evil")
    other.replace(path)
    assert bytes(engine.blob()) == b"good"


def test_what_was_used_least_recently_makes_room(tmp_path: Path) -> None:
    store = EngineStore(tmp_path, 5 * 5200)
    keys = [replace(HERE, version=f"10.{number}") for number in range(4)]
    for number, key in enumerate(keys):
        for path in (keep(store, key, bytes(1000)), tmp_path / f"{key.stem}.layers.json"):
            os.utime(path, (number, number))
        (tmp_path / f"{key.stem}.kernels").write_bytes(bytes(100))
        os.utime(tmp_path / f"{key.stem}.kernels", (number, number))
    assert isinstance(store.get(keys[0]), Engine)  # used just now
    keep(store, replace(HERE, version="10.9"), bytes(7000))
    kept = [number for number, key in enumerate(keys) if isinstance(store.get(key), Engine)]
    assert kept == [0, 3]
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {
        replace(HERE, version=version).stem for version in ("10.0", "10.3", "10.9")
    }


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 30_000), min_size=3, max_size=12))
def test_the_bound_is_respected(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    store = EngineStore(tmp_path_factory.mktemp("engines"), 60_000)
    for number, size in enumerate(sizes):
        key = replace(HERE, version=f"10.{number}")
        keep(store, key, bytes(size))
        assert sum(path.stat().st_size for path in store.folder.iterdir()) <= 60_000 + len("{}")
        assert isinstance(store.get(key), Engine)


def test_an_engine_larger_than_all_may_be(store: EngineStore) -> None:
    small = EngineStore(store.folder, 10_000)
    keep(small, replace(HERE, version="10.4"))
    with pytest.raises(RuntimeFailure, match=r"all engines together are limited to 0 MB.*VIDRISK_ENGINE_CACHE_GB"):
        keep(small, HERE, bytes(10_000))
    assert files_of(store) == [".engine", ".json"]


def test_the_users_engines_and_their_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path))
    monkeypatch.delenv("VIDRISK_ENGINE_CACHE_GB", raising=False)
    assert (engine_store().folder, engine_store().max_bytes) == (tmp_path / "engines", 8 * 2**30)
    monkeypatch.setenv("VIDRISK_ENGINE_CACHE_GB", "0.5")
    assert engine_store().max_bytes == 2**29
    for wrong in ("0", "-1", "many", "nan", "inf"):
        monkeypatch.setenv("VIDRISK_ENGINE_CACHE_GB", wrong)
        with pytest.raises(SettingsError, match="VIDRISK_ENGINE_CACHE_GB"):
            engine_store()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = EngineStore(tmp_path / "file" / "engines")
    assert reason(found_here(store)) == "none has been built yet"
    with pytest.raises(RuntimeFailure, match=r"cannot be stored in .*Not a directory; fix: .*that only you can write"):
        keep(store)


def test_no_room_is_seen_before_building(store: EngineStore) -> None:
    store.folder.mkdir()
    store.check_room(1)
    with pytest.raises(RuntimeFailure, match="MB are free, but it needs about"):
        store.check_room(2**62)


@pytest.fixture
def python(store: EngineStore) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts a process with the given code and the ``store`` and ``key`` of this file."""
    begin = f"""
        import logging, os, resource, sys, time
        from pathlib import Path
        from vidrisk.runtimes.tensorrt.cache import Batches, Engine, EngineKey, EngineStore, Missing
        from vidrisk.runtimes.contract.errors import RuntimeFailure
        logging.basicConfig(level="WARNING", stream=sys.stdout, format="%(message)s")
        store = EngineStore(Path({str(store.folder)!r}))
        key = EngineKey("tensorrt", "10.3.0", "Orin", ("8.7",), "12", {GRAPH!r}, Batches())
    """

    def run(code: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(begin) + textwrap.dedent(code), *arguments],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )

    return run


def test_a_full_disk_leaves_nothing_half_written(
    store: EngineStore, python: Callable[..., subprocess.Popen[str]]
) -> None:
    keep(store, replace(HERE, version="10.4"))
    process = python("""
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            with store.lock(key):
                store.add(key, bytes(100_000), "{}")
        except RuntimeFailure as error:
            print(error)
        assert isinstance(store.get(key), Missing)
    """)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error, out.count("\n")) == (0, "", 1)
    assert "File too large; fix: free some space there" in out
    assert files_of(store) == [".engine", ".json"]


def test_the_second_builder_waits_and_takes_the_firsts_engine(
    store: EngineStore, python: Callable[..., subprocess.Popen[str]]
) -> None:
    build = """
        with store.lock(key):
            if isinstance(store.get(key), Missing):
                print("builds", flush=True)
                time.sleep(0.5)
                store.add(key, sys.argv[1].encode() * 100_000, "{}")
        engine = store.get(key)
        print(bytes(engine.blob()[:1]).decode())
    """
    builders = [python(build, letter) for letter in "xyz"]
    ends = [builder.communicate(timeout=60) for builder in builders]
    assert [(builder.returncode, error) for builder, (_, error) in zip(builders, ends, strict=True)] == [(0, "")] * 3
    words = [out.split("\n") for out, _ in ends]
    assert sum("builds" in said for said in words) == 1
    assert sum("another process is building this engine; waiting for it" in said for said in words) >= 1
    assert len({said[-2] for said in words}) == 1
    assert files_of(store) == [".engine", ".json"]


def test_the_lock_of_a_killed_builder_is_free(store: EngineStore, python: Callable[..., subprocess.Popen[str]]) -> None:
    builder = python("""
        def replace(partial, target):
            print("half way", flush=True)
            time.sleep(60)
        Path.replace = replace
        with store.lock(key):
            store.add(key, bytes(1_000_000), "{}")
    """)
    assert builder.stdout is not None and builder.stdout.readline() == "half way\n"
    assert files_of(store) == [".json", ".lock", ".tmp"]
    assert isinstance(found_here(store), Missing)
    builder.send_signal(signal.SIGKILL)
    builder.communicate(timeout=60)
    begin = time.monotonic()
    keep(store, blob=b"whole")
    assert time.monotonic() - begin < 5
    engine = found_here(store)
    assert isinstance(engine, Engine) and bytes(engine.blob()) == b"whole"
    assert files_of(store) == [".engine", ".json"]


def test_many_builders_of_one_engine_are_never_two_at_once(
    store: EngineStore, python: Callable[..., subprocess.Popen[str]]
) -> None:
    """The holder removes the file of the lock: no process may get a lock on a removed file."""
    build = """
        inside = store.folder / "inside"
        for _ in range(150):
            with store.lock(key):
                inside.mkdir()  # fails where another is inside
                inside.rmdir()
    """
    builders = [python(build) for _ in range(3)]
    ends = [builder.communicate(timeout=120) for builder in builders]
    assert [(builder.returncode, error) for builder, (_, error) in zip(builders, ends, strict=True)] == [(0, "")] * 3
    assert list(store.folder.iterdir()) == []


def test_an_engine_is_mapped_and_not_copied(store: EngineStore) -> None:
    blob = np.random.default_rng(0).bytes(20_000)
    engine = store.get(HERE) if keep(store, HERE, blob) else None
    assert isinstance(engine, Engine)
    view = engine.blob()
    assert view.readonly and np.frombuffer(view, np.uint8).ctypes.data % 4096 == 0
    engine.path.unlink()  # another process makes room
    assert bytes(view) == blob
