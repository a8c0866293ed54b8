"""Names of files that NAS, desktop systems and cameras create for themselves, and of unfinished files.

They hold thumbnails, deleted files and older copies of the very files that are to be read. The rule is the same for
training data, inputs and inboxes, ignores case, and applies below a folder that was named: a system folder that is
named explicitly is read. Names that begin with a dot (``.zfs``, ``.Trashes``, ``.AppleDouble``, ``._photo.jpg``) are
hidden anyway.
"""

from __future__ import annotations

import re

# Sources: the vendors' manuals on recycle bins, snapshots and indexing, and the lists of media servers and backup
# programs.
_FOLDERS = frozenset(
    (
        # Synology
        "@eadir",
        "#recycle",
        "#snapshot",
        "@tmp",
        "@sharesnap",
        "@sharebin",
        "@appstore",
        "@database",
        "@s2s",
        # QNAP
        "@recycle",
        "@recently-snapshot",
        "@__thumb",
        "@transcode",
        "@qsys",
        "network recycle bin",
        # NetApp, HDS, TrueNAS, Buffalo, Thecus, ReadyNAS and others: snapshots and recycle bins of shares
        "~snapshot",
        "~latest",
        "#trash",
        "trashbox",
        "_nas_recycle_",
        "network trash folder",
        # Windows: recycle bins, volume data, fragments recovered by chkdsk, File History, system images
        "$recycle.bin",
        "recycler",
        "system volume information",
        "$extend",
        "filehistory",
        "windowsimagebackup",
        # Linux
        "lost+found",
        ".trash",
        # macOS
        "__macosx",
        "temporary items",
        "thevolumesettingsfolder",
        "thefindbycontentfolder",
        "backups.backupdb",
        # Sony's cameras: a thumbnail per clip
        "thmbnl",
        # Python
        "__pycache__",
    )
)
_FOLDER_PATTERN = re.compile(r"@syno.*|found\.[0-9]{3}")
_FILES = frozenset(("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"))
# Previews that GoPro and DJI cameras write beside every clip: a JPEG, an MP4.
_PREVIEW_SUFFIXES = (".thm", ".lrv", ".lrf")

UNFINISHED_SUFFIXES = (
    ".part",
    ".tmp",
    ".partial",
    ".filepart",
    ".crdownload",
    ".download",
    ".opdownload",
    ".uploading",
    ".upload",
    ".incomplete",
    ".aria2",
    ".!ut",
    ".!qb",
    ".qsync_tmp",
    ".syncing",
)
_COPY_SUFFIXES = (".bak", ".old", ".orig", "_original", "~")


def is_hidden(name: str) -> bool:
    """Tell whether a name begins with a dot."""
    return name.startswith(".")


def is_system_folder(name: str) -> bool:
    """Tell whether a NAS, a desktop system or a camera creates folders with this name."""
    folded = name.casefold()
    return folded in _FOLDERS or _FOLDER_PATTERN.fullmatch(folded) is not None


def is_system_file(name: str) -> bool:
    """Tell whether a desktop system or a camera creates files with this name."""
    folded = name.casefold()
    return folded in _FILES or folded.endswith(_PREVIEW_SUFFIXES)


def is_unfinished(name: str) -> bool:
    """Tell whether a browser, a copy or a sync program uses this name for a file that it is still writing."""
    return name.lower().endswith(UNFINISHED_SUFFIXES)


def is_copy(name: str) -> bool:
    """Tell whether this is a backup that a program makes before it changes a file (``a.jpg_original``, ``a.jpg~``)."""
    return name.lower().endswith(_COPY_SUFFIXES)
