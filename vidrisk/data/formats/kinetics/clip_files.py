"""Finds the clips of Kinetics, cut out and named by their times, or as whole videos, in folders per split or class.

The folders may be per split, per class, both or neither.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from vidrisk.data.formats.clips import fold_label, folders_by_label
from vidrisk.data.formats.media_files import Homes, MediaFiles
from vidrisk.data.table import SplitName
from vidrisk.frames import Interval
from vidrisk.frames.media import kind_from_suffix

SPLIT_FOLDERS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "videos_train", "train_256", "videos/train"),
    "val": ("val", "validate", "validation", "videos_val", "val_256", "videos/val"),
    "test": ("test", "videos_test", "test_256", "videos/test"),
}
BASES = ("", "videos", *(folder for folders in SPLIT_FOLDERS.values() for folder in folders))
_NAMED_BY_TIMES = re.compile(r"(?P<video>.+)_(?P<start>\d{6})_(?P<end>\d{6})")


class FoundClip(NamedTuple):
    """A file, relative to the root, and the part of it that is labelled; None for all of it."""

    name: str
    interval: Interval | None


class KineticsFiles:
    """Finds the clips of rows."""

    def __init__(self, homes: Homes) -> None:
        self.homes, self._files = homes, homes.files([""])
        self._lying = MediaFiles(homes.root)
        self._places = [
            (base, place) for base in BASES for place in homes.places([base]) if (homes.root / place).is_dir()
        ]
        self._classes: dict[str, tuple[frozenset[str], dict[str, str]]] = {}

    def find(self, video: str, part: Interval | None, label: str, split: SplitName | None) -> FoundClip | None:
        """Return the clip that is cut out of a video, else the whole video with its part, or None if neither exists.

        ``video`` is the id of the video, or the path of a file with the suffix of a video.
        """
        if kind_from_suffix(video) == "video":
            found = self._files.find(video)
            return FoundClip(found, part) if found else None
        clip = clip_name(video, part)
        for base, place in self._places:
            if split and base in BASES[2:] and base not in SPLIT_FOLDERS[split]:
                continue
            for folder in (place, self._class_folder(place, label)):
                for name, of_it in ((clip, None), (video, part)):
                    if (
                        folder is not None
                        and name
                        and (found := self._lying.find(posixpath.join(folder, f"{name}.mp4")))
                    ):
                        return FoundClip(found, of_it)
        return None

    def _class_folder(self, base: str, label: str) -> str | None:
        """Find the folder of a class by its exact name, else the only one that differs just in spaces or signs."""
        if base not in self._classes:
            pairs = list(folders_by_label(self.homes.root / base))
            counts = Counter(form for form, _ in pairs)
            self._classes[base] = (
                frozenset(name for _, name in pairs),
                {form: name for form, name in pairs if counts[form] == 1},
            )
        names, by_form = self._classes[base]
        name = label if label in names else by_form.get(fold_label(label))
        return posixpath.join(base, name) if name else None


def clip_name(video: str, part: Interval | None) -> str | None:
    """Return the name of the clip that is cut out of a video, or None if it is not cut at whole seconds."""
    if part is None or not (float(part.start).is_integer() and float(part.end).is_integer()):
        return None
    return f"{video}_{int(part.start):06d}_{int(part.end):06d}"


def video_and_part(path: str) -> tuple[str, Interval | None]:
    """Parse the name of a clip: the id of its video and its part; a file with another name is the video."""
    stem = Path(path).stem
    match = _NAMED_BY_TIMES.fullmatch(stem)
    if match and int(match["end"]) > int(match["start"]):
        return match["video"], Interval(int(match["start"]), int(match["end"]))
    return stem, None
