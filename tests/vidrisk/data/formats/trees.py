"""Small trees of the data sets, with lists in their publishers' form and clips encoded on the spot."""

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
    "Holding [something] next to [something]": (200, 40, 40),
    "[Something] falling like a feather or paper": (30, 160, 40),
    "Lifting [something] up completely, then letting it drop down": (40, 40, 200),
}
HMDB_CLASSES = {"wave": (200, 40, 40), "brush_hair": (30, 160, 40)}
KINETICS_CLASSES = {"air drumming": (200, 40, 40), "petting, not (cat)": (30, 160, 40)}
TEST_GROUPS = 2
UCF_GROUPS = 6
ROWS = {"train": 36, "validation": 12}


def touch(path: Path) -> None:
    """Create an empty file in place of a clip, for code that reads only the lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def encoded(rgb: Sequence[int], seed: int) -> Write:
    """Return a function that encodes six frames of a colour with noise and a moving bar, 64x48.

    The codec is VP8 in WebM and MPEG-4 elsewhere.
    """

    def write(path: Path) -> None:
        rng = np.random.default_rng(seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libvpx" if path.suffix == ".webm" else "mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for moment in range(6):
                frame = np.array(rgb) + rng.integers(0, 40, (48, 64, 3))
                frame[:, 8 * moment : 8 * moment + 8] += 50
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(np.clip(frame, 0, 255).astype(np.uint8), format="rgb24"))
                )
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


def write_ucf101(
    root: Path,
    *,
    lists: str = "ucfTrainTestlist",
    videos: str = "UCF-101",
    clips: bool = False,
    end: str = "\n",
    encoding: str = "utf-8",
    classes: Sequence[str] = tuple(UCF_CLASSES),
) -> Path:
    """Write a UCF101 data set with three splits of a few classes.

    Each class has six groups of two clips. Split n tests the n-th pair of groups.
    """
    numbers = {name: number for number, name in enumerate(classes, start=1)}

    def write(name: str, lines: Iterable[str]) -> None:
        write_lines(root / lists / name, lines, end, encoding)

    write("classInd.txt", [f"{number} {name}" for name, number in numbers.items()])
    paths = {
        group: [
            (name, f"{name}/v_{name.replace('stand', 'Stand')}_g{group:02d}_c{clip:02d}.avi")
            for name in classes
            for clip in (1, 2)
        ]
        for group in range(1, UCF_GROUPS + 1)
    }
    for split in (1, 2, 3):
        tested = range(1 + TEST_GROUPS * (split - 1), 1 + TEST_GROUPS * split)
        write(f"testlist{split:02d}.txt", [path for group in tested for _, path in paths[group]])
        write(
            f"trainlist{split:02d}.txt",
            [f"{path} {numbers[name]}" for group in paths if group not in tested for name, path in paths[group]],
        )
    for seed, (name, path) in enumerate(row for rows in paths.values() for row in rows):
        (encoded(UCF_CLASSES[name], seed) if clips else touch)(root / videos / path)
    return root


def write_hmdb51(
    root: Path,
    *,
    lists: str = "testTrainMulti_7030_splits",
    videos: str = "hmdb51_org",
    clips: bool = False,
    end: str = " \n",
) -> Path:
    """Write an HMDB51 data set with three splits of a few classes.

    Each class has five films of two clips. Split n tests the n-th film and does not use the last film.
    """
    for label, colour in HMDB_CLASSES.items():
        names = {film: [f"Film_{film}_{label}_f_nm_np1_ba_goo_{clip}.avi" for clip in range(2)] for film in range(1, 6)}
        for split in (1, 2, 3):
            use = {film: 2 if film == split else 0 if film == 5 else 1 for film in names}
            write_lines(
                root / lists / f"{label}_test_split{split}.txt",
                [f"{name} {use[film]}" for film in names for name in names[film]],
                end,
            )
        for seed, name in enumerate(name for of_film in names.values() for name in of_film):
            (encoded(colour, seed) if clips else touch)(root / videos / label / name)
    return root


def write_kinetics(root: Path, *, place: str = "{split}/{label}", clips: bool = False) -> Path:
    """Write a Kinetics data set with two lists of ten-second clips, each from a video of its own."""
    number = 0
    for split, count in (("train", 6), ("val", 4)):
        rows = []
        for _ in range(count):
            label, colour = list(KINETICS_CLASSES.items())[number % 2]
            rows.append(f'"{label}",--video{number:04d},{number},{number + 10},{split}')
            name = f"--video{number:04d}_{number:06d}_{number + 10:06d}.mp4"
            (encoded(colour, number) if clips else touch)(root / place.format(split=split, label=label) / name)
            number += 1
        write_lines(root / f"{split}.csv", ["label,youtube_id,time_start,time_end,split", *rows])
    return root


def write_ava(root: Path, *, videos: str = "trainval", clips: bool = False) -> Path:
    """Write an AVA data set with two lists of boxes, one per film, and the names of the actions."""
    for seed, (split, film) in enumerate((("train", "film-A"), ("val", "film_B"))):
        rows = [
            f"{film},{second:04d},0.1,0.2,0.5,0.9,{action},{person}"
            for second in (2, 3, 4)
            for person, action in ((0, 12), (0, 79), (1, 12 if second < 4 else 3))
        ]
        write_lines(root / f"ava_{split}_v2.2.csv", rows)
        (encoded((200, 40, 40), seed) if clips else touch)(root / videos / f"{film}.mkv")
    names = {3: "crouch/kneel", 12: "stand", 79: "talk to (e.g., self, a person, a group)"}
    write_lines(
        root / "ava_action_list_v2.2.pbtxt",
        [
            f'label {{\n  name: "{name}"\n  label_id: {number}\n  label_type: PERSON_MOVEMENT\n}}'
            for number, name in names.items()
        ],
    )
    return root


def write_ssv2(
    root: Path,
    *,
    lists: str = "labels/{}.json",
    videos: str = "20bn-something-something-v2",
    clips: bool = False,
    templates: Sequence[str] = tuple(SSV2_TEMPLATES),
) -> Path:
    """Write a Something-Something V2 data set.

    It has the labels with their ids as strings, and the lists of train, validation and test.
    """
    labels = {template.replace("[", "").replace("]", ""): str(number) for number, template in enumerate(templates)}
    write_json(root / lists.format("labels"), labels)
    video = 0
    for name, count in ROWS.items():
        records = []
        for _ in range(count):
            video += 1
            template = templates[video % len(templates)]
            records.append(
                {"id": str(video), "label": "with the objects", "template": template, "placeholders": ["an object"]}
            )
            (encoded(SSV2_TEMPLATES[template], video) if clips else touch)(root / videos / f"{video}.webm")
        write_json(root / lists.format(name), records)
    write_json(root / lists.format("test"), [{"id": str(video + 1)}, {"id": str(video + 2)}])
    return root
