"""Export of a bundle for other toolchains: reads calibration samples, then calls ``vidrisk.export.vendor.folder``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidrisk.data import Table
from vidrisk.data.choice import make_balanced_order
from vidrisk.export.vendor.folder import write_vendor_files
from vidrisk.files.cache import array_cache
from vidrisk.frames.cached import CachedClips
from vidrisk.jobs.export import readable_samples
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.bundle import Bundle


def write_vendor(bundle: Bundle, table: Table | None, run: Path, out: Path, samples: int = 128, seed: int = 0) -> None:
    """Write a bundle's fp32 variant, calibration frames and expected outputs for other vendors' toolchains.

    Args:
        bundle: to write.
        table: to calibrate on; None takes the training split of ``run``.
        run: directory of the run, read if ``table`` is None.
        out: folder to make.
        samples: number of samples, balanced over classes and sources.
        seed: of the choice of samples.

    Raises:
        BundleError: ``out`` exists.
        DataError: fewer than 16 samples can be read.
        SettingsError: no fp32 variant, or a model with constants.
    """
    table = Run.open(run).read_split().of_split("train") if table is None else table
    clips = CachedClips(bundle.contract, array_cache())
    kept = readable_samples(make_balanced_order(table, seed), samples, clips, lambda what, done, total: None)
    windows = np.stack([clips.frames(sample.path, bundle.contract.frames, sample.interval) for sample in kept])
    write_vendor_files(bundle, windows, out)
