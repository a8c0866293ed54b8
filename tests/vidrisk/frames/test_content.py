"""Tests of the detection of a file's kind by its first bytes and by its name.

The files are written by Pillow, by PyAV and, where a muxer is missing, by hand.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidrisk.frames import MEDIA_SUFFIXES, is_media, kind_of, probe, read_clips
from vidrisk.frames.content import HEAD_BYTES, kind_from_content
from vidrisk.frames.media import kind_from_suffix
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

PIXEL = PixelSpec(height=24, width=32)
PHOTO_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# Muxer, codec and the name that such a file comes under from a camera, a disc or a browser.
VIDEO_FORMATS = (
    ("mp4", "mpeg4", "a.insv"),
    ("mov", "mpeg4", "a.360"),
    ("avi", "mpeg4", "a.dvx"),
    ("matroska", "mpeg4", "a.clip"),
    ("webm", "libvpx", "a"),
    ("mpegts", "mpeg2video", "a.trp"),
    ("vob", "mpeg2video", "a.mod"),
    ("mpeg", "mpeg1video", "a.mp1"),
    ("asf", "mpeg4", "a.dvr-ms"),
    ("flv", "flv1", "a.fla"),
    ("ogg", "libvpx", "a.ogx"),
    ("mxf", "mpeg2video", "a.op1a"),
    ("dv", "dvvideo", "a.dif"),
)


def write_photo(path: Path, kind: str) -> Path:
    Image.new("RGB", (32, 24), (200, 40, 40)).save(path, kind)
    return path


def write_video(path: Path, muxer: str, codec: str, options: dict[str, str] | None = None) -> Path:
    with av.open(os.fspath(path), "w", format=muxer, options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        width, height = (720, 576) if muxer == "dv" else (64, 48)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        noise = np.random.default_rng(0)
        for _ in range(25):
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (height, width, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("kind", PHOTO_FORMATS)
@pytest.mark.parametrize("name", ["a", "a.unknown", "a.mp4"])
def test_photos_are_known_by_their_content(tmp_path: Path, kind: str, name: str) -> None:
    path = write_photo(tmp_path / name, kind)
    assert kind_of(path) == "image" and is_media(path)
    assert probe(path).kind == "image" and next(read_clips(path, PIXEL, None)).frames.shape == (1, 24, 32, 3)


@pytest.mark.parametrize(("muxer", "codec", "name"), VIDEO_FORMATS)
def test_videos_are_known_by_their_content(tmp_path: Path, muxer: str, codec: str, name: str) -> None:
    path = write_video(tmp_path / name, muxer, codec)
    assert kind_from_suffix(path) is None and kind_of(path) == "video" and is_media(path)
    # A program stream states few times, and FFmpeg, whose times ours are, puts one of those between a frame late.
    within_s = 0.041 if muxer == "vob" else 1e-3
    np.testing.assert_allclose(
        next(read_clips(path, PIXEL, TimeSpec(frames=25))).time_s, np.arange(25) / 25, atol=within_s
    )
    path = path.rename(tmp_path / "a.gif")
    assert kind_of(path) == "video" and probe(path).frames == 25


def test_transport_streams_of_every_packet_size(tmp_path: Path) -> None:
    m2ts = write_video(tmp_path / "cam", "mpegts", "mpeg2video", {"mpegts_m2ts_mode": "1"})
    assert m2ts.read_bytes()[4] == 0x47 and kind_of(m2ts) == "video"
    content = write_video(tmp_path / "a.ts", "mpegts", "mpeg2video").read_bytes()
    packets = [content[at : at + 188] for at in range(0, len(content), 188)]
    assert kind_from_content(b"".join(packet + bytes(16) for packet in packets)[:HEAD_BYTES], 1 << 20) == "video"
    assert kind_from_content(content[100 : 100 + HEAD_BYTES], 1 << 20) == "video"  # recording began within a packet


@pytest.mark.parametrize(
    "name",
    [
        "disc.vob",
        "cam.m2ts",
        "cam.m2t",
        "a.mpe",
        "a.3g2",
        "a.f4v",
        "a.qt",
        "a.ogv",
        "a.mxf",
        "a.dv",
        "win.jfif",
        "a.jpe",
    ],
)
def test_more_names_of_formats_that_are_read(name: str) -> None:
    assert is_media(f"/nowhere/{name}") and is_media(f"/nowhere/{name.upper()}")


def test_files_of_known_names_are_not_opened_and_pipes_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photo(tmp_path / "a.odd", "PNG")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "terminal").symlink_to("/dev/tty")
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *args, **options: opened.append(os.fspath(path)) or real(path, *args, **options)
    )
    assert all(is_media(tmp_path / f"a{suffix}") for suffix in MEDIA_SUFFIXES) and not is_media(tmp_path / "a.txt")
    assert not is_media(tmp_path / "pipe") and not is_media(tmp_path / "terminal")
    assert is_media(tmp_path / "a.odd") and opened == [str(tmp_path / "a.odd")]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"BM",
        b"BMW 320d, silver, " + b"x" * 40,
        b"G" * HEAD_BYTES,
        b"MM and II are initials",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\x1aE\xdf\xa3 and so on",
        b"\0\0\x01\xb3",
        b"%PDF-1.7",
        b"<svg>",
        b"#EXTM3U\nhttp://x/a.ts",
        b"ffconcat version 1.0",
        b"OggS\0",
        b"ID3\x04",
        b"I am free to skip and to wide",
        b"\0\0\0\x01\x67\x42",
        b"{}",
        b"PK\x03\x04",
        b"%!PS-Adobe-3.0 EPSF",
        box(b"ftyp", b"M4A \0\0\0\0"),
        box(b"ftyp", b"crx \0\0\0\1"),
        b"".join(f"{'G':<3}{number:<184}\n".encode() for number in range(30)),
    ],
    ids=lambda head: repr(head[:12]),
)
def test_nothing_else_is_taken_for_a_clip_or_a_photo(head: bytes) -> None:
    assert kind_from_content(head, len(head)) is None


@given(st.text(max_size=300))
def test_texts_are_no_media(text: str) -> None:
    assert kind_from_content(text.encode(), len(text)) is None or text[:3] in ("GIF", "FLV")


@given(st.binary(max_size=64), st.integers(0, 2**40))
def test_any_bytes_have_an_answer(head: bytes, size: int) -> None:
    assert kind_from_content(head, size) in (None, "image", "video")


@pytest.mark.parametrize(
    ("brand", "kind"),
    [
        (b"isom", "video"),
        (b"qt  ", "video"),
        (b"XAVC", "video"),
        (b"heic", "image"),
        (b"mif1", "image"),
        (b"avif", "image"),
    ],
)
def test_brands_of_media_files(brand: bytes, kind: str) -> None:
    assert kind_from_content(box(b"ftyp", brand + bytes(8)), 1000) == kind


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.m4a", box(b"ftyp", b"isom" + bytes(8)), "a sound file, and neither a photo nor a video"),
        (
            "a.h264",
            b"\0\0\0\x01\x67" + bytes(100),
            "without a container, and neither a photo nor a video; fix: put it into",
        ),
        ("a.mjpeg", b"\xff\xd8\xff\xe0" + bytes(100), "a stream of pictures without a container"),
        ("a.dav", b"DHAV" + bytes(100), "in a recorder's own format"),
        ("notes", b"words", "neither a photo nor a video; fix: use one of"),
    ],
)
def test_what_is_not_read_has_a_reason(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert not is_media(path)
    with pytest.raises(UnreadableError, match=said) as caught:
        next(read_clips(path, PIXEL, None))
    assert caught.value.state == "skipped"


def test_a_recording_with_a_container_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = write_video(tmp_path / "channel1.dav", "vob", "mpeg2video")
    assert is_media(path) and probe(path).frames == 25


@pytest.mark.parametrize("name", ["a.jpg.part", "a.crdownload", "a.jpg_original", "a.jpg~", "a.jpg.bak"])
def test_unfinished_files_and_copies_are_read_only_when_they_are_named(tmp_path: Path, name: str) -> None:
    path = write_photo(tmp_path / name, "JPEG")
    assert not is_media(path) and probe(path).kind == "image"
