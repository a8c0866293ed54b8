from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.files.system_files import is_hidden, is_system_file, is_system_folder
from vidrisk.files.walk import ENTERED, HIDDEN, SYSTEM, Omitted, list_folder, walk


def files(root: Path) -> list[str]:
    return [os.path.relpath(item.path, root) for item in walk(root) if not isinstance(item, Omitted)]


def omitted(root: Path) -> dict[str, str]:
    return {os.path.relpath(item.path, root): item.reason for item in walk(root) if isinstance(item, Omitted)}


# A tree of files (None) and folders, in names of any bytes but those that no file system takes.
any_bytes = st.binary(min_size=1, max_size=6).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
names = any_bytes | st.sampled_from(
    [b"a", b"B", b".hidden", b"@eaDir", b"#Recycle", b"Thumbs.db", b"lost+found", "裂缝".encode()]
)
trees = st.recursive(st.none(), lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=12).filter(
    lambda tree: tree is not None
)


def write(tree: dict[bytes, object], folder: Path) -> None:
    for name, content in tree.items():
        path = folder / os.fsdecode(name)
        if isinstance(content, dict):
            path.mkdir()
            write(content, path)
        else:
            path.touch()


def expected(tree: dict[bytes, object], above: str = "") -> Iterator[str]:
    """Yield the paths in the documented order: by name, files before folders, no hidden or system entries."""
    visible = {os.fsdecode(name): content for name, content in tree.items() if not name.startswith(b".")}
    for name in sorted(name for name, content in visible.items() if content is None):
        if not is_system_file(name):
            yield above + name
    for name in sorted(name for name, content in visible.items() if content is not None):
        if not is_system_folder(name):
            content = visible[name]
            assert isinstance(content, dict)
            yield from expected(content, f"{above}{name}/")


@settings(max_examples=100, deadline=None)
@given(trees)
def test_any_tree_is_listed_as_promised(tree: dict[bytes, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(tree, Path(folder))
        assert files(Path(folder)) == list(expected(tree))


def test_ten_thousand_levels_cost_one_entry(tmp_path: Path, deep_folder: Path) -> None:
    for name in ("a.png", "z/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep").symlink_to(deep_folder)
    *found, last = sorted(walk(tmp_path), key=lambda item: len(item.path))
    assert [Path(item.path).name for item in found] == ["a.png", "b.png"]
    assert (
        isinstance(last, Omitted)
        and last.reason == "File name too long"
        and last.path.count("/d") > sys.getrecursionlimit()
    )


def test_a_link_to_itself_costs_one_entry(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert files(tmp_path) == ["a.png"]
    assert omitted(tmp_path) == dict.fromkeys(["self.png", "one", "two"], "Too many levels of symbolic links")


def test_links_that_form_a_loop_are_entered_once(tmp_path: Path) -> None:
    (tmp_path / "cam" / "deep").mkdir(parents=True)
    (tmp_path / "cam" / "deep" / "a.png").touch()
    (tmp_path / "cam" / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "twin").symlink_to("cam")
    assert files(tmp_path) == ["cam/deep/a.png"]
    assert omitted(tmp_path) == {"cam/deep/up": ENTERED, "twin": ENTERED}


def test_what_may_not_be_entered_costs_one_entry(folder_of_nobody: Path) -> None:
    for name in ("closed/a.png", "elsewhere/deep/b.png", "open/c.png"):
        (folder_of_nobody / name).parent.mkdir(parents=True)
        (folder_of_nobody / name).touch()
    (folder_of_nobody / "open" / "link").symlink_to(folder_of_nobody / "elsewhere" / "deep")
    for name in ("closed", "elsewhere"):
        (folder_of_nobody / name).chmod(0)
    assert files(folder_of_nobody) == ["open/c.png"]
    assert omitted(folder_of_nobody) == dict.fromkeys(["closed", "elsewhere", "open/link"], "Permission denied")


def test_pipes_sockets_devices_and_broken_links_are_entries_that_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.png").symlink_to("/dev/null")
    (tmp_path / "nowhere.png").symlink_to("gone.png")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.fspath(tmp_path / "socket.png"))
        assert files(tmp_path) == ["nowhere.png", "null.png", "pipe.png", "socket.png"]


def test_a_root_is_read_whatever_its_name_and_a_missing_one_is_said(tmp_path: Path) -> None:
    (tmp_path / "@eaDir" / "@eaDir").mkdir(parents=True)
    (tmp_path / "@eaDir" / "a.png").touch()
    (tmp_path / "@eaDir" / "@eaDir" / "b.png").touch()
    assert files(tmp_path / "@eaDir") == ["a.png"]
    (gone,) = walk(tmp_path / "gone")
    assert isinstance(gone, Omitted) and gone.reason == "No such file or directory"


def test_everything_that_is_not_taken_has_a_reason(tmp_path: Path) -> None:
    for name in (".git", "#recycle", "System Volume Information"):
        (tmp_path / name).mkdir()
    for name in (".a.png", "._a.png", "Thumbs.db", "a.png"):
        (tmp_path / name).touch()
    assert omitted(tmp_path) == dict.fromkeys([".git", ".a.png", "._a.png"], HIDDEN) | dict.fromkeys(
        ["#recycle", "System Volume Information", "Thumbs.db"], SYSTEM
    )
    assert [entry.name for entry in list_folder(tmp_path).files] == ["a.png"] and not list_folder(tmp_path).folders


def test_other_names_can_be_ignored(tmp_path: Path) -> None:
    for name in ("a.png", "b.png.part", ".c.png"):
        (tmp_path / name).touch()
    found = list(walk(tmp_path, is_ignored=lambda name: is_hidden(name) or name.endswith(".part")))
    assert [item.path for item in found if not isinstance(item, Omitted)] == [str(tmp_path / "a.png")]
