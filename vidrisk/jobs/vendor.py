"""A bundle for other toolchains: reads calibration samples, then hands over to ``vidrisk.export.vendor.folder``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidrisk.data import Table
from vidrisk.data.choice import balanced_order
from vidrisk.export.vendor.folder import write_vendor_files
from vidrisk.files.cache import array_cache
from vidrisk.frames.cached import CachedClips
from vidrisk.jobs.export import readable_samples
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.bundle import Bundle


def write_vendor(bundle: Bundle, table: Table | None, run: Path, out: Path, samples: int = 128, seed: int = 0) -> None:
    """Write a bundle's fp32 variant, calibration frames and expected outputs for the toolchains of other vendors.

    Args:
        table: to calibrate on; None takes the training split of ``run``.
        samples: to write, balanced over classes and sources.

    Raises:
        BundleError: ``out`` exists.
        DataError: fewer than 16 samples can be read.
        SettingsError: no fp32 variant, or a model with constants.
    """
    table = Run.open(run).read_split().of_split("train") if table is None else table
    clips = CachedClips(bundle.contract, array_cache())
    kept = readable_samples(balanced_order(table, seed), samples, clips, lambda what, done, total: None)
    windows = np.stack([clips.frames(sample.path, bundle.contract.frames, sample.interval) for sample in kept])
    write_vendor_files(bundle, windows, out)
