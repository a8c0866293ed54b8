"""Ten kinds of broken input that occur in practice and must not stop a run, for the tests of whole runs.

They are created from one good clip. ``ACCEPTABLE_STATES`` lists the permitted ledger states of each kind.
"""

from __future__ import annotations

import os
import random
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from PIL import Image

FRAMES, FPS = 48, 12

# What is no file is skipped, what holds nothing is corrupt, and of what is damaged in part so much counts as can be
# shown.
ACCEPTABLE_STATES: dict[str, frozenset[str]] = {
    "empty.mp4": frozenset({"corrupt"}),
    "random.mp4": frozenset({"corrupt"}),
    "without-index.mp4": frozenset({"corrupt"}),
    "cut.avi": frozenset({"partial"}),
    "zeroed-middle.mp4": frozenset({"ok", "partial"}),
    "words.jpg": frozenset({"corrupt"}),
    "cut.jpg": frozenset({"corrupt", "partial"}),
    "folder.mp4": frozenset({"skipped"}),
    "pipe.mp4": frozenset({"skipped"}),
    "dangling.mp4": frozenset({"skipped"}),
}
# A run looks into folders: only as an input by itself has one a row, not when it is found in another.
WITHOUT_ROW = frozenset({"folder.mp4"})


def broken_files(folder: Path, good: Path) -> dict[str, Path]:
    """Write one input of every kind into ``folder`` and return the paths by name.

    ``good`` is a clip of 24 frames or more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / name for name in ACCEPTABLE_STATES}
    paths["empty.mp4"].touch()
    paths["random.mp4"].write_bytes(random.Random(good.name).randbytes(20_000))
    _cut(_recoded(good, paths["without-index.mp4"]), b"mdat", b"moov")
    _cut(_recoded(good, paths["cut.avi"]), b"movi", b"idx1")
    _zero_middle(_recoded(good, paths["zeroed-middle.mp4"], {"movflags": "faststart"}))
    paths["words.jpg"].write_text("no picture, but words\n" * 100)
    _cut(_first_frame(good, paths["cut.jpg"]), b"\xff\xda", b"\xff\xd9")
    paths["folder.mp4"].mkdir()
    os.mkfifo(paths["pipe.mp4"])
    paths["dangling.mp4"].symlink_to(folder / "gone.mp4")
    return paths


def _recoded(good: Path, path: Path, options: dict[str, str] | None = None) -> Path:
    with av.open(str(good)) as source, av.open(str(path), "w", options=options or {}) as target:
        stream = target.add_stream("mpeg4", rate=FPS, options={"g": "6"})
        video = source.streams.video[0].codec_context
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for number, frame in enumerate(islice(source.decode(video=0), FRAMES)):
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return path


def _first_frame(good: Path, path: Path) -> Path:
    with av.open(str(good)) as source:
        Image.fromarray(next(source.decode(video=0)).to_ndarray(format="rgb24")).save(path)
    return path


def _cut(path: Path, start: bytes, end: bytes) -> None:
    """Truncate a file halfway between two markers."""
    content = path.read_bytes()
    os.truncate(path, (content.index(start) + content.rindex(end)) // 2)


def _zero_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    hole = slice(start + (len(content) - start) * 2 // 5, start + (len(content) - start) * 3 // 5)
    content[hole] = bytes(len(content[hole]))
    path.write_bytes(content)
