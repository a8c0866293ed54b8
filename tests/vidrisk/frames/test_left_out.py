from __future__ import annotations

import os

from vidrisk.files.walk import ENTERED, HIDDEN, SYSTEM, Omitted
from vidrisk.frames.left_out import LeftOut, shorten_path


def test_counts_and_names_by_reason() -> None:
    omitted = [
        Omitted("/in/@eaDir", SYSTEM),
        Omitted("/in/cam/@eaDir", SYSTEM),
        Omitted("/in/twin", ENTERED),
        Omitted("/in/.git", HIDDEN),
    ]
    assert str(LeftOut(["/in/a.txt"], omitted)) == (
        "1 file that is neither a clip nor a photo (a.txt); 2 made by a NAS, a desktop system or a camera (@eaDir); "
        "1 entered under another name (twin)"
    )


def test_many_names_are_cut_short_and_any_bytes_can_be_printed() -> None:
    files = [f"/in/{number}.txt" for number in range(1_200)]
    assert str(LeftOut(files)) == "1,200 files that are neither clips nor photos (0.txt, 1.txt, 2.txt, …)"
    odd = str(LeftOut([os.fsdecode(b"/in/\xff" + b"n" * 200)]))
    odd.encode("utf-8")
    assert "…" in odd and len(odd) < 120


def test_nothing_is_said_of_nothing() -> None:
    assert str(LeftOut()) == str(LeftOut([], [Omitted("/in/.git", HIDDEN)])) == ""


def test_long_paths_keep_both_ends() -> None:
    assert shorten_path("/in" + "/d" * 2000, 20) == "/in/d/d/d/…d/d/d/d/d"
    assert shorten_path("/in/a.png") == "/in/a.png"
