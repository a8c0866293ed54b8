from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_media import write_photo

from vidrisk.infer.sources import stamp_of
from vidrisk.watch.inbox import Settling, files_in, is_ignored, is_still

SETTLE_S = 0.3


def names(inbox: Path) -> list[str]:
    return [os.path.relpath(path, inbox) for path in files_in(inbox)]


def complete(settling: Settling, inbox: Path, now_s: float) -> list[str]:
    return [os.path.relpath(path, inbox) for path in settling.complete(files_in(inbox), now_s)]


def test_clips_and_photos_are_found_and_what_is_being_made_is_not(tmp_path: Path) -> None:
    (tmp_path / "cam 2" / "夜").mkdir(parents=True)
    for folder in (".incoming", "cam3.tmp", "upload.PART"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    wanted = ["b.mp4", "cam 2/a.PNG", "cam 2/夜/c.jpg"]
    for name in [*wanted, ".hidden.mp4", "d.mp4.part", "e.mp4.TMP", ".e.mp4.Xy12", "notes.txt", "cam 2/.f.png"]:
        (tmp_path / name).touch()
    assert names(tmp_path) == wanted


def test_links_lead_to_folders_once_and_broken_ones_nowhere(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.png").touch()
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "cam").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(inbox)
    (inbox / "broken.png").symlink_to(tmp_path / "nowhere.png")
    assert names(inbox) == ["cam/a.png"]


def test_odd_bytes_in_names(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.png")).touch()
    ((path, info),) = files_in(tmp_path).items()
    assert os.fsencode(path).endswith(b"a\xff.png") and is_still(path, stamp_of(info))


def test_an_inbox_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files_in(tmp_path / "nowhere")


@given(st.text(min_size=1))
def test_what_is_ignored(name: str) -> None:
    assert is_ignored(name) == (name[0] == "." or name.lower()[-5:] == ".part" or name.lower()[-4:] == ".tmp")


def test_a_file_that_grows_is_not_complete_until_it_has_rested(tmp_path: Path) -> None:
    settling, path = Settling(SETTLE_S), tmp_path / "a.mp4"
    for number in range(5):  # the clock goes on, and so does whoever writes
        with path.open("ab") as file:
            file.write(b"x")
        assert complete(settling, tmp_path, now_s=number * 0.9 * SETTLE_S) == []
    last_s = 4 * 0.9 * SETTLE_S
    assert complete(settling, tmp_path, last_s + 0.99 * SETTLE_S) == []
    assert complete(settling, tmp_path, last_s + SETTLE_S) == ["a.mp4"]
    path.write_bytes(b"others")  # another file of the same name begins anew
    assert complete(settling, tmp_path, last_s + 2 * SETTLE_S) == []


def test_a_file_that_was_renamed_when_it_was_ready_is_complete_at_once(tmp_path: Path) -> None:
    written = tmp_path / "a.mp4.part"
    written.write_bytes(b"all of it")
    time.sleep(SETTLE_S + 0.05)
    written.rename(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"perhaps")
    assert complete(Settling(SETTLE_S), tmp_path, now_s=0.0) == ["a.mp4"]


def test_a_copy_that_keeps_its_date_is_complete_at_once_and_one_from_the_future_is_not(tmp_path: Path) -> None:
    old, inbox = tmp_path / "old.png", tmp_path / "inbox"
    inbox.mkdir()
    write_photo(old)
    os.utime(old, (1e9, 1e9))
    shutil.copy2(old, inbox / "old.png")
    write_photo(inbox / "future.png")
    os.utime(inbox / "future.png", (4e9, 4e9))
    settling = Settling(SETTLE_S)
    assert complete(settling, inbox, now_s=0.0) == ["old.png"]
    assert complete(settling, inbox, now_s=SETTLE_S) == ["future.png", "old.png"]


def test_is_still_asks_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    stamp = stamp_of(path.stat())
    assert is_still(str(path), stamp)
    path.write_bytes(b"12")
    assert not is_still(str(path), stamp)
    path.unlink()
    assert is_still(str(path), stamp)  # the ledger will say that it is not there
    os.mkfifo(path)  # nobody writes to it: opening it must not wait
    assert not is_still(str(path), stamp)
