from __future__ import annotations

import pytest

from vidrisk.files.system_files import is_copy, is_hidden, is_system_file, is_system_folder, is_unfinished

FOLDERS = (
    "@eaDir",
    "#recycle",
    "#snapshot",
    "@tmp",
    "@SynoResource",
    "@synologydrive",  # Synology
    "@Recycle",
    "@Recently-Snapshot",
    ".@__thumb",
    "@__thumb",
    "@Transcode",  # QNAP
    ".zfs",
    ".snapshot",
    "~snapshot",
    ".recycle",
    "_NAS_Recycle_",
    "trashbox",  # TrueNAS, NetApp, Samba, Thecus, Buffalo
    "$RECYCLE.BIN",
    "RECYCLER",
    "System Volume Information",
    "FOUND.000",
    "FileHistory",  # Windows
    "lost+found",
    ".Trash-1000",
    "__MACOSX",
    ".Trashes",
    ".Spotlight-V100",
    ".fseventsd",
    ".AppleDouble",
    "Network Trash Folder",
)


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_that_systems_make(name: str) -> None:
    for written in (name, name.upper(), name.lower()):
        assert is_system_folder(written) or is_hidden(written)


@pytest.mark.parametrize(
    "name",
    [
        "crack",
        "recycling",
        "recycled",
        "snapshot",
        "trash",
        "found",
        "found.1",
        "eaDir",
        "tmp",
        "__background__",
        "#1 defect",
        "@home",
        "裂缝",
        "lost",
    ],
)
def test_folders_that_people_make(name: str) -> None:
    assert not is_system_folder(name) and not is_hidden(name)


def test_files_that_systems_and_cameras_make() -> None:
    assert all(
        is_system_file(name) or is_hidden(name)
        for name in (
            "Thumbs.db",
            "thumbs.DB",
            "desktop.ini",
            "ehthumbs.db",
            "Icon\r",
            ".DS_Store",
            "._IMG_1.JPG",
            "GX010001.THM",
            "GL010001.LRV",
        )
    )
    assert not any(is_system_file(name) for name in ("a.jpg", "Icon.png", "thumbs.jpg", "desktop.png"))


def test_unfinished_files_and_copies() -> None:
    assert all(map(is_unfinished, ("a.mp4.part", "a.mp4.TMP", "a.mp4.filepart", "a.mp4.crdownload")))
    assert all(map(is_copy, ("a.jpg~", "a.jpg.bak", "a.jpg_original", "a.JPG.orig")))
    assert not any(is_unfinished(name) or is_copy(name) for name in ("a.mp4", "part.mp4", "original.jpg", "a"))
