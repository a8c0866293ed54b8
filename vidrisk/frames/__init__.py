"""The frame reader: one way from a file to ``uint8 (T, height, width, 3)`` for training, calibration and inference."""

from vidrisk.frames.clip import Clip, Damage, Frame, FrameWindow, MediaInfo
from vidrisk.frames.media import MEDIA_SUFFIXES, is_image, is_video
from vidrisk.frames.reader import Decoder, FrameChoice, decoder_versions, probe, read_clips, read_frames

__all__ = ["MEDIA_SUFFIXES", "Clip", "Damage", "Decoder", "Frame", "FrameChoice", "FrameWindow", "MediaInfo", "decoder_versions",
           "is_image", "is_video", "probe", "read_clips", "read_frames"]
