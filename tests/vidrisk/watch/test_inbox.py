from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_media import write_photo

from vidrisk.files.stamps import stamp_of
from vidrisk.files.system_files import UNFINISHED_SUFFIXES
from vidrisk.watch.inbox import LeftInInbox, Settling, files_in, is_ignored, is_still

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


def test_what_is_no_file_is_left_and_said_once(
    tmp_path: Path, deep_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, left = tmp_path / "inbox", LeftInInbox()
    inbox.mkdir()
    for name, target in {"null.png": "/dev/null", "self": "self", "nowhere.png": "gone", "deep": deep_folder}.items():
        (inbox / name).symlink_to(target)
    os.mkfifo(inbox / "pipe.mp4")
    write_photo(inbox / "a.png")
    for _ in range(3):
        assert [Path(path).name for path in files_in(inbox, left)] == ["a.png"]
    said = [record.getMessage().removeprefix(f"left in the inbox: {inbox}/") for record in caplog.records]
    assert [line for line in said if not line.startswith("deep")] == [
        "nowhere.png is a broken link: No such file or directory",
        "null.png is not a file",
        "pipe.mp4 is not a file",
        "self cannot be accessed: Too many levels of symbolic links",
    ]
    (deep,) = (line for line in said if "File name too long" in line)
    assert "…" in deep and len(deep) < 320


def test_folders_that_may_not_be_entered_are_said_and_the_others_read(
    folder_of_nobody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        (folder_of_nobody / name).mkdir()
        (folder_of_nobody / name / "c.png").touch()
    (folder_of_nobody / "a").chmod(0)
    assert names(folder_of_nobody) == ["b/c.png"] and "/a cannot be accessed: Permission denied" in caplog.text
    (folder_of_nobody / "a").chmod(0o700)
    folder_of_nobody.chmod(0)
    try:
        with pytest.raises(PermissionError):
            files_in(folder_of_nobody)
    finally:
        folder_of_nobody.chmod(0o700)


def test_files_of_unknown_suffixes_are_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "@eaDir").mkdir()
    for name in ("IMG_1", "@eaDir/b.png"):
        write_photo(tmp_path / name)
    for name in ("cam.odd", "cam2.odd"):
        (tmp_path / name).write_text("settings")
    left, opened, real = LeftInInbox(), [], os.open
    monkeypatch.setattr(
        os, "open", lambda path, *args, **options: opened.append(Path(path).name) or real(path, *args, **options)
    )
    for _ in range(3):
        assert [Path(path).name for path in files_in(tmp_path, left)] == ["IMG_1"]
    assert opened == ["IMG_1", "cam.odd", "cam2.odd"]
    assert [record.getMessage() for record in caplog.records] == [
        f"left in the inbox: {tmp_path}/cam.odd is neither a clip nor a photo (further .odd files are not reported)"
    ]
    write_photo(tmp_path / "cam.odd")  # now it is one
    assert [Path(path).name for path in files_in(tmp_path, left)] == ["IMG_1", "cam.odd"]


def test_odd_bytes_in_names(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.png")).touch()
    ((path, info),) = files_in(tmp_path).items()
    assert os.fsencode(path).endswith(b"a\xff.png") and is_still(path, stamp_of(info))


def test_an_inbox_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files_in(tmp_path / "nowhere")


@given(
    st.text(min_size=1)
    | st.sampled_from(["a.mp4.PART", "a.tmp", "a.mp4.filepart", "a.mp4.crdownload", ".part", "a.part.mp4"])
)
def test_what_is_ignored(name: str) -> None:
    assert is_ignored(name) == (name[0] == "." or Path(name.lower()).suffix in UNFINISHED_SUFFIXES)


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
