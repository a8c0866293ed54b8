"""Create test videos from real clips: a folder of 720p clips, a folder of many links to few clips, an hour of video.

Each is created once and kept in the work folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import VideoFrame

RATE = 25
GROUP_FRAMES = 50  # from one keyframe to the next: two seconds
HD = (1280, 720)
SMALL = (320, 240)


def clips_below(folder: Path) -> list[Path]:
    """Return real clips in the order of their names; those of UT-Interaction alternate between classes."""
    return sorted(
        (path for path in folder.rglob("*") if path.suffix in (".avi", ".mp4")), key=lambda path: (path.name, path)
    )


def link_clips(clips: Sequence[Path], count: int, out: Path) -> Path:
    """Create a folder of ``count`` links to the clips in turn, in the clips' folders: ``class/003-name.avi``."""
    if not out.is_dir():
        with _make_folder(out) as new:
            for number in range(count):
                clip = clips[number % len(clips)]
                link = new / clip.parent.name / f"{number // len(clips):03d}-{clip.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(clip.resolve())
    return out


def hd_clips(clips: Sequence[Path], count: int, seconds: float, out: Path) -> Path:
    """Create a folder of ``count`` H.264 files of 1280×720: ``seconds`` of a clip, each from a different frame."""
    if not out.is_dir():
        length, turns = round(RATE * seconds), -(-count // len(clips))
        with _make_folder(out) as new:
            for place, clip in enumerate(clips):
                frames = [frame.reformat(*HD, format="yuv420p") for frame in _frames(clip)]
                for turn in range(turns):
                    first = turn * len(frames) // turns
                    chosen = (frames[(first + i) % len(frames)] for i in range(length))
                    if turn * len(clips) + place < count:
                        _encode(chosen, HD, new / f"{clip.stem}-{turn:03d}.mp4")
    return out


def long_video(clips: Sequence[Path], seconds: float, out: Path) -> Path:
    """Create one H.264 file of 320×240 that repeats the sequence of clips for ``seconds``.

    The sequence is encoded once, and its packets are written repeatedly.
    """
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        reel = out.with_name("reel.mp4")
        if not reel.is_file():
            frames = (frame.reformat(*SMALL, format="yuv420p") for clip in clips for frame in _frames(clip))
            _encode(frames, SMALL, reel)
        _repeat(reel, round(RATE * seconds), out)
    return out


@contextmanager
def _make_folder(out: Path) -> Iterator[Path]:
    """Create a folder, which gets its final name when it is complete."""
    new = out.with_name(f"{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    new.rename(out)


def _frames(clip: Path) -> Iterator[VideoFrame]:
    with av.open(clip) as container:
        yield from container.decode(video=0)


def _encode(frames: Iterable[VideoFrame], size: tuple[int, int], out: Path) -> None:
    """Write frames at 25 per second regardless of their times, with a keyframe every 50 frames and at cuts."""
    new = out.with_suffix(".new.mp4")
    with av.open(new, "w") as container:
        stream = container.add_stream(
            "libx264", rate=RATE, options={"preset": "fast", "crf": "23", "g": str(GROUP_FRAMES)}
        )
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            frame.pict_type = 0  # the encoder's choice, not what the clip had
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    new.replace(out)


def _repeat(reel: Path, count: int, out: Path) -> None:
    """Write the first ``count`` frames of the looped reel without re-encoding.

    The reel, and therefore each repetition, begins with a keyframe.
    """
    new = out.with_suffix(".new.mp4")
    with av.open(new, "w") as container, av.open(reel) as first:
        source = first.streams.video[0]
        stream = container.add_stream_from_template(source)
        packets = [
            (packet.pts or 0, packet.dts or 0, packet.is_keyframe, bytes(packet))
            for packet in first.demux(source)
            if packet.size
        ]
        base = source.time_base or Fraction(1, RATE)
        ticks = round(1 / (RATE * base))  # of a frame
        for number in range(count):
            turn, place = divmod(number, len(packets))
            pts, dts, is_keyframe, data = packets[place]
            packet = av.Packet(data)
            shift = turn * len(packets) * ticks
            packet.pts, packet.dts, packet.duration = pts + shift, dts + shift, ticks
            packet.time_base, packet.stream, packet.is_keyframe = base, stream, is_keyframe
            container.mux(packet)
    new.replace(out)
