"""Cache of computed tensors by number: in memory while there is room, then in an unnamed file.

Rows that fit in neither are not kept. The file is read and written with pread and pwrite, so it does not add to the
memory of the process, and it disappears when the process ends for any reason.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

log = logging.getLogger(__name__)

MIN_FREE_BYTES = 2**30  # disk space left to other programs


class KeptRows:
    """Tensors of one shape and type.

    Args:
        memory_bytes, disk_bytes: maximum size in memory and on disk.
        folder: folder of the file; None takes the system's folder for temporary files.
    """

    def __init__(self, memory_bytes: int, disk_bytes: int = 0, folder: Path | None = None) -> None:
        self._room, self._disk_room, self._folder = memory_bytes, disk_bytes, folder
        self._in_memory: dict[int, Tensor] = {}
        self._places: dict[int, int] = {}  # index of each row in the file
        self._file: BinaryIO | None = None
        self._like: Tensor | None = None

    def __contains__(self, number: int) -> bool:
        return number in self._in_memory or number in self._places

    @property
    def memory_bytes(self) -> int:
        """Number of bytes in memory."""
        return sum(row.numel() * row.element_size() for row in self._in_memory.values())

    def get(self, number: int) -> Tensor | None:
        """Return a row, or None if it is not kept."""
        if number in self._in_memory:
            return self._in_memory[number]
        if number not in self._places:
            return None
        assert self._file is not None and self._like is not None
        size = self._like.numel() * self._like.element_size()
        data = os.pread(self._file.fileno(), size, self._places[number] * size)
        if len(data) < size:
            return None
        return torch.frombuffer(bytearray(data), dtype=self._like.dtype).reshape(self._like.shape)

    def put(self, number: int, row: Tensor) -> bool:
        """Keep a row; return whether there was room."""
        size = row.numel() * row.element_size()
        if number in self:
            return True
        if size <= self._room:
            self._in_memory[number] = row
            self._room -= size
            return True
        return self._put_on_disk(number, row, size)

    def clear(self) -> None:
        """Free all rows."""
        self._room += self.memory_bytes
        self._in_memory.clear()
        self._places.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put_on_disk(self, number: int, row: Tensor, size: int) -> bool:
        if (len(self._places) + 1) * size > self._disk_room:
            return False
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="vidrisk-rows-", dir=self._folder)  # noqa: SIM115 (closed below)
                weakref.finalize(self, self._file.close)
                self._like = torch.empty(row.shape, dtype=row.dtype, device="meta")
            if shutil.disk_usage(self._folder or tempfile.gettempdir()).free - size < MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            place = len(self._places)
            data = row.contiguous().view(torch.uint8).numpy().data
            written = 0
            while written < size:
                written += os.pwrite(self._file.fileno(), data.cast("B")[written:], place * size + written)
            self._places[number] = place
        except OSError as error:
            log.warning(
                "the cache does not fit on disk (%s): the rest is computed again in every epoch, slower", error.strerror
            )
            self._disk_room = 0
            return False
        return True
