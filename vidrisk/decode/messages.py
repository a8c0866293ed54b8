"""What a pool is asked for and what it answers. Stated once: workers make the items, the wire carries them, callers get them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from vidrisk.decode.cuts import Box, Cut
from vidrisk.decode.jpegs import MAX_SIDE_PX, Jpeg
from vidrisk.decode.thumbnails import Thumbnail
from vidrisk.frames import Decoder, Frame, FrameChoice, FrameWindow, Interval
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec

FINAL_STATES = ("ok", "partial", "corrupt", "timeout", "crashed", "too_large", "skipped")
READ_STATES = ("ok", "partial")


@dataclass(frozen=True)
class Input:
    """A photo or a video to be read.

    Attributes:
        id: by which its items are told from those of others; the caller's own.
        interval: the part of a video to read; None for all of it.
    """

    id: int
    path: str
    interval: Interval | None = None


@dataclass(frozen=True)
class ThumbnailInput:
    """A photo or a video of which thumbnails are wanted: see ``thumbnails.thumbnails_at``."""

    id: int
    path: str
    moments_s: tuple[float, ...]
    max_bytes: int


@dataclass(frozen=True)
class PhotoInput:
    """A photo that is wanted as a JPEG (``PhotoSettings``, ``jpegs.jpeg_from_photo``) or as a frame (``ReadSettings``).

    Attributes:
        path: of the file; where there is ``content``, nothing is opened there.
        content: the photo itself, where it lies in no file.
    """

    id: int
    path: str
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class CutInput:
    """A photo of which parts are wanted: see ``cuts.cuts_from_photo``. It has ``cuts.MAX_BOXES`` boxes at most."""

    id: int
    path: str
    boxes: tuple[Box, ...]


Request = Input | ThumbnailInput | PhotoInput | CutInput


@dataclass(frozen=True)
class ReadSettings:
    """How the inputs of one call become frames.

    Attributes:
        pixel, time: the specs.
        decoder, choice: see ``frames.read_frames``.
        static_levels: see ``static.without_static``.
        max_memory_mb: what a worker may allocate beyond what it starts with.
        slots: frames that a worker may be ahead.
        cache_salt: stands for the encoder and the specs in the keys of the feature cache; empty without it.
        features: of a frame, D, where there is a cache.
        thumbnail_bytes, frame_thumbnail_bytes: of a photo's thumbnail, and of one of each of a video's first frames, at
            most; 0 for none.
    """

    pixel: PixelSpec
    time: TimeSpec | None
    decoder: Decoder = "auto"
    choice: FrameChoice = "all"
    static_levels: float = 0.0
    max_memory_mb: int = 2048
    slots: int = 32
    cache_salt: str = ""
    features: int = 0
    thumbnail_bytes: int = 0
    frame_thumbnail_bytes: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ReadSettings:
        values = json.loads(text)
        time = values.pop("time")
        return cls(pixel=PixelSpec(**values.pop("pixel")), time=TimeSpec(**time) if time else None, **values)


@dataclass(frozen=True)
class ThumbnailSettings:
    """How thumbnails are read.

    Attributes:
        max_memory_mb: what a worker may allocate beyond what it starts with.
    """

    max_memory_mb: int = 2048

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class PhotoSettings:
    """What JPEGs of photos are like.

    Attributes:
        max_width, max_height: of the box, in pixels, that they fit into.
        quality: 1 to 100, as libjpeg counts it.
        max_memory_mb: what a worker may allocate beyond what it starts with.

    Raises:
        SettingsError: a side or a quality outside of what is allowed.
    """

    max_width: int = 1024
    max_height: int = 1024
    quality: int = 85
    max_memory_mb: int = 2048

    def __post_init__(self) -> None:
        for side in (self.max_width, self.max_height):
            if not 1 <= side <= MAX_SIDE_PX:
                raise SettingsError(
                    f"a photo of {self.max_width} by {self.max_height} pixels", allowed=f"sides of 1 to {MAX_SIDE_PX}"
                )
        if not 1 <= self.quality <= 100:
            raise SettingsError(f"image quality {self.quality}", allowed="1 to 100")

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class CutSettings:
    """What parts of photos are like.

    Attributes:
        max_side: pixels; larger parts are scaled down.
        max_memory_mb: what a worker may allocate beyond what it starts with.
    """

    max_side: int = 4096
    max_memory_mb: int = 2048

    def to_json(self) -> str:
        return json.dumps(asdict(self))


Settings = ReadSettings | ThumbnailSettings | PhotoSettings | CutSettings


def settings_from_json(text: str) -> Settings:
    """The inverse of ``to_json`` of every kind."""
    values = json.loads(text)
    if "pixel" in values:
        return ReadSettings.from_json(text)
    if "max_side" in values:
        return CutSettings(**values)
    return PhotoSettings(**values) if "quality" in values else ThumbnailSettings(**values)


@dataclass(frozen=True, eq=False)
class KnownFrame:
    """A frame whose features, float32 (D,), were kept."""

    index: int
    time_s: float
    features: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Again:
    """What came of this input does not count: it will be read again from its start."""


@dataclass(frozen=True)
class Pause:
    """Everything that was given has ended, and the next input has yet to come. Of no input: it comes behind the last end."""


@dataclass(frozen=True)
class InputEnd:
    """What became of an input.

    Attributes:
        state: one of ``FINAL_STATES``.
        reason: why it is not ``ok``, or what there is to say all the same.
        decode_s: time that it took.
        key: under which its windows were kept.
        content: sha256 of the file; empty where nothing was read.
        bytes, mtime_ns: of the file when it was read; None where there was none.
        is_starved: it wants more memory than it may have.
        is_refused: it may not be opened.
    """

    state: str
    reason: str = ""
    decode_s: float = 0.0
    key: str = ""
    content: str = ""
    bytes: int | None = None
    mtime_ns: int | None = None
    is_starved: bool = False
    is_refused: bool = False


Item = Frame | KnownFrame | FrameWindow | Thumbnail | Jpeg | Cut | Again | Pause | InputEnd


@dataclass(frozen=True, eq=False)
class Read:
    """One item of an input. The pixels of a ``Frame`` are a view that the next read overwrites: copy them."""

    input: Request
    item: Item

    @property
    def id(self) -> int:
        return self.input.id
