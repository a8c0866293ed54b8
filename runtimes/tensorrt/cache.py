"""Engine cache: a folder of engines, of which only those that match are loaded; otherwise the reason is reported.

    $VIDRISK_CACHE/engines/<sha256 of the graph>-<digest of the key>.engine    see ``engine_file.py``
                                                               .layers.json    its layers, for people
                                                               .kernels        kernels that TensorRT for RTX compiled
                                                                               at run time
                                                               .lock           held by the process that builds it

The name begins with the graph's hash, so all engines of a graph can be listed to report why none of them matches. An
engine is written atomically and verified before use. The least recently used ones are removed to make room. An engine
is code: one that somebody else may have put there is not loaded (``folders``), so portable engines, which contain code
for the processor, are also the user's own.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from typing_extensions import Buffer

from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.contract.onnx_file import NotOnnxError, files_of_graph
from vidrisk.runtimes.folders import (
    bytes_from_variable,
    cache_folder,
    check_private_folder,
    create_private,
    make_private_folder,
    write_private,
)
from vidrisk.runtimes.tensorrt.api import Kind
from vidrisk.runtimes.tensorrt.device import Device
from vidrisk.runtimes.tensorrt.engine_file import (
    SUFFIX,
    Batches,
    DamagedEngineError,
    Engine,
    EngineKey,
    ForeignFormatError,
    head_of_engine,
    read_engine,
)

__all__ = ["Batches", "Engine", "EngineKey", "EngineStore", "Missing", "engine_store", "graph_sha256"]

log = logging.getLogger(__name__)

SIZE_VARIABLE = "VIDRISK_ENGINE_CACHE_GB"
DEFAULT_GB = 8.0
NONE_YET = "none has been built yet"
LOCK = ".lock"


@dataclass(frozen=True)
class Missing:
    """Reason why no engine can be loaded, a clause such as ``built for tensorrt 10.3.0, here is 10.7.0``."""

    reason: str


def graph_sha256(path: Path) -> str:
    """Return the sha256 of an ONNX file.

    If the file has external weights, it is the sha256 of its own sha256 and theirs, in the order of the file names.

    Raises:
        RuntimeFailure: it is not an ONNX file, or one of the files is missing.
    """
    try:
        own, *weights = map(sha256_of, files_of_graph(path))
    except NotOnnxError as error:
        raise RuntimeFailure(f"{path.name} is not an ONNX file: {error}", fix="export the bundle again") from error
    except OSError as error:
        raise RuntimeFailure(
            f"{error.filename} cannot be read: {error.strerror}", fix="copy the bundle again, whole"
        ) from error
    return hashlib.sha256(" ".join((own, *weights)).encode()).hexdigest() if weights else own


def engine_store() -> EngineStore:
    """Return the user's engine cache, limited to ``VIDRISK_ENGINE_CACHE_GB`` (default 8 GiB).

    Raises:
        SettingsError: the variable does not hold a size.
    """
    return EngineStore(cache_folder() / "engines", bytes_from_variable(SIZE_VARIABLE, DEFAULT_GB))


class EngineStore:
    """Engines in one folder, which several processes may use concurrently.

    Args:
        max_bytes: maximum total size; None for no limit.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def find(self, kind: Kind, version: str, device: Device, graph_sha256: str) -> Engine | Missing:
        """Return the newest matching engine of a graph, verified; remove damaged files found on the way."""
        opened = [self._open(path) for path in self.folder.glob(f"{graph_sha256}-*{SUFFIX}")]
        reasons = [one.reason for one in opened if isinstance(one, Missing)]
        for engine in sorted(
            (one for one in opened if isinstance(one, Engine)), key=lambda engine: engine.created, reverse=True
        ):
            misfit = engine.key.misfit(kind, version, device)
            whole = Missing(misfit) if misfit else self._verify(engine)
            if isinstance(whole, Engine):
                return whole
            reasons.append(whole.reason)
        return Missing(reasons[0] if reasons else NONE_YET)

    def get(self, key: EngineKey) -> Engine | Missing:
        """Return the engine of exactly this key, verified."""
        path = self._path(key)
        opened = self._open(path) if os.path.lexists(path) else Missing(NONE_YET)
        return self._verify(opened) if isinstance(opened, Engine) else opened

    @contextmanager
    def lock(self, key: EngineKey) -> Iterator[None]:
        """Hold the exclusive lock of a key.

        A second builder logs that it waits, and afterwards has to look for the first one's engine. The lock of a dead
        process is free.

        Raises:
            RuntimeFailure: the folder is not writable.
        """
        path = self._path(key).with_suffix(LOCK)
        try:
            make_private_folder(self.folder)
            file = _open_locked(path)
        except OSError as error:
            raise self._refusal(error) from error
        with file:
            try:
                for left in self.folder.glob(f"{key.stem}.*.tmp"):  # left by a killed builder
                    left.unlink(missing_ok=True)
                yield
            finally:
                path.unlink(missing_ok=True)

    def add(self, key: EngineKey, blob: Buffer, layers_json: str) -> Path:
        """Store an engine; call it inside ``lock(key)``.

        Raises:
            RuntimeFailure: it is larger than the whole cache may be, or the disk is full; no partial file remains.
        """
        data, created = memoryview(blob), datetime.now(timezone.utc).isoformat(timespec="microseconds")
        head = head_of_engine(key, data, created)
        path = self._path(key)
        layers = path.with_suffix(".layers.json")
        try:
            make_private_folder(self.folder)
            self._make_room(len(head) + len(data))
            with create_private(layers) as file:
                file.write(layers_json.encode())
            with write_private(path) as file:
                file.writelines((head, data))
        except OSError as error:
            with suppress(OSError):
                layers.unlink()
            raise self._refusal(error) from error
        return path

    def check_room(self, size: int) -> None:
        """Check that an engine can be stored before it is built.

        Raises:
            RuntimeFailure: the disk has less than ``size`` bytes left.
        """
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise self._refusal(
                OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB are free, but it needs about {size / 1e6:.0f} MB")
            )

    def _path(self, key: EngineKey) -> Path:
        return self.folder / f"{key.stem}{SUFFIX}"

    def _open(self, path: Path) -> Engine | Missing:
        try:
            check_private_folder(self.folder)
            return read_engine(path)
        except DamagedEngineError as error:
            return self._remove_damaged(path, error)
        except (ForeignFormatError, OSError) as error:
            return Missing(str(error))

    def _verify(self, engine: Engine) -> Engine | Missing:
        try:
            engine.verify()
        except DamagedEngineError as error:
            return self._remove_damaged(engine.path, error)
        except OSError as error:
            return Missing(str(error))
        with suppress(OSError):  # a read-only folder is fine
            os.utime(engine.path)
        return engine

    def _remove_damaged(self, path: Path, damage: DamagedEngineError) -> Missing:
        log.warning("%s is removed: %s", path, damage)
        self._remove(path.stem)
        return Missing(f"{damage}, and was removed")

    def _remove(self, stem: str) -> None:
        for path in self.folder.glob(f"{stem}.*"):
            if path.suffix != LOCK:  # its holder removes it
                with suppress(OSError):
                    path.unlink()

    def _make_room(self, size: int) -> None:
        """Remove the least recently used engines until ``size`` bytes fit.

        Raises:
            OSError: they exceed the limit of the whole cache.
        """
        if self.max_bytes is None:
            return
        if size > self.max_bytes:
            raise OSError(
                errno.EFBIG,
                f"it has {size / 1e6:.0f} MB, but all engines together are limited to {self.max_bytes / 1e6:.0f} MB",
            )
        held: dict[str, int] = {}
        used: dict[str, int] = {}
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):  # another process removed it
                info, stem = entry.stat(), entry.name.partition(".")[0]
                held[stem] = held.get(stem, 0) + info.st_size
                used[stem] = max(used.get(stem, 0), info.st_mtime_ns)
        for stem in sorted(used, key=used.__getitem__):
            if sum(held.values()) + size <= self.max_bytes:
                break
            log.info("the engine %s is removed to make room for a new one", stem)
            self._remove(stem)
            del held[stem]

    def _refusal(self, error: OSError) -> RuntimeFailure:
        fix = "set VIDRISK_CACHE, or `vidrisk build -o`, to a folder that only you can write"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            fix = f"free some space there, raise {SIZE_VARIABLE}, or set VIDRISK_CACHE to another folder"
        return RuntimeFailure(f"an engine cannot be stored in {self.folder}: {error.strerror or error}", fix=fix)


def _open_locked(path: Path) -> IO[bytes]:
    """Open and lock the file at ``path``; retry if its previous holder has removed the file in the meantime."""
    while True:
        file = create_private(path)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("another process is building this engine; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                    return file
        except BaseException:
            file.close()
            raise
        file.close()
