"""Frame reader, the only path from a file to ``uint8 (T, height, width, 3)`` in training, calibration and inference."""

from vidrisk.frames.clip import Clip, Damage, Frame, FrameWindow, MediaInfo
from vidrisk.frames.interval import Interval
from vidrisk.frames.media import MEDIA_SUFFIXES, is_media, kind_of
from vidrisk.frames.reader import decoder_versions, probe, read_clips, read_frames
from vidrisk.runtimes.contract.choices import Decoder, FrameChoice

__all__ = [
    "MEDIA_SUFFIXES",
    "Clip",
    "Damage",
    "Decoder",
    "Frame",
    "FrameChoice",
    "FrameWindow",
    "Interval",
    "MediaInfo",
    "decoder_versions",
    "is_media",
    "kind_of",
    "probe",
    "read_clips",
    "read_frames",
]
