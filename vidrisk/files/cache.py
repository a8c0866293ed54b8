"""On-disk cache of computed arrays, keyed by the content that they were computed from.

    $VIDRISK_CACHE/arrays/ab/cdef…    one entry: the arrays of one key

The key is a digest of everything that the arrays depend on, so an entry never becomes stale. Entries that are no longer
needed are evicted, least recently used first. A problem with the folder (full, read-only, damaged) costs time but never
fails a run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import struct
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.folders import (
    bytes_from_variable,
    cache_folder,
    is_private_folder,
    make_private_folder,
    open_private,
    write_private,
)

log = logging.getLogger(__name__)

Arrays = Mapping[str, npt.NDArray[Any]]

SIZE_VARIABLE = "VIDRISK_CACHE_GB"
DEFAULT_GB = 2.0
MAX_PART_OF_BOUND = 4  # an entry may take a quarter of the bound: one entry must not evict everything else
SCAN_PART_OF_BOUND = 8  # part of the bound that may be written between two scans of the folder
MIN_FREE_BYTES = 2**30  # disk space left free for other programs

# An entry: magic, length and CRC-32 of a JSON index [[name, dtype, shape, CRC-32], …], the index, the arrays' bytes.
KINDS = "biufc"  # numpy dtype kinds
_MAGIC = b"vrarray1"
_HEAD = struct.Struct("<8sII")


def key_of(*parts: str) -> str:
    """Return the hex sha256 of text parts in order; ``("ab", "c")`` differs from ``("a", "bc")``."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def array_cache() -> ArrayCache:
    """Return the user's cache, of 2 GiB or the size in ``VIDRISK_CACHE_GB``; 0 stores nothing.

    Raises:
        SettingsError: the variable does not hold a size.
    """
    return ArrayCache(cache_folder() / "arrays", bytes_from_variable(SIZE_VARIABLE, DEFAULT_GB, may_be_zero=True))


class ArrayCache:
    """Named arrays by key, safe for several processes and threads at once.

    An entry appears complete or not at all. The folder stays within ``max_bytes``; each additional process that writes
    at the same time may exceed them by an eighth until it scans the folder again.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._room = 0  # bytes that may be written before the next scan of the folder
        self._works = True

    def ensure_folder(self) -> bool:
        """Create the folder; return whether the cache can be used.

        Returns:
            False if it cannot be created, or if other users may write to it: then nothing is stored or found.
        """
        try:
            make_private_folder(self.folder)
        except OSError as error:
            self._give_up(error)
            return False
        return is_private_folder(self.folder)

    def get(self, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays under ``key``, or None if there are none or the entry is damaged."""
        path = self._path(key)
        if not is_private_folder(path.parent):
            return None
        try:
            arrays = _read_entry(path)
        except OSError:
            return None
        except (ValueError, TypeError, SyntaxError, RecursionError, struct.error) as error:
            log.info("%s is damaged and was removed: %s", path, error)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # a read-only cache can still be read
            os.utime(path)
        return arrays

    def put(self, key: str, arrays: Arrays) -> None:
        """Store numeric arrays under ``key``, unless they exceed a quarter of the bound or the disk is full.

        Raises:
            SpecError: an array holds anything but numbers and booleans.
        """
        blocks = _blocks_from_arrays(arrays)
        size = sum(len(block) for block in blocks)
        if not self._works or size > self.max_bytes // MAX_PART_OF_BOUND:
            return
        path = self._path(key)
        try:
            make_private_folder(path.parent)
            if size > self._room:
                self._make_room(size)
            if size > self._room:
                return
            with write_private(path) as file:
                file.writelines(blocks)
            self._room -= size
        except OSError as error:
            self._give_up(error)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def _give_up(self, error: OSError) -> None:
        if self._works:
            log.info("the cache in %s is no longer written: %s", self.folder, error)
        self._works = False

    def _make_room(self, size: int) -> None:
        """Scan the folder, and evict the least recently used entries until there is room.

        Room is ``size`` bytes, or an eighth of the bound if that is more. Temporary files of killed processes are
        evicted like any other entry.
        """
        entries = []
        for folder in filter(os.DirEntry.is_dir, os.scandir(self.folder)):
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):  # another process removed it
                    info = entry.stat()
                    entries.append((info.st_mtime_ns, info.st_size, entry.path))
        held = sum(bytes_ for _, bytes_, _ in entries)
        bound = min(self.max_bytes, held + shutil.disk_usage(self.folder).free - MIN_FREE_BYTES)
        wanted = max(size, self.max_bytes // SCAN_PART_OF_BOUND)
        for _, bytes_, path in sorted(entries):
            if held + wanted <= bound:
                break
            Path(path).unlink(missing_ok=True)
            held -= bytes_
        self._room = min(wanted, bound - held)


def _blocks_from_arrays(arrays: Arrays) -> list[bytes | memoryview]:
    index, raws = [], []
    for name, array in arrays.items():
        if array.dtype.kind not in KINDS:
            raise SpecError(f"{name} is {array.dtype}", allowed="numbers and booleans")
        raw = _bytes_of(np.ascontiguousarray(array))
        index.append((name, array.dtype.str, array.shape, zlib.crc32(raw)))
        raws.append(raw)
    described = json.dumps(index).encode()
    return [_HEAD.pack(_MAGIC, len(described), zlib.crc32(described)) + described, *raws]


def _read_entry(path: Path) -> dict[str, npt.NDArray[Any]]:
    with open_private(path) as file:
        size = os.fstat(file.fileno()).st_size
        magic, length, crc = _HEAD.unpack(file.read(_HEAD.size))
        described = file.read(length) if magic == _MAGIC else b""
        if magic != _MAGIC or zlib.crc32(described) != crc:
            raise ValueError("not an entry of this cache")
        arrays = {}
        for name, dtype, shape, crc in json.loads(described):
            if np.dtype(dtype).kind not in KINDS or math.prod(shape) * np.dtype(dtype).itemsize > size:
                raise ValueError(f"{name} is {dtype} {shape} in {size} bytes")
            arrays[name] = np.empty(shape, dtype)
            raw = _bytes_of(arrays[name])
            if file.readinto(raw) != len(raw) or zlib.crc32(raw) != crc:
                raise ValueError(f"{name} is cut off or has changed")
        return arrays


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """Return the memory of a contiguous array, writable through the view."""
    return array.reshape(-1).view(np.uint8).data
