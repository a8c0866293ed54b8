from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_media import write_photo

from vidrisk.infer.sources import find_inputs
from vidrisk.runtimes.errors import DataError


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
        "b.png", "a.png", "cam1/x.png", "cam2/deep/y.png"]


def test_globs(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(tree, f"{tree}/cam*/**/*.png") == ["cam1/x.png", "cam2/deep/y.png"]
    monkeypatch.chdir(tree)
    assert names(tree, "cam?") == ["cam1/x.png", "cam2/deep/y.png"]
    assert names(tree, "*") == ["a.png", "b.png", "cam1/x.png", "cam2/deep/y.png"]


def test_a_name_that_looks_like_a_glob_is_taken_literally(tree: Path) -> None:
    write_photo(tree / "a[1].png")
    assert names(tree, tree / "a[1].png") == ["a[1].png"]


def test_named_files_become_inputs_whatever_they_are(tree: Path) -> None:
    assert names(tree, tree / "notes.txt", tree / "missing.mp4", tree / "a.png") == ["notes.txt", "missing.mp4", "a.png"]
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_an_input(tree: Path) -> None:
    (tree / "cam1").chmod(0)
    try:
        assert "cam1" in names(tree, tree)
    finally:
        (tree / "cam1").chmod(0o755)
