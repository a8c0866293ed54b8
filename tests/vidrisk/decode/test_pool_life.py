"""Tests of the life of a pool: calls of several threads and models share its workers, and none ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import faulty_decoder
import pytest
from colour import ACTION
from processes import children
from small_media import RGB, write_photo, write_video

from vidrisk.decode import owner
from vidrisk.decode.messages import Input, InputEnd, Read, ReadSettings, ThumbnailInput, ThumbnailSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.decode.session import CacheFolder, Limits
from vidrisk.decode.supervised import Worker
from vidrisk.frames import Frame
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

SETTINGS = ReadSettings(ACTION.pixel, ACTION.time, slots=8)
EVERY_FRAME = ReadSettings(ACTION.pixel, TimeSpec(30, 1.0), slots=4)


def states(reads: Iterator[Read]) -> list[str]:
    return [read.item.state for read in reads if isinstance(read.item, InputEnd)]


def wait_until(holds: object, limit_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, "it never came to be"
        time.sleep(0.02)


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    before = children()
    with DecodePool(2) as opened:
        yield opened
    assert children() <= before


@pytest.fixture
def photos(tmp_path: Path) -> list[Input]:
    return [
        Input(number, write_photo(tmp_path / f"{number}.png", colour))
        for number, colour in enumerate(["red", "blue"] * 3)
    ]


@pytest.fixture
def long(tmp_path: Path) -> Input:
    return Input(99, write_video(tmp_path / "long.mp4", ("red", "green") * 15, fps=30))


def test_workers_outlive_calls_and_threads(pool: DecodePool, photos: list[Input]) -> None:
    assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6
    workers = children()
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(lambda: states(pool.read(photos, SETTINGS))).result() == ["ok"] * 6
    time.sleep(0.3)  # Linux would end them with the thread that started them
    assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6 and workers <= children()


def test_workers_that_a_thread_was_the_first_to_want_stay(photos: list[Input]) -> None:
    with DecodePool(1) as pool:
        thread = threading.Thread(target=lambda: states(pool.read(photos[:1], SETTINGS)))
        thread.start()
        thread.join()
        workers = children()
        assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6 and workers <= children()


def test_calls_have_settings_of_their_own(pool: DecodePool, photos: list[Input]) -> None:
    """Threads read the same files at the same time for models of different sizes and for thumbnails."""

    def pixels(side: int) -> list[tuple[tuple[int, ...], list[int]]]:
        settings = ReadSettings(PixelSpec(side, side), None, slots=2)
        return [
            (read.item.pixels.shape, read.item.pixels[side // 2, side // 2].tolist())
            for read in sorted_by_input(pool.read(photos, settings))
            if isinstance(read.item, Frame)
        ]

    def sorted_by_input(reads: Iterator[Read]) -> list[Read]:
        copied = [
            Read(read.input, Frame(0, 0.0, read.item.pixels.copy())) for read in reads if isinstance(read.item, Frame)
        ]
        return sorted(copied, key=lambda read: read.id)

    requests = [ThumbnailInput(0, photo.path, (0.0,), 5000) for photo in photos]
    with ThreadPoolExecutor(8) as threads:
        sides = [32, 500, 64, 8] * 4
        thumbnails = threads.submit(pool.thumbnails, requests, ThumbnailSettings())
        for side, found in zip(sides, threads.map(pixels, sides), strict=True):
            assert found == [((side, side, 3), list(RGB[colour])) for colour in ["red", "blue"] * 3]
        assert [len(found) for found in thumbnails.result()] == [1] * 6


def test_a_call_that_is_given_up_leaves_the_pool_as_it_was(pool: DecodePool, photos: list[Input], long: Input) -> None:
    for _ in range(3):
        reads = pool.read([long, *photos], EVERY_FRAME)
        next(reads)
        reads.close()
        assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6
    assert len(children()) >= 1


def test_ctrl_c_leaves_the_pool_as_it_was(
    pool: DecodePool, photos: list[Input], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool stays usable after Ctrl+C even while a decoder hangs; the hanging worker is ended."""
    faulty_decoder.install(tmp_path, monkeypatch)
    monkeypatch.setattr(owner, "DROP_S", 0.3)
    hanging = Input(7, write_photo(tmp_path / "hang.png"))
    assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        list(pool.read([hanging], SETTINGS))
    assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6


def test_a_caller_that_pauses_holds_nobody_up(photos: list[Input], long: Input) -> None:
    """A paused call does not delay other calls, even with one worker.

    An example is ``for prediction in model.stream(…): model.predict(…)``.
    """
    with DecodePool(1) as pool:
        paused = pool.read([long, *photos], EVERY_FRAME)
        next(paused)
        for _ in range(2):
            assert states(pool.read(photos[:2], SETTINGS)) == ["ok"] * 2
        assert "ok" in states(paused)
        wait_until(lambda: len(children()) == 1)  # the one more that was started is not kept


def test_a_busy_worker_does_not_keep_others_waiting(photos: list[Input], long: Input) -> None:
    """A call for one photo ends while another call still reads long videos, even with one worker."""
    with DecodePool(1) as pool:
        done: list[str] = []

        def read_long() -> None:
            for read in pool.read([Input(number, long.path) for number in range(2)], EVERY_FRAME):
                if isinstance(read.item, Frame):
                    time.sleep(0.003)
            done.append("long")

        thread = threading.Thread(target=read_long)
        thread.start()
        time.sleep(1.0)
        assert states(pool.read(photos[:1], SETTINGS)) == ["ok"]
        done.append("photo")
        thread.join()
    assert done == ["photo", "long"]


def test_a_file_that_costs_its_worker_costs_no_other_call(
    pool: DecodePool, photos: list[Input], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    bad = [Input(7, write_photo(tmp_path / "exit.png")), Input(8, write_photo(tmp_path / "segfault.png"))]
    with ThreadPoolExecutor(2) as threads:
        faulty = threads.submit(lambda: states(pool.read(bad, SETTINGS)))
        assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6
        assert faulty.result() == ["crashed"] * 2


def test_a_worker_that_is_killed_while_nobody_reads_is_replaced(pool: DecodePool, photos: list[Input]) -> None:
    assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6
    for worker in children():
        os.kill(worker, signal.SIGKILL)
    assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6


def test_a_worker_that_reads_nothing_costs_one_file(
    photos: list[Input], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that reads no messages loses its file only.

    It sends frames as they are taken, so its caller reports free slots to it until these messages fill its
    socket.
    """
    faulty_decoder.install(tmp_path, monkeypatch)
    deaf = Input(7, write_photo(tmp_path / "deaf.png"))
    settings = ReadSettings(ACTION.pixel, TimeSpec(4, 1.0), slots=4)
    with DecodePool(1) as pool, ThreadPoolExecutor(1) as thread:
        faulty = thread.submit(
            lambda: [
                read.item
                for read in pool.read([deaf], settings, limits=Limits(20.0, retries=False))
                if isinstance(read.item, InputEnd)
            ]
        )
        (end,) = faulty.result(30.0)
        assert end.state == "partial" and end.reason.startswith(
            "the decode process does not read its messages; read up to"
        )
        assert thread.submit(lambda: states(pool.read(photos, SETTINGS))).result(30.0) == ["ok"] * 6


def test_what_decoders_print_fills_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty_decoder.install(tmp_path, monkeypatch)
    with DecodePool(1) as pool:
        before = children()
        chatty = [Input(number, write_photo(tmp_path / f"chatty{number}.png")) for number in range(4)]
        assert states(pool.read(chatty, SETTINGS)) == ["ok"] * 4
        (worker,) = children() - before
        assert Path(f"/proc/{worker}/fd/2").readlink().name.startswith("pipe:")  # which holds 64 KiB, and no file grows


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[CacheFolder | None]:
    """Return the list of the caches of the workers that are started."""
    started: list[CacheFolder | None] = []

    class Counted(Worker):
        def __init__(self, cache: CacheFolder | None) -> None:
            started.append(cache)
            super().__init__(cache)

    monkeypatch.setattr(owner, "Worker", Counted)
    return started


def test_repeated_calls_for_many_inputs_start_no_other_worker(
    photos: list[Input], starts: list[CacheFolder | None]
) -> None:
    many = [Input(number, photos[number % 6].path) for number in range(20)]
    with DecodePool(1) as pool:
        for _ in range(5):
            assert states(pool.read(many, SETTINGS)) == ["ok"] * 20
            time.sleep(0.3)  # longer than a session is patient
        assert len(starts) == 1


def test_calls_with_a_feature_cache_and_without_share_workers(
    photos: list[Input], tmp_path: Path, starts: list[CacheFolder | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", os.fspath(tmp_path / "cache"))
    with DecodePool(1) as pool:
        for _ in range(3):
            for settings in (SETTINGS, replace(SETTINGS, cache_salt="salt", features=3)):
                assert states(pool.read(photos, settings)) == ["ok"] * 6
    assert len(starts) <= 2 and starts[-1] is not None


def test_workers_that_have_had_nothing_to_do_for_long_end_but_for_one(
    photos: list[Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "IDLE_S", 0.3)
    before = children()
    with DecodePool(2) as pool:
        pool.warm_up(2)
        wait_until(lambda: len(children() - before) == 2)
        wait_until(lambda: len(children() - before) == 1)
        (worker,) = children() - before
        time.sleep(0.6)
        assert children() - before == {worker} and states(pool.read(photos, SETTINGS)) == ["ok"] * 6


def test_idle_workers_cost_nothing(pool: DecodePool, photos: list[Input]) -> None:
    def processor_s() -> float:
        fields = [Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split() for pid in children()]
        return (
            sum(sum(map(int, of_worker[11:13])) for of_worker in fields) / os.sysconf("SC_CLK_TCK")
            + time.process_time()
        )

    assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6
    time.sleep(0.5)
    before_s = processor_s()
    time.sleep(1.0)
    assert processor_s() - before_s <= 0.02


def test_a_closed_pool_says_so(photos: list[Input]) -> None:
    pool = DecodePool(1)
    reads = pool.read(
        photos, ReadSettings(ACTION.pixel, ACTION.time, slots=2)
    )  # fewer than photos: it cannot be done before
    next(reads)
    pool.close()
    pool.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        list(reads)
    with pytest.raises(RuntimeFailure, match="closed"):
        list(pool.read(photos, SETTINGS))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_is_refused_and_harms_nobody(pool: DecodePool, photos: list[Input]) -> None:
    assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6
    child = os.fork()
    if not child:
        code = 1
        try:
            list(pool.read(photos, SETTINGS))
        except RuntimeFailure as error:
            code = 0 if "forked" in str(error) else 2
        pool.close()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert states(pool.read(photos, SETTINGS)) == ["ok"] * 6


def test_workers_end_with_a_process_that_is_killed(photos: list[Input]) -> None:
    code = f"""
import os, time
from vidrisk.decode.messages import Input, ReadSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.runtimes.contract.specs import PixelSpec
pool = DecodePool(1)
list(pool.read([Input(0, {photos[0].path!r})], ReadSettings(PixelSpec(8, 8), None)))
print(open(f"/proc/self/task/{{pool._owner._thread.native_id}}/children").read(), flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        (worker,) = map(int, process.stdout.readline().split())
        process.kill()
    wait_until(lambda: not Path(f"/proc/{worker}/cmdline").exists() or not Path(f"/proc/{worker}/cmdline").read_bytes())


def test_a_program_that_forgets_to_close_ends_all_the_same(photos: list[Input]) -> None:
    code = f"""
from vidrisk.decode.messages import Input, ReadSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.runtimes.contract.specs import PixelSpec
pool = DecodePool(1)
next(pool.read([Input(0, {photos[0].path!r})], ReadSettings(PixelSpec(8, 8), None)))
"""
    end = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (end.returncode, end.stderr) == (0, "")
