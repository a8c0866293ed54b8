from __future__ import annotations

import glob
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.files.walk import Omitted
from vidrisk.jobs.globs import expand_glob, matches

names = st.sampled_from(["a", "b", "ab", "a.png", "b.png", "cam1", "cam2"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
patterns = st.lists(st.sampled_from(["**", "*", "a", "?", "*.png", "[ab]*", "cam?"]), min_size=1, max_size=4).map(
    "/".join
)


def files_of(matched: list[str]) -> set[str]:
    """Return the matched files and the files in matched folders.

    Python's glob treats a file as a folder in ``file/**``.
    """
    return {os.path.join(top, name) for path in matched for top, _, found in os.walk(path) for name in found} | {  # noqa: PTH118
        path for path in matched if Path(path).is_file()
    }


@settings(max_examples=200, deadline=None)
@given(st.sets(paths, max_size=8), patterns)
def test_any_pattern_matches_what_pythons_glob_matches(tree: set[str], pattern: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in map(Path(folder).joinpath, sorted(tree, key=len, reverse=True)):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        whole = f"{folder}/{pattern}"
        found = [item for item in expand_glob(whole) if not isinstance(item, Omitted)]
        expected = [path for path in glob.glob(whole, recursive=True) if not path.endswith("/") or Path(path).is_dir()]  # noqa: PTH207
        assert files_of(found) == {os.path.normpath(path) for path in files_of(expected)}


@pytest.mark.parametrize(
    ("path", "pattern", "is_match"),
    [
        ("a.png", "**/*.png", True),
        ("x/y/a.png", "**/*.png", True),
        ("x/a.txt", "**/*.png", False),
        ("x/cam1/y/a.png", "**/cam1", True),
        ("x/a.png", "**/**/x/*", True),
        ("a", "**", True),
        ("x/a", "x", True),
        ("x/a", "a", False),
    ],
)
def test_matches(path: str, pattern: str, is_match: bool) -> None:
    assert matches(path.split("/"), pattern.split("/")) is is_match


def test_wildcards_stand_for_no_system_names(tmp_path: Path) -> None:
    for name in ("cam/a.png", "@eaDir/a.png", "cam/@eaDir/b.png", "cam/Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(expand_glob(f"{tmp_path}/*/*")) == [str(tmp_path / "cam" / "a.png")]
    assert list(expand_glob(f"{tmp_path}/*/@eaDir/*")) == [str(tmp_path / "cam" / "@eaDir" / "b.png")]
    assert list(expand_glob(f"{tmp_path}/@eaDir/**/*.png")) == [str(tmp_path / "@eaDir" / "a.png")]


def test_a_relative_pattern_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cam" / "deep").mkdir(parents=True)
    (tmp_path / "cam" / "deep" / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    for pattern in ("**/*.png", "cam/**", "c*/*/a.png", "cam/../cam/**/a.*"):
        assert list(expand_glob(pattern)) == [str(tmp_path / "cam" / "deep" / "a.png")]
