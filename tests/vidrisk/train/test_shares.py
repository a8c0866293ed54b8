from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidrisk.runtimes.contract.errors import MissingExtra, VidriskError, is_installed
from vidrisk.train.shares import ALONE, Share, close_share, is_asked, name_lost_processes, open_share

PROGRAM = Path(__file__).with_name("exchange.py")
GONE = "another process of this training has ended; fix: see its own error; then run it again with resume"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Yield a patch for the variables of a launcher; reset the environment and accelerate afterwards."""
    before = dict(os.environ)
    yield monkeypatch
    os.environ.clear()
    os.environ.update(before)
    open_share()


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the output of two processes that found each other through the variables of a launcher."""
    photos = tmp_path_factory.mktemp("exchange") / "photos"
    for number in range(20):
        (photos / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(photos / "ab"[number % 2] / f"{number}.png")
    some = photos.with_name("some")
    some.mkdir()
    for number in range(20):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(some / f"{number:02}.png")
    for number in (2, 17):  # one falls to each process
        (some / f"{number:02}.png").write_bytes(b"no photo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    program = [sys.executable, str(PROGRAM), str(photos), str(some)]
    both = [
        subprocess.Popen(
            program,
            env={**common, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        ends = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 1], ends
    return [json.loads(out) for out, _ in ends]


def test_processes_find_one_another(exchanged: list[dict[str, Any]]) -> None:
    assert [each["share"] for each in exchanged] == [[0, 2, True, "cpu"], [1, 2, False, "cpu"]]


def test_what_lies_in_several_processes_comes_together_to_the_bit(exchanged: list[dict[str, Any]]) -> None:
    for each in exchanged:
        assert len(each["joined"]) == 6 and all(each["joined"].values()), each["joined"]
        assert each["nothing"] == [0, 3]


def test_all_processes_get_the_mean_and_what_each_one_says(exchanged: list[dict[str, Any]]) -> None:
    for each in exchanged:
        assert each["means"] == [2.5, float("inf")]
        assert each["gathered"] == [{"名": [], "none": None}, {"名": ["\udc80"], "none": None}]
        assert each["empty"] == [[], ""]


def test_photos_are_decoded_by_one_process_and_judged_alike_by_all(exchanged: list[dict[str, Any]]) -> None:
    unreadable = ["02.png", "17.png"]
    # The first 16 fall to the first process and the others to the second one; numbers leave out what cannot be read.
    assert [each["photos"] for each in exchanged] == [
        [unreadable, [list(range(15))], 15],
        [unreadable, [[15, 16, 17]], 3],
    ]


def test_the_tensors_of_the_main_process_are_copied(exchanged: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    of_main = torch.randn(3).tolist()
    assert [each["copied"] for each in exchanged] == [[of_main, True, [True], [[0, 3], [1, 4], [2, 5]]]] * 2


def test_a_sample_that_is_no_number_in_one_process_is_named_by_all(exchanged: list[dict[str, Any]]) -> None:
    first, second = (each["told"] for each in exchanged)
    assert (
        first == second and "the loss of batch 2 in epoch 1 is not finite, 1 of its 3 samples: b.png; nothing" in first
    )


def test_training_whose_other_process_is_gone_says_so_in_one_line(exchanged: list[dict[str, Any]]) -> None:
    """A process reports in one line that the other process has ended.

    It does so while files are read, before there is a model.
    """
    assert exchanged[0]["alone"] == GONE


@given(st.lists(st.integers()), st.integers(1, 5))
def test_every_item_is_in_one_share(items: list[int], world: int) -> None:
    shares = [Share(rank, world).of(items) for rank in range(world)]
    assert sorted(item for share in shares for item in share) == sorted(items)
    sizes = [len(share) for share in shares]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1  # what is over goes to the first ones


def test_alone_nothing_is_exchanged() -> None:
    tensor = torch.arange(6).reshape(2, 3).t()
    assert ALONE.is_main and ALONE.of([1, 2, 3]) == [1, 2, 3]
    assert ALONE.join(tensor) is tensor and ALONE.mean(2.5) == 2.5 and ALONE.gather((1, "a")) == [(1, "a")]
    ALONE.copy_main([tensor])
    ALONE.wait()
    assert tensor.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_without_a_launcher_there_is_one_process(launched: pytest.MonkeyPatch) -> None:
    launched.setenv("ACCELERATE_USE_CPU", "true")
    assert open_share() == Share(0, 1, torch.device("cpu"))
    close_share()  # which is nothing to do


def test_a_launcher_that_does_not_say_where_the_others_are_is_one_line(launched: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}.items():
        launched.setenv(name, value)
    told = r"cannot reach one another: .*MASTER_ADDR.*; fix: check MASTER_ADDR, MASTER_PORT"
    with pytest.raises(VidriskError, match=told) as caught:
        open_share()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(is_installed("deepspeed"), reason="deepspeed is installed")
def test_deepspeed_that_is_not_installed_is_named_with_its_extra(launched: pytest.MonkeyPatch) -> None:
    launched.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(MissingExtra, match=r"deepspeed is not installed; fix: pip install 'vidrisk\[deepspeed\]'"):
        open_share()


@pytest.mark.parametrize(
    ("said", "is_so"), [(None, False), ("false", False), ("0", False), ("true", True), ("1", True), ("Yes", True)]
)
def test_what_the_launcher_was_told_is_read_as_accelerate_writes_it(
    said: str | None, is_so: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    if said is not None:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", said)
    assert is_asked("FSDP") == is_so


@pytest.mark.parametrize(
    "error", [RuntimeError("shape '[2]' is invalid"), dist.DistError("Connection closed by peer"), ValueError("gloo")]
)
def test_errors_of_one_process_alone_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, name_lost_processes():
        raise error
    assert caught.value is error
