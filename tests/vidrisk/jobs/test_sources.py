from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_media import write_photo, write_video

from vidrisk.decode.messages import InputEnd, ReadSettings
from vidrisk.decode.read_input import read_input
from vidrisk.jobs.sources import find_inputs
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.specs import PixelSpec


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.png", "cam1/x.png", "cam2/deep/y.png", ".hidden.png", ".git/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_photo(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a photo")
    return tmp_path


def names(tree: Path, *arguments: str | Path) -> list[str]:
    return [os.path.relpath(path, tree) for path in find_inputs(arguments).paths]


def test_a_folder_is_read_in_order_without_hidden_names(tree: Path) -> None:
    assert names(tree, tree) == ["a.png", "b.png", "cam1/x.png", "cam2/deep/y.png"]
    assert find_inputs([tree]).other_files == 1


def test_every_input_comes_once_and_arguments_keep_their_order(tree: Path) -> None:
    assert names(tree, tree / "b.png", tree / "cam1" / ".." / "b.png", tree) == [
        "b.png",
        "a.png",
        "cam1/x.png",
        "cam2/deep/y.png",
    ]


def test_globs(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(tree, f"{tree}/cam*/**/*.png") == ["cam1/x.png", "cam2/deep/y.png"]
    monkeypatch.chdir(tree)
    assert names(tree, "cam?") == ["cam1/x.png", "cam2/deep/y.png"]
    assert names(tree, "*") == ["a.png", "b.png", "cam1/x.png", "cam2/deep/y.png"]


def test_a_glob_that_matches_nothing_is_named(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert names(tree, tree / "b.png", f"{tree}/cam9/*.png", f"{tree}/*.png", f"{tree}/cam*") == [
        "b.png",
        "a.png",
        "cam1/x.png",
        "cam2/deep/y.png",
    ]
    assert [record.getMessage() for record in caplog.records] == [f"{tree}/cam9/*.png matches nothing"]


def test_a_name_that_looks_like_a_glob_is_taken_literally(tree: Path) -> None:
    write_photo(tree / "a[1].png")
    assert names(tree, tree / "a[1].png") == ["a[1].png"]


def test_named_files_become_inputs_whatever_they_are(tree: Path) -> None:
    assert names(tree, tree / "notes.txt", tree / "missing.mp4", tree / "a.png") == [
        "notes.txt",
        "missing.mp4",
        "a.png",
    ]
    assert find_inputs([tree, tree / "notes.txt"]).other_files == 0


def test_links_that_form_a_loop(tree: Path) -> None:
    (tree / "cam1" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "cam2" / "twin").symlink_to(tree / "cam1", target_is_directory=True)
    assert sorted(Path(name).name for name in names(tree, tree)) == ["a.png", "b.png", "x.png", "y.png"]


def test_links_to_folders_are_followed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "link").symlink_to(tree / "cam1", target_is_directory=True)
    assert names(elsewhere, elsewhere) == ["link/x.png"]


def test_odd_names(tmp_path: Path) -> None:
    odd = ["with space.png", "quote'\".png", "裂缝.png", "🔥.png", "new\nline.png", os.fsdecode(b"\xff\xfe.png")]
    for name in odd:
        write_photo(tmp_path / name)
    assert sorted(names(tmp_path, tmp_path)) == sorted(odd)


@pytest.mark.parametrize("argument", ["", "missing.mp4", "no*match.mp4"])
def test_nothing_found_is_one_line(tmp_path: Path, argument: str) -> None:
    with pytest.raises(DataError, match="no clip or photo found") as caught:
        find_inputs([tmp_path / argument])
    assert "\n" not in str(caught.value)


def reasons(*paths: str | Path) -> dict[str, str]:
    """Return the reasons by file name for the inputs that a decode worker skips."""
    settings = ReadSettings(PixelSpec(height=8, width=8), None, slots=1)
    ends = [(path, list(read_input(os.fspath(path), settings, None))[-1]) for path in paths]
    return {Path(path).name: end.reason for path, end in ends if isinstance(end, InputEnd) and end.state == "skipped"}


def test_what_cannot_be_entered_is_an_input_with_its_reason(folder_of_nobody: Path) -> None:
    for name in ("cam1", "cam2", "far"):
        (folder_of_nobody / name).mkdir()
        write_photo(folder_of_nobody / name / "a.png")
    (folder_of_nobody / "cam2" / "link").symlink_to(folder_of_nobody / "far" / "deep")
    (folder_of_nobody / "cam1").chmod(0)
    (folder_of_nobody / "far").chmod(0)
    found = find_inputs([folder_of_nobody]).paths
    assert [os.path.relpath(path, folder_of_nobody) for path in found] == ["cam1", "cam2/a.png", "cam2/link", "far"]
    assert reasons(*found) == {
        "cam1": "Permission denied",
        "far": "Permission denied",
        "link": "may not be read; fix: grant read permission",
    }


def test_a_link_to_itself_costs_one_entry(tree: Path) -> None:
    (tree / "self.png").symlink_to("self.png")
    assert names(tree, tree) == ["a.png", "b.png", "self.png", "cam1/x.png", "cam2/deep/y.png"]
    assert reasons(tree / "self.png") == {"self.png": "cannot be opened: Too many levels of symbolic links"}


def test_ten_thousand_levels_cost_one_entry(tree: Path, deep_folder: Path) -> None:
    (tree / "deep").symlink_to(deep_folder)
    *found, last = sorted(find_inputs([tree]).paths, key=len)
    assert len(found) == 4 and reasons(last) == {"d": "cannot be opened: File name too long"}
    assert set(find_inputs([f"{tree}/**/*.png"]).paths) == {*found, last}


def test_pipes_and_devices_are_inputs_only_under_a_media_suffix(tree: Path) -> None:
    os.mkfifo(tree / "pipe.png")
    os.mkfifo(tree / "pipe")
    (tree / "zero").symlink_to("/dev/zero")
    assert names(tree, tree)[:3] == ["a.png", "b.png", "pipe.png"]
    assert find_inputs([tree]).other_files == 3 and reasons(tree / "pipe.png") == {"pipe.png": "is not a file"}


def test_what_a_nas_makes_is_left_out_but_for_what_is_named(tree: Path) -> None:
    for name in (
        "@eaDir/a.png/SYNOFILE_THUMB_M.png",
        "cam1/#Recycle/old.png",
        "$RECYCLE.BIN/S-1/x.png",
        "cam1/._x.png",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        write_photo(tree / name)
    expected = ["a.png", "b.png", "cam1/x.png", "cam2/deep/y.png"]
    assert names(tree, tree) == names(tree, f"{tree}/*") == expected
    assert sorted(names(tree, f"{tree}/**/*.png")) == expected
    assert "3 made by a NAS, a desktop system or a camera ($RECYCLE.BIN, @eaDir, #Recycle)" in str(
        find_inputs([tree]).left_out
    )
    assert names(tree, tree / "cam1" / "#Recycle") == ["cam1/#Recycle/old.png"]
    assert names(tree, tree / "cam1" / "#Recycle" / "*.png") == ["cam1/#Recycle/old.png"]


def test_files_of_unknown_suffixes_are_inputs_where_their_content_is_known(tree: Path) -> None:
    for name, made in {
        "photo.jfif": write_photo,
        "IMG_1": write_photo,
        "clip.m2ts": write_video,
        "GX01.360": write_video,
    }.items():
        made(tree / "made.mp4")
        (tree / "made.mp4").rename(tree / name)
    (tree / "plan.pdf").write_bytes(b"%PDF-1.7")
    assert names(tree, tree)[:6] == ["GX01.360", "IMG_1", "a.png", "b.png", "clip.m2ts", "photo.jfif"]
    assert str(find_inputs([tree]).left_out) == "2 files that are neither clips nor photos (notes.txt, plan.pdf)"


def test_nothing_found_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "channel.dav").write_bytes(b"DHAV")
    with pytest.raises(DataError, match=r"left out: 1 file that is neither a clip nor a photo \(channel\.dav\)"):
        find_inputs([tmp_path])
