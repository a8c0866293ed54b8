"""One tiny file of every kind that the reader supports.

Pictures have 64x48 pixels and clips about 20 frames. A file takes a few kilobytes and is read in
milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numbered_clips import numbered_picture, write_clip
from PIL import Image

FRAMES = 20
_B_FRAMES = {"bf": "2", "g": "8"}
_VPX = {"g": "8", "deadline": "realtime", "cpu-used": "8"}

_CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": _B_FRAMES},
    "h264-index-first.mov": {"options": _B_FRAMES, "container_options": {"movflags": "faststart"}},
    "h264-fragmented.mp4": {"options": _B_FRAMES, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "h264.mkv": {"options": _B_FRAMES},
    "h264.ts": {"options": _B_FRAMES},
    "h264.flv": {"options": {"bf": "0", "g": "8"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": _B_FRAMES},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": _B_FRAMES},
    "vp8.webm": {"codec": "libvpx", "options": _VPX},
    "vp9.webm": {"codec": "libvpx-vp9", "options": _VPX},
    "wmv2.wmv": {"codec": "wmv2", "options": {"g": "8"}},
}
_PHOTOS: dict[str, dict[str, Any]] = {
    "baseline.jpg": {},
    "progressive.jpg": {"progressive": True},
    "plain.png": {},
    "plain.bmp": {},
    "plain.gif": {},
    "lossy.webp": {},
    "lossless.webp": {"lossless": True},
    "lzw.tif": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_adobe_deflate"},
}
_ANIMATIONS = ("moving.gif", "moving.webp", "moving.png")


def tiny_media(folder: Path) -> dict[str, Path]:
    """Write the files and return their paths by name."""
    for name, arguments in _CLIPS.items():
        write_clip(folder / name, FRAMES, **arguments)
    noise = np.random.default_rng(7).integers(0, 255, (48, 64, 4), np.uint8)
    noise[:, 16:] = np.repeat(noise[:, 16:17], 48, axis=1)
    photo = Image.fromarray(noise[..., :3])
    for name, options in _PHOTOS.items():
        photo.save(folder / name, **options)
    Image.fromarray(noise).save(folder / "alpha.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "wide.png")
    Image.fromarray(noise[..., 0].astype(np.float32)).save(folder / "float.tif")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    frames = [Image.fromarray(numbered_picture(number, 64, 48)) for number in range(4)]
    for name in _ANIMATIONS:
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    return {path.name: path for path in sorted(folder.iterdir())}
