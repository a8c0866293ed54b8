"""File of one engine: a header that says what it was built for, then the page-aligned engine for memory mapping.

magic, format, length and CRC-32 of the header │ the header in JSON, padded with spaces │ the engine
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import platform
import struct
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.folders import open_private
from vidrisk.runtimes.tensorrt.api import Kind
from vidrisk.runtimes.tensorrt.device import Device

LARGEST_BATCH = 4096
PORTABLE_FROM = (8, 0)  # Ampere: the oldest GPU that a portable engine runs on
SUFFIX = ".engine"
FORMAT = 1

_MAGIC = b"vrengine"
_HEAD = struct.Struct("<8sIII")
_PAGE_BYTES = 4096
_MOST_HEADER_BYTES = 1 << 20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")]
Rows = Annotated[int, Field(ge=1, le=LARGEST_BATCH)]


class DamagedEngineError(Exception):
    """File that is not a complete engine; the message is a clause that says why."""


class ForeignFormatError(Exception):
    """File of a later or earlier format, written by another version of vidrisk."""


@dataclass(frozen=True)
class Batches:
    """Range of rows per call that an engine accepts, and the number it is tuned for."""

    min: Rows = 1
    opt: Rows = 8
    max: Rows = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= LARGEST_BATCH:
            raise SettingsError(
                f"batches {self.min},{self.opt},{self.max}",
                allowed=f"1 ≤ MIN ≤ OPT ≤ MAX ≤ {LARGEST_BATCH}, for example 1,8,64",
            )


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on.

    Attributes:
        kind, version: the library that built it.
        gpu: model of the GPU it was built on (``Device.model``); empty if that is irrelevant (built ahead of time, or
            portable).
        compute_capabilities: GPUs that it was built for; empty for a portable engine of TensorRT for RTX, which runs on
            all from Ampere on.
        driver_major: major CUDA version of the driver it was built with; empty if ``gpu`` is.
        graph_sha256: sha256 of the ONNX file, see ``graph_sha256``.
        batches: rows per call.
        dla: built for the deep-learning accelerator of a Jetson, with the GPU for unsupported layers.
        portable: runs on every GPU from Ampere on, and also with later versions of TensorRT.
        machine: processor architecture (``x86_64``) of the host code in a portable engine of TensorRT; else empty.
    """

    kind: Kind
    version: Version
    gpu: str
    compute_capabilities: tuple[Version, ...]
    driver_major: str
    graph_sha256: Sha256
    batches: Batches
    dla: bool = False
    portable: bool = False
    machine: str = ""

    @property
    def stem(self) -> str:
        """Name of the engine's files without suffix, which begins with the graph's hash."""
        described = json.dumps([FORMAT, asdict(self)], sort_keys=True)
        return f"{self.graph_sha256}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"

    def misfit(self, kind: Kind, version: str, device: Device) -> str | None:
        """Return why an engine of this key must not be loaded here, as a clause, or None if it may."""
        if self.kind != kind:
            return f"built with {self.kind}, here is {kind}"
        suits_later = self.portable and kind == "tensorrt"  # TensorRT for RTX only loads engines of its own version
        if version != self.version and not (suits_later and _numbers(version) > _numbers(self.version)):
            return f"built for {kind} {self.version}, here is {version}"
        if self.machine not in ("", platform.machine()):
            return f"built for {self.machine}, here is {platform.machine()}"
        here = f"here is {device.model} ({device.compute_capability})"
        if self.portable:
            if min(map(_numbers, (*self.compute_capabilities, device.compute_capability))) < PORTABLE_FROM:
                return f"portable among GPUs of compute capability 8.0 and later, {here}"
        elif device.compute_capability not in self.compute_capabilities or self.gpu not in ("", device.model):
            return (
                f"built for {self.gpu or 'GPUs of compute capability'} ({', '.join(self.compute_capabilities)}), {here}"
            )
        if self.driver_major not in ("", device.driver_major):
            return f"built with a driver for CUDA {self.driver_major}, here is one for CUDA {device.driver_major}"
        return None


@dataclass(frozen=True)
class Engine:
    """Engine file whose header has been read.

    Attributes:
        key: what it was built for.
        sha256, bytes: hash and size of the engine, which begins at byte ``start``.
        created: time in UTC, ISO 8601.
        mapped: the whole opened file; what is verified is what is loaded, even if the path is replaced meanwhile.
    """

    path: Path
    key: EngineKey
    sha256: str
    bytes: int
    start: int
    created: str
    mapped: memoryview = field(repr=False, compare=False)

    def blob(self) -> memoryview:
        """Return the serialized engine, memory-mapped without a copy."""
        return self.mapped[self.start :]

    def verify(self) -> None:
        """Verify the sha256 of the engine.

        Raises:
            DamagedEngineError: it has changed.
        """
        if hashlib.sha256(self.blob()).hexdigest() != self.sha256:
            raise DamagedEngineError("its file has changed (sha256 differs)")

    @property
    def layers_path(self) -> Path:
        """File that describes the engine's layers."""
        return self.path.with_suffix(".layers.json")

    @property
    def kernels_path(self) -> Path:
        """File that caches the kernels that TensorRT for RTX compiles at run time."""
        return self.path.with_suffix(".kernels")


@dataclass(frozen=True)
class _Header:
    key: EngineKey
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]
    created: str


_HEADER = TypeAdapter(_Header)


def head_of_engine(key: EngineKey, blob: memoryview, created: str) -> bytes:
    """Return the bytes that precede ``blob`` in its file."""
    header = _HEADER.dump_json(_Header(key, hashlib.sha256(blob).hexdigest(), len(blob), created))
    pages = -(-(_HEAD.size + len(header)) // _PAGE_BYTES)
    header = header.ljust(pages * _PAGE_BYTES - _HEAD.size)
    return _HEAD.pack(_MAGIC, FORMAT, len(header), zlib.crc32(header)) + header


def read_engine(path: Path) -> Engine:
    """Read the header of an engine's file.

    Raises:
        DamagedEngineError: it is truncated, changed, named like another engine, or not an engine.
        ForeignFormatError: it has another format.
        UntrustedError, OSError: somebody else may have written it, or it cannot be read.
    """
    with open_private(path) as file:
        mapped = memoryview(
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""
        )
    if len(mapped) < _HEAD.size:
        raise DamagedEngineError("its file is cut off in the header")
    magic, form, length, crc = _HEAD.unpack_from(mapped)
    if magic != _MAGIC:
        raise DamagedEngineError("its file is not an engine of vidrisk")
    if form != FORMAT:
        raise ForeignFormatError(f"its file has format {form}, here is {FORMAT}")
    text = bytes(mapped[_HEAD.size : _HEAD.size + min(length, _MOST_HEADER_BYTES)])
    if len(text) != length or zlib.crc32(text) != crc:
        raise DamagedEngineError("the header of its file is cut off or has changed")
    try:
        header = _HEADER.validate_json(text, strict=True)
    except (ValidationError, SettingsError) as error:
        raise DamagedEngineError("the header of its file is invalid") from error
    start = _HEAD.size + length
    if len(mapped) != start + header.bytes:
        raise DamagedEngineError(f"its file has {len(mapped)} of {start + header.bytes} bytes")
    if path.name != header.key.stem + SUFFIX:
        raise DamagedEngineError("its file has the name of another engine")
    return Engine(path, header.key, header.sha256, header.bytes, start, header.created, mapped)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))
