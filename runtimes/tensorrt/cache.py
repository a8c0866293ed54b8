"""The folder that keeps engines: what does not match is never loaded, and the reason is said.

    $VIDRISK_CACHE/engines/<sha256 of the graph>-<digest of the key>.engine    see ``engine_file.py``
                                                               .layers.json    what its layers are, to be looked at
                                                               .kernels        what TensorRT for RTX compiled when it
                                                               ran .lock           held by whoever builds it now

The name begins with the graph, so that all engines of a graph can be asked why none of them fits. An engine appears
whole or not at all, and is verified before it is used. What was used least recently makes room. An engine is code: one
that somebody else may have put there is not loaded (``folders``), and so portable ones, which bring code for the
processor, are the user's own.
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
    """No engine may be loaded, and why: a clause, such as ``built for tensorrt 10.3.0, here is 10.7.0``."""

    reason: str


def graph_sha256(path: Path) -> str:
    """sha256 of an ONNX file; where it takes weights from files beside it, of its sha256 and theirs, in the order of their names.

    Raises:
        RuntimeFailure: it is no ONNX file, or one of them is not there.
    """
    try:
        own, *weights = map(sha256_of, files_of_graph(path))
    except NotOnnxError as error:
        raise RuntimeFailure(f"{path.name} is no ONNX file: {error}", fix="export the bundle again") from error
    except OSError as error:
        raise RuntimeFailure(
            f"{error.filename} cannot be read: {error.strerror}", fix="copy the bundle again, whole"
        ) from error
    return hashlib.sha256(" ".join((own, *weights)).encode()).hexdigest() if weights else own


def engine_store() -> EngineStore:
    """The user's engines, of 8 GiB together or what ``VIDRISK_ENGINE_CACHE_GB`` says.

    Raises:
        SettingsError: the variable holds no size.
    """
    return EngineStore(cache_folder() / "engines", bytes_from_variable(SIZE_VARIABLE, DEFAULT_GB))


class EngineStore:
    """Engines in one folder, for several processes at once.

    Args:
        max_bytes: what all of them may take together; None sets no bound.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def find(self, kind: Kind, version: str, device: Device, graph_sha256: str) -> Engine | Missing:
        """The newest engine of a graph that may be loaded here, verified. Damaged files are removed on the way."""
        opened = [self._opened(path) for path in self.folder.glob(f"{graph_sha256}-*{SUFFIX}")]
        reasons = [one.reason for one in opened if isinstance(one, Missing)]
        for engine in sorted(
            (one for one in opened if isinstance(one, Engine)), key=lambda engine: engine.created, reverse=True
        ):
            misfit = engine.key.misfit(kind, version, device)
            whole = Missing(misfit) if misfit else self._verified(engine)
            if isinstance(whole, Engine):
                return whole
            reasons.append(whole.reason)
        return Missing(reasons[0] if reasons else NONE_YET)

    def get(self, key: EngineKey) -> Engine | Missing:
        """The engine of exactly this key, verified."""
        path = self._path(key)
        opened = self._opened(path) if os.path.lexists(path) else Missing(NONE_YET)
        return self._verified(opened) if isinstance(opened, Engine) else opened

    @contextmanager
    def lock(self, key: EngineKey) -> Iterator[None]:
        """Alone with this key: a second builder says that it waits, and has to look for the first one's engine then. The lock of
        a process that died is free.

        Raises:
            RuntimeFailure: the folder cannot be written.
        """
        path = self._path(key).with_suffix(LOCK)
        try:
            make_private_folder(self.folder)
            file = _locked(path)
        except OSError as error:
            raise self._refusal(error) from error
        with file:
            try:
                for left in self.folder.glob(f"{key.stem}.*.tmp"):  # by a builder that was killed
                    left.unlink(missing_ok=True)
                yield
            finally:
                path.unlink(missing_ok=True)

    def add(self, key: EngineKey, blob: Buffer, layers_json: str) -> Path:
        """Keep an engine; call it inside ``lock(key)``.

        Raises:
            RuntimeFailure: it is larger than the whole folder may be, or the disk is full; nothing of it stays.
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
        """Before an engine is built that could not be kept.

        Raises:
            RuntimeFailure: the disk has less than ``size`` bytes left.
        """
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise self._refusal(
                OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB are free of about {size / 1e6:.0f} MB that it needs")
            )

    def _path(self, key: EngineKey) -> Path:
        return self.folder / f"{key.stem}{SUFFIX}"

    def _opened(self, path: Path) -> Engine | Missing:
        try:
            check_private_folder(self.folder)
            return read_engine(path)
        except DamagedEngineError as error:
            return self._removed(path, error)
        except (ForeignFormatError, OSError) as error:
            return Missing(str(error))

    def _verified(self, engine: Engine) -> Engine | Missing:
        try:
            engine.verify()
        except DamagedEngineError as error:
            return self._removed(engine.path, error)
        except OSError as error:
            return Missing(str(error))
        with suppress(OSError):  # a folder that may only be read serves all the same
            os.utime(engine.path)
        return engine

    def _removed(self, path: Path, damage: DamagedEngineError) -> Missing:
        log.warning("%s is removed: %s", path, damage)
        self._remove(path.stem)
        return Missing(f"{damage}, and was removed")

    def _remove(self, stem: str) -> None:
        for path in self.folder.glob(f"{stem}.*"):
            if path.suffix != LOCK:  # its holder removes that
                with suppress(OSError):
                    path.unlink()

    def _make_room(self, size: int) -> None:
        """Remove what was used least recently until ``size`` bytes fit.

        Raises:
            OSError: they never will.
        """
        if self.max_bytes is None:
            return
        if size > self.max_bytes:
            raise OSError(
                errno.EFBIG, f"it has {size / 1e6:.0f} MB, all engines together may have {self.max_bytes / 1e6:.0f} MB"
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
            log.info("the engine %s makes room for a new one", stem)
            self._remove(stem)
            del held[stem]

    def _refusal(self, error: OSError) -> RuntimeFailure:
        fix = "give VIDRISK_CACHE, or `vidrisk build -o`, a folder that you, and nobody else, can write"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            fix = f"free some space there, raise {SIZE_VARIABLE}, or set VIDRISK_CACHE to another folder"
        return RuntimeFailure(f"an engine cannot be kept in {self.folder}: {error.strerror or error}", fix=fix)


def _locked(path: Path) -> IO[bytes]:
    """The open file at ``path``, locked. Whoever held it has removed it: then the lock is one on nothing, and taken again."""
    while True:
        file = create_private(path)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("another process builds this engine; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                    return file
        except BaseException:
            file.close()
            raise
        file.close()
