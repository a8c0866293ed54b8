"""Tests of the reader on the broken inputs that the tests of whole runs use."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_media import ACCEPTABLE_STATES, WITHOUT_ROW, broken_files
from small_media import write_video

from vidrisk.frames import read_clips
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("media")
    return broken_files(folder / "broken", Path(write_video(folder / "good.mp4", ("red", "blue") * 4)))


def state_of(path: Path, time: TimeSpec | None) -> str:
    try:
        return "partial" if [clip for clip in read_clips(path, PixelSpec(32, 32), time) if clip.damage] else "ok"
    except UnreadableError as error:
        assert "\n" not in str(error)
        return error.state


@pytest.mark.parametrize("time", [None, TimeSpec(4), TimeSpec(2, 0.5, 0.25)], ids=["frame", "clip", "windows"])
@pytest.mark.parametrize("name", ACCEPTABLE_STATES)
def test_every_kind_ends_in_an_acceptable_state(broken: dict[str, Path], name: str, time: TimeSpec | None) -> None:
    assert state_of(broken[name], time) in ACCEPTABLE_STATES[name]


def test_there_are_ten(broken: dict[str, Path]) -> None:
    assert len(broken) == 10 and broken.keys() == ACCEPTABLE_STATES.keys() > WITHOUT_ROW
    assert {path.name for path in broken["cut.avi"].parent.iterdir()} == broken.keys()
