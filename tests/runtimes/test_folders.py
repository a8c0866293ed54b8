"""Tests of cache folders: new ones are private, and files that another user may have written are not used."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vidrisk.files.cache import ArrayCache
from vidrisk.runtimes import Bundle, choose
from vidrisk.runtimes.folders import (
    UntrustedError,
    cache_folder,
    create_private,
    make_private_folder,
    open_private,
    write_private,
)
from vidrisk.runtimes.ort import _engine_cache_options


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    before = os.umask(0)  # the most careless one
    yield tmp_path / "cache"
    os.umask(before)


def test_what_is_made_is_for_this_user_alone(cache: Path) -> None:
    make_private_folder(cache / "a" / "b")
    with create_private(cache / "a" / "b" / "file") as file:
        file.write(b"content")
    with open_private(cache / "a" / "b" / "file") as opened:
        assert opened.read() == b"content"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (cache, *cache.rglob("*"))}
    assert modes == {"cache": 0o700, "a": 0o700, "b": 0o700, "file": 0o600}


def test_nothing_is_written_through_a_link(cache: Path, tmp_path: Path) -> None:
    make_private_folder(cache)
    (tmp_path / "precious").write_bytes(b"precious")
    (cache / "file").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError):
        create_private(cache / "file")
    with pytest.raises(UntrustedError, match="is a link"):
        open_private(cache / "file")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_file_is_written_whole_or_not_at_all(cache: Path) -> None:
    make_private_folder(cache)
    path = cache / "file.json"
    with write_private(path) as file:
        file.write(b"before")
    with pytest.raises(KeyboardInterrupt), write_private(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before" and list(cache.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_fifo_blocks_nobody(cache: Path) -> None:
    make_private_folder(cache)
    os.mkfifo(cache / "file", 0o600)
    with pytest.raises(UntrustedError, match="is not a regular file"):
        open_private(cache / "file")


def test_a_choice_that_others_may_write_is_measured_again(
    cache: Path, make_bundle: Callable[..., Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle()
    choose(bundle)
    (file,) = (cache / "choices").iterdir()
    planted = json.dumps(json.loads(file.read_text()) | {"ms_per_frame": 1e9})
    file.write_text(planted)
    assert choose(bundle).ms_per_frame == 1e9  # believed: it is ours
    file.chmod(0o666)
    assert choose(bundle).ms_per_frame != 1e9 and stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(planted)
    (cache / "choices").chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert choose(bundle).ms_per_frame != 1e9
    assert file.read_text() == planted, "nothing is kept there either"
    assert "choices may be written by others (mode 0777): it is not used as a cache; chmod go-w" in caplog.text


def test_onnx_runtimes_own_engines_are_kept_in_a_private_folder_only(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = cache / "onnxruntime-tensorrt"
    assert _engine_cache_options(folder)["trt_engine_cache_path"] == str(folder)
    (folder / "a.engine").write_bytes(b"")
    (folder / "a.engine").chmod(0o666)
    assert _engine_cache_options(folder) == {} and "a.engine may be written by others" in caplog.text
    (folder / "a.engine").chmod(0o600)
    assert _engine_cache_options(folder)
    folder.chmod(0o770)
    assert _engine_cache_options(folder) == {}


def test_the_cache_without_a_home_and_with_a_relative_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VIDRISK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/folder")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/vidrisk")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / f"vidrisk-{os.getuid()}"
    make_private_folder(cache_folder())
    cache_folder().chmod(0o777)
    with pytest.raises(UntrustedError, match="may be written by others"):
        make_private_folder(cache_folder())


@pytest.fixture
def homeless(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache of a user without a home: a folder for temporary files, where another user may come first."""
    monkeypatch.delenv("VIDRISK_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"vidrisk-{os.getuid()}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a folder that is somebody else's")
@pytest.mark.parametrize("planted", ["folder", "link to a folder", "link to nothing"])
def test_what_somebody_else_planted_for_a_user_without_a_home(planted: str, homeless: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    if planted != "link to nothing":
        theirs.mkdir(mode=0o755)
        (theirs / "arrays").mkdir(mode=0o755)
    if planted == "folder":
        theirs.rename(homeless)
    else:
        homeless.symlink_to(theirs)
    os.chown(homeless, 12345, 12345, follow_symlinks=False)
    assert not ArrayCache(cache_folder() / "arrays", 1 << 20).ensure_folder()
    for folder in ("new", "arrays/new"):
        with pytest.raises(OSError):
            make_private_folder(cache_folder() / folder)
    assert not list(tmp_path.rglob("new")), "nothing was made below it"


def test_nothing_is_made_in_a_folder_that_others_may_write(cache: Path) -> None:
    make_private_folder(cache)
    cache.chmod(0o777)
    with pytest.raises(UntrustedError, match="may be written by others"):
        make_private_folder(cache / "a" / "b")
    assert not list(cache.iterdir())
