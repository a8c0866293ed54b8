"""Tests of addresses from labelling tools: they lead only to files below the folders that a user names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import touch

from vidrisk.data.formats.addressed_files import (
    AddressedFiles,
    file_name_of,
    files_near,
    names_from_address,
    sanitize_name,
)
from vidrisk.data.formats.media_files import safe_name
from vidrisk.runtimes.contract.errors import DataError

FILES = ("a.mp4", "in/b c.mp4", "in/100%.mp4", "in/我的 (1).mp4", "cam7.mkv")


@pytest.fixture
def media(tmp_path: Path) -> AddressedFiles:
    for name in FILES:
        touch(tmp_path / name)
    return AddressedFiles(tmp_path, None, ("", "in"))


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("a.mp4", "a.mp4"),
        ("in/b c.mp4", "in/b c.mp4"),
        ("b c.mp4", "in/b c.mp4"),
        ("in/100%.mp4", "in/100%.mp4"),
        ("in/b%20c.mp4", "in/b c.mp4"),
        ("/data/local-files/?d=in/b%20c.mp4", "in/b c.mp4"),
        ("/data/local-files/?d=x/y/a.mp4", "a.mp4"),
        ("http://host:8080/data/local-files/?x=1&d=in%2Fb%20c.mp4&y=2", "in/b c.mp4"),
        ("https://host/x/a.mp4?token=b.mp4#t=1", "a.mp4"),
        ("s3://bucket/deep/in/b%20c.mp4", "in/b c.mp4"),
        ("/data/upload/3/a.mp4", "a.mp4"),
        ("C:\\clips\\a.mp4", "a.mp4"),
        ("/elsewhere/in/b c.mp4", "in/b c.mp4"),
        ("cam7.avi", "cam7.mkv"),
        ("other/a.mp4", None),
        ("../a.mp4", "a.mp4"),
        ("", None),
        ("..", None),
        ("/", None),
        ("\0a.mp4", None),
        ("x" * 10_000 + ".mp4", None),
        ("/a" * 1000 + "/a.mp4", "a.mp4"),
    ],
)
def test_an_address_is_found(media: AddressedFiles, written: str, found: str | None) -> None:
    assert media.find(written) == found


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("/data/upload/1/0a1b2c3d-a.mp4", "a.mp4"),
        ("/data/upload/1/0a1b2c3d-b_c.mp4", "in/b c.mp4"),
        ("abc123-b_c.mp4", "in/b c.mp4"),
        ("upload/1/0a1b2c3d-我的_1.mp4", "in/我的 (1).mp4"),
        ("0a1b2c3d-gone.mp4", None),
        ("in/b_c.mp4", "in/b c.mp4"),
    ],
)
def test_an_upload_that_was_renamed_is_found(media: AddressedFiles, written: str, found: str | None) -> None:
    assert media.find(written, is_renamed=True) == found
    assert media.find(written) is None


def test_an_upload_that_may_be_two_files_is_refused(media: AddressedFiles) -> None:
    for name in ("our clip 1.mp4", "our clip_1.mp4"):
        touch(media.root / name)
    assert media.find("our clip 1.mp4", is_renamed=True) == "our clip 1.mp4"
    said = r"'abcdef12-our_clip_1.mp4' may be 'our clip.1.mp4' or 'our clip.1.mp4'; fix: rename one"
    with pytest.raises(DataError, match=said):
        media.find("/data/upload/1/abcdef12-our_clip_1.mp4", is_renamed=True)
    touch(media.root / "our_clip_1.mp4")
    again = AddressedFiles(media.root, None)
    assert again.find("/data/upload/1/abcdef12-our_clip_1.mp4", is_renamed=True) == "our_clip_1.mp4"


def test_a_path_below_the_root_is_that_file_and_no_other(media: AddressedFiles) -> None:
    touch(media.root / "deep" / "a.mp4")
    assert media.find(f"{media.root}/deep/a.mp4") == "deep/a.mp4"


def test_a_folder_that_is_named_goes_first(tmp_path: Path) -> None:
    for name in ("labels/a.mp4", "clips/x/a.mp4"):
        touch(tmp_path / name)
    media = AddressedFiles(tmp_path / "labels", tmp_path / "clips" / "x")
    assert media.root == tmp_path and media.looked_in == ("clips/x", "labels")
    assert media.find("a.mp4") == "clips/x/a.mp4"
    assert AddressedFiles(tmp_path / "labels", tmp_path).find("labels/a.mp4") == "labels/a.mp4"


def test_the_folder_above_is_looked_in_where_some_files_are_only_there(tmp_path: Path) -> None:
    for name in ("set/a.mp4", "set/b.mp4", "c.mp4"):
        touch(tmp_path / name)
    beside = files_near(["a.mp4", "gone.mp4"], tmp_path / "set", None)
    assert (beside.root, beside.find("c.mp4")) == (tmp_path / "set", None)
    above = files_near(["a.mp4", "c.mp4"], tmp_path / "set", None)
    assert (above.root, above.find("a.mp4"), above.find("c.mp4")) == (tmp_path, "set/a.mp4", "c.mp4")
    assert files_near(["c.mp4"], tmp_path / "set", tmp_path / "set").find("c.mp4") is None


@given(st.text(alphabet="ab./\\:%?#=&0Ad-", max_size=40) | st.text(max_size=20))
def test_whatever_an_address_is_its_names_stay_below_the_root(written: str) -> None:
    for name in names_from_address(written, Path("/root/x")):
        assert safe_name(name) is not None
    assert "/" not in file_name_of(written)
    assert "/" not in sanitize_name(written)
