"""The frame reader: one way from a file to ``uint8 (T, height, width, 3)`` for training, calibration and inference."""

from vidrisk.frames.clip import Clip, MediaInfo
from vidrisk.frames.media import MEDIA_SUFFIXES, is_image, is_video
from vidrisk.frames.reader import Decoder, probe, read_clips

__all__ = ["MEDIA_SUFFIXES", "Clip", "Decoder", "MediaInfo", "is_image", "is_video", "probe", "read_clips"]
