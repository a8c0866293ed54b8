from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vidrisk.jobs.folder import replace_file
from vidrisk.runtimes.contract.errors import DataError, VidriskError

ROOT = Path(__file__).parents[3]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    for text in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with replace_file(path) as new:
            new.write_text(text)
            assert (path.read_text() if path.exists() else None) == before and new.parent == tmp_path
        assert path.read_text() == text and names(tmp_path) == ["page.html"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("a line is no JSON")])
def test_what_goes_wrong_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "page.html").write_text("first")
    with pytest.raises(type(error)), replace_file(tmp_path / "page.html") as new:
        new.write_text("half")
        raise error
    assert (tmp_path / "page.html").read_text() == "first" and names(tmp_path) == ["page.html"]


def test_what_the_disk_says_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(VidriskError, match=r"cannot write to .*: No space left on device; fix: make room"),
        replace_file(tmp_path / "page.html") as new,
    ):
        new.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not names(tmp_path)
    with (
        pytest.raises(VidriskError, match=r"cannot write to .*nowhere: No such"),
        replace_file(tmp_path / "nowhere" / "p") as new,
    ):
        new.touch()


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from vidrisk.jobs.folder import replace_file\n"
        f"with replace_file(Path({str(tmp_path)!r}) / 'page.html') as new:\n"
        "    new.write_text('half of it')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    end = subprocess.run(
        [sys.executable, "-c", code],
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert end.returncode == -signal.SIGKILL and names(tmp_path) != ["page.html"]
    with replace_file(tmp_path / "page.html") as new:
        new.write_text("all")
    assert (tmp_path / "page.html").read_text() == "all" and names(tmp_path) == ["page.html"]
