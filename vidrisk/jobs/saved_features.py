"""Features of every frame that a run keeps, for long-video heads and retrieval.

    OUT/features/00000012.npy    the frames of input 12 of the ledger, one record (time_s, features) per frame

A file is written frame by frame while a video is being encoded, so that an hour of it is never held in memory, and
becomes visible only when it is complete:

>>> frames = np.load("out/features/00000012.npy", mmap_mode="r")      # doctest: +SKIP
>>> frames["time_s"], frames["features"]                              # doctest: +SKIP

After a kill nothing is lost: an input with the state ``ok`` or ``partial`` in the ledger has its features. A power cut
may lose some: these files are not synced, because for a folder of photos that would be most of the writing, so those of
the last half minute may be missing or truncated. Reading them reports that, and an input that is touched is read again
when the run is resumed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk.decode.messages import READ_STATES, InputEnd
from vidrisk.inference.encode import EncodedFrames
from vidrisk.jobs.folder import explain_write_errors
from vidrisk.jobs.ledger import read_ledger
from vidrisk.runtimes.contract.errors import DataError, SpecError

FEATURES = "features"
LARGEST = float(np.finfo(np.float16).max)
HEADER_BYTES = 256  # reserved, so that the number of frames can be filled in at the end

Features = npt.NDArray[np.float16]
Times = npt.NDArray[np.float64]


def features_path(out: Path, row_id: int) -> Path:
    return out / FEATURES / f"{row_id:08}.npy"


class FeatureFile:
    """The features of one input while they are being written.

    They are stored as float16, which halves the space: the error is at most 2⁻¹¹ (0.05 %) of the value, or 3e-8 near 0,
    and values beyond ±65504 are clipped. Non-finite values, in an input with other windows that could be answered, are
    stored as NaN.
    """

    def __init__(self, path: Path, width: int) -> None:
        """Start writing a file.

        Args:
            path: where the file appears when it is finished; an existing file stays until then.
            width: of a feature, D.

        Raises:
            VidriskError: the folder cannot be written.
        """
        self._path, self._partial = path, path.with_name(f"{path.name}.new")
        self._dtype = np.dtype([("time_s", "<f8"), ("features", "<f2", (width,))])
        self._frames = 0
        with explain_write_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("wb")
            self._file.write(_header(self._dtype, 0))

    def append(self, features: npt.NDArray[np.float32], time_s: Times) -> None:
        """Write frames: their features (n, D) and presentation times (n,).

        Raises:
            SpecError: other shapes.
            VidriskError: the disk is full.
        """
        width = self._dtype["features"].shape[0]
        if features.shape != (len(time_s), width) or time_s.ndim != 1:
            raise SpecError(f"features {features.shape} at {time_s.shape} times", allowed=f"(n, {width}) at (n,)")
        records = np.empty(len(time_s), self._dtype)
        records["time_s"] = time_s
        records["features"] = np.where(np.isfinite(features), np.clip(features, -LARGEST, LARGEST), np.nan)
        with explain_write_errors(self._path.parent):
            self._file.write(records.tobytes())
        self._frames += len(records)

    def finish(self) -> None:
        """Make the file visible atomically.

        Raises:
            VidriskError: the disk is full.
        """
        with explain_write_errors(self._path.parent):
            self._file.seek(0)
            self._file.write(_header(self._dtype, self._frames))
            self._file.close()
            self._partial.replace(self._path)

    def discard(self) -> None:
        """Delete what was written. After ``finish`` it does nothing."""
        with suppress(OSError):  # closing a file on a full disk tries to write again
            self._file.close()
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)


class SavedFeatures:
    """The feature files of a run, one per input being read: the ``encode.FeatureSink`` of ``--save-features``."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._open: dict[int, FeatureFile] = {}

    def append(self, input_id: int, frames: EncodedFrames) -> None:
        if input_id not in self._open:
            self._open[input_id] = FeatureFile(features_path(self._out, input_id), frames.features.shape[1])
        self._open[input_id].append(frames.features, frames.time_s)

    def discard(self, input_id: int) -> None:
        if input_id in self._open:
            self._open.pop(input_id).discard()

    def finish(self, input_id: int, end: InputEnd) -> None:
        """Keep the features of an input that could be read.

        For an input that could not be read nothing is kept, not even features of an earlier content from the run that
        this one continues.

        Raises:
            VidriskError: the folder cannot be written.
        """
        if end.state in READ_STATES and input_id in self._open:
            self._open.pop(input_id).finish()
            return
        self.discard(input_id)
        with explain_write_errors(self._out):
            features_path(self._out, input_id).unlink(missing_ok=True)

    def close(self) -> None:
        for row_id in list(self._open):
            self.discard(row_id)


def read_features(out: Path, row_id: int) -> tuple[Features, Times]:
    """Return features (n, D) and presentation times (n,) of an input's frames, memory-mapped.

    Raises:
        DataError: the run kept none for this row of the ledger, or the file is damaged.
    """
    path = features_path(out, row_id)
    try:
        records = np.load(path, mmap_mode="r", allow_pickle=False)
        return records["features"], records["time_s"]
    except FileNotFoundError as error:
        raise DataError(f"{out} holds no features of row {row_id}", fix="run infer with save_features") from error
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be read: {error}", fix="touch its input and resume the run") from error


def features_of(out: Path) -> Iterator[tuple[str, Features, Times]]:
    """Yield path, features and times of every readable input, in input order.

    Raises:
        VidriskError: no ledger there; or as ``read_features``.
    """
    for row in read_ledger(out):
        if row.state in READ_STATES:
            yield row.path, *read_features(out, row.id)


def _header(dtype: np.dtype[np.void], frames: int) -> bytes:
    """Return a fixed-length header of an .npy file, version 1.0 (see numpy.lib.format)."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (frames,)}
    magic = np.lib.format.magic(1, 0)
    length = HEADER_BYTES - len(magic) - 2
    return magic + struct.pack("<H", length) + (repr(described).ljust(length - 1) + "\n").encode("latin-1")
