"""Settings of a run of a classifier over a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from vidrisk.decode.messages import ReadSettings
from vidrisk.decode.pool import default_workers
from vidrisk.frames import Decoder, FrameChoice
from vidrisk.inference.input_views import ONE_VIEW, Views
from vidrisk.inference.model import Classifier
from vidrisk.inference.stream import BATCH_FRAMES, MAX_MEMORY_MB, read_settings_for, time_from_contract
from vidrisk.jobs.checks import check_choice, check_instance, check_number
from vidrisk.jobs.segments import Hysteresis


@dataclass(frozen=True)
class InferSettings:
    """Settings of a run.

    Attributes:
        window_s, stride_s: override the bundle's windows, in seconds; None keeps them.
        workers: decode processes.
        batch_frames: frames per batch of the encoder.
        decoder: ``auto``, ``pyav`` or ``decord``.
        frames: ``all``, or ``keyframes`` to use at every moment the last keyframe before it.
        static_levels: a frame whose luma differs nowhere by this much or more, of 255, from the last encoded one shares
            its features; 0 encodes every frame.
        file_timeout_s: a decoder that sends nothing for so long is killed.
        max_memory_mb: that a decode process may allocate.
        resume: continue the run in the output folder.
        parquet: also write ``predictions.parquet``.
        save_features: also keep the features of every frame.
        feature_cache: cache features by the content of the file, the encoder and the specs, and use cached ones.
        hysteresis: how windows are merged into segments.

    Raises:
        SettingsError: a value that is not allowed.
    """

    window_s: float | None = None
    stride_s: float | None = None
    workers: int = field(default_factory=default_workers)
    batch_frames: int = BATCH_FRAMES
    decoder: Decoder = "auto"
    frames: FrameChoice = "all"
    static_levels: float = 0.0
    file_timeout_s: float = 60.0
    max_memory_mb: int = MAX_MEMORY_MB
    resume: bool = False
    parquet: bool = False
    save_features: bool = False
    feature_cache: bool = False
    hysteresis: Hysteresis = field(default_factory=Hysteresis)

    def __post_init__(self) -> None:
        for name in ("window_s", "stride_s"):  # the contract's moments limit their length: see for_reading
            check_instance(self, name, int | float | None, "a positive number of seconds, None")
        for name, least, most in (("workers", 1, 64), ("batch_frames", 1, 4096), ("max_memory_mb", 64, 1_048_576)):
            check_number(self, name, least, most, kind=int)
        check_number(self, "static_levels", 0, 255)
        check_number(self, "file_timeout_s", 0.1, 86_400)
        check_choice(self, "decoder", get_args(Decoder))
        check_choice(self, "frames", get_args(FrameChoice))
        for name in ("resume", "parquet", "save_features", "feature_cache"):
            check_instance(self, name, bool, "True, False")
        check_instance(self, "hysteresis", Hysteresis, "a Hysteresis")

    def for_reading(self, classifier: Classifier, views: Views = ONE_VIEW) -> ReadSettings:
        """Return the settings of the decode processes.

        Args:
            classifier: that the frames are for.
            views: whose moments are all read; features of mirrored frames are not cached.

        Raises:
            SettingsError: as ``stream.time_from_contract``; features of frames are to be saved but the model has none;
                views that the model cannot answer.
        """
        if self.save_features:
            classifier.require_feature(otherwise="leave save_features out")
        views.check(classifier.contract, time_from_contract(classifier.contract, self.window_s, self.stride_s))
        return read_settings_for(
            classifier,
            window_s=self.window_s,
            stride_s=self.stride_s,
            decoder=self.decoder,
            frames=self.frames,
            static_levels=self.static_levels,
            max_memory_mb=self.max_memory_mb,
            batch_frames=self.batch_frames,
            feature_cache=self.feature_cache and not views.is_mirrored,
            moments=views.moments,
        )
