"""Small trees of the data sets: lists as their makers write them, and clips that are encoded on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

Write = Callable[[Path], object]
# In the order of classInd.txt, which is not that of their names; one folder is not named as its files are.
UCF_CLASSES = {"Hammering": (200, 40, 40), "HammerThrow": (30, 160, 40), "HandstandPushups": (40, 40, 200)}
SSV2_TEMPLATES = {
    "Holding [something] next to [something]": (200, 40, 40), "[Something] falling like a feather or paper": (30, 160, 40),
    "Lifting [something] up completely, then letting it drop down": (40, 40, 200)}
TEST_GROUPS = 2
UCF_GROUPS = 6
ROWS = {"train": 36, "validation": 12}


def touch(path: Path) -> None:
    """Put an empty file where a clip would be: enough for what reads lists alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def encoded(rgb: Sequence[int], seed: int) -> Write:
    """Encode six frames of a colour with noise and a moving bar, 64x48: VP8 in WebM, MPEG-4 elsewhere."""
    def write(path: Path) -> None:
        rng = np.random.default_rng(seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libvpx" if path.suffix == ".webm" else "mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for moment in range(6):
                frame = np.array(rgb) + rng.integers(0, 40, (48, 64, 3))
                frame[:, 8 * moment:8 * moment + 8] += 50
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.clip(frame, 0, 255).astype(np.uint8), format="rgb24")))
            container.mux(stream.encode(None))
    return write


def write_lines(path: Path, lines: Iterable[str], end: str = "\n", encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode(encoding))


def photo(path: Path, seed: int = 0, side: tuple[int, int] = (90, 60)) -> npt.NDArray[np.uint8]:
    """Write a photo of noise, and return its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side[1], side[0], 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_ucf101(root: Path, *, lists: str = "ucfTrainTestlist", videos: str = "UCF-101", clips: bool = False, end: str = "\n",
                 encoding: str = "utf-8", classes: Sequence[str] = tuple(UCF_CLASSES)) -> Path:
    """Three splits of a few classes: six groups of two clips each, of which split n tests the n-th two."""
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    def write(name: str, lines: Iterable[str]) -> None:
        write_lines(root / lists / name, lines, end, encoding)

    write("classInd.txt", [f"{number} {name}" for name, number in numbers.items()])
    paths = {group: [(name, f"{name}/v_{name.replace('stand', 'Stand')}_g{group:02d}_c{clip:02d}.avi") for name in classes
                     for clip in (1, 2)] for group in range(1, UCF_GROUPS + 1)}
    for split in (1, 2, 3):
        tested = range(1 + TEST_GROUPS * (split - 1), 1 + TEST_GROUPS * split)
        write(f"testlist{split:02d}.txt", [path for group in tested for _, path in paths[group]])
        write(f"trainlist{split:02d}.txt", [f"{path} {numbers[name]}" for group in paths if group not in tested
                                            for name, path in paths[group]])
    for seed, (name, path) in enumerate(row for rows in paths.values() for row in rows):
        (encoded(UCF_CLASSES[name], seed) if clips else touch)(root / videos / path)
    return root


def write_ssv2(root: Path, *, lists: str = "labels/{}.json", videos: str = "20bn-something-something-v2", clips: bool = False,
               templates: Sequence[str] = tuple(SSV2_TEMPLATES)) -> Path:
    """Labels with their ids as strings, train, validation and test."""
    labels = {template.replace("[", "").replace("]", ""): str(number) for number, template in enumerate(templates)}
    write_json(root / lists.format("labels"), labels)
    video = 0
    for name, count in ROWS.items():
        records = []
        for _ in range(count):
            video += 1
            template = templates[video % len(templates)]
            records.append({"id": str(video), "label": "with the objects", "template": template, "placeholders": ["an object"]})
            (encoded(SSV2_TEMPLATES[template], video) if clips else touch)(root / videos / f"{video}.webm")
        write_json(root / lists.format(name), records)
    write_json(root / lists.format("test"), [{"id": str(video + 1)}, {"id": str(video + 2)}])
    return root
