"""Requests, settings and answers of a decode pool: created by workers, sent over the wire, returned to callers."""

from __future__ import annotations

import json
import math
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
    """A photo or a video to read.

    Attributes:
        id: chosen by the caller; identifies the items of this input.
        interval: part of a video to read; None for the whole video.
    """

    id: int
    path: str
    interval: Interval | None = None


@dataclass(frozen=True)
class ThumbnailInput:
    """A request for thumbnails of a photo or a video; see ``thumbnails.thumbnails_at``."""

    id: int
    path: str
    moments_s: tuple[float, ...]
    max_bytes: int


@dataclass(frozen=True)
class PhotoInput:
    """A request for a photo as a JPEG (``PhotoSettings``) or as a frame (``ReadSettings``).

    See ``jpegs.jpeg_from_photo`` for the JPEG.

    Attributes:
        path: path of the file; not opened if ``content`` is set.
        content: the photo itself, if it is not stored in a file.
    """

    id: int
    path: str
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class CutInput:
    """A request for parts of a photo, at most ``cuts.MAX_BOXES``; see ``cuts.cuts_from_photo``."""

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
        max_memory_mb: memory that a worker may allocate beyond what it starts with.
        slots: number of frames that a worker may be ahead.
        cache_salt: represents the encoder and the specs in the keys of the feature cache; empty without a cache.
        features: number of features per frame, D, if there is a cache.
        thumbnail_bytes, frame_thumbnail_bytes: maximum size of a photo's thumbnail, and of each thumbnail of a video's
            first frames; 0 for no thumbnails.
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

    @property
    def slot_bytes(self) -> int:
        """Size of a slot, which holds a frame or its features; a multiple of 4, so that float32 are aligned."""
        return -(-max(math.prod(self.pixel.frame_shape), 4 * self.features) // 4) * 4

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
        max_memory_mb: memory that a worker may allocate beyond what it starts with.
    """

    max_memory_mb: int = 2048

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class PhotoSettings:
    """Size and quality of JPEGs of photos.

    Attributes:
        max_width, max_height: sides, in pixels, of the box that they fit into.
        quality: 1 to 100, on libjpeg's scale.
        max_memory_mb: memory that a worker may allocate beyond what it starts with.

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
    """Size of parts of photos.

    Attributes:
        max_side: in pixels; larger parts are scaled down.
        max_memory_mb: memory that a worker may allocate beyond what it starts with.
    """

    max_side: int = 4096
    max_memory_mb: int = 2048

    def to_json(self) -> str:
        return json.dumps(asdict(self))


Settings = ReadSettings | ThumbnailSettings | PhotoSettings | CutSettings


def settings_from_json(text: str) -> Settings:
    """Parse settings of any kind from the text that their ``to_json`` returned."""
    values = json.loads(text)
    if "pixel" in values:
        return ReadSettings.from_json(text)
    if "max_side" in values:
        return CutSettings(**values)
    return PhotoSettings(**values) if "quality" in values else ThumbnailSettings(**values)


@dataclass(frozen=True, eq=False)
class KnownFrame:
    """A frame whose features, float32 (D,), come from the cache."""

    index: int
    time_s: float
    features: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Again:
    """Signals that all earlier items of this input are void: it will be read again from the start."""


@dataclass(frozen=True)
class Pause:
    """Signals that all inputs so far have ended and the next has not arrived yet.

    It belongs to no input: it follows the last end.
    """


@dataclass(frozen=True)
class InputEnd:
    """Final state of an input.

    Attributes:
        state: one of ``FINAL_STATES``.
        reason: why it is not ``ok``, or a remark on an input that is.
        decode_s: time spent decoding.
        key: key of its windows in the feature cache.
        content: sha256 of the file; empty if nothing was read.
        bytes, mtime_ns: size and modification time of the file when it was read; None if there was no file.
        is_starved: it needs more memory than it may have.
        is_refused: access to it is denied.
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
