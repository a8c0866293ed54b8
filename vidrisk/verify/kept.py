"""The last verification results in the user's cache: one file per bundle, runtime and variant.

    $VIDRISK_CACHE/verified/<digest of the bundle>-<runtime>-<variant>.json

A result is valid for the engine, driver and GPU, machine and vidrisk that it was found with. If one of them changes, or
a TensorRT engine is rebuilt, the bundle has to be verified again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from vidrisk import __version__
from vidrisk.runtimes.contract.bundle import MANIFEST
from vidrisk.runtimes.folders import cache_folder, is_private_folder, make_private_folder, open_private, write_private
from vidrisk.runtimes.gpu import driver_version, visible_gpu
from vidrisk.runtimes.registry import GPU_RUNTIMES, engine_version
from vidrisk.verify.result import State, Verification

log = logging.getLogger(__name__)

MOST_KEPT = 100  # files; the oldest ones are deleted


@dataclass(frozen=True)
class Kept:
    """One result.

    Attributes:
        folder, digest: of the bundle.
        said: the faults; empty if the answers were the expected ones.
        when: in UTC, ISO 8601.
        found_with: what the result depends on, by name.
        engine_files: as in ``Row``.
    """

    folder: str
    digest: str
    runtime: str
    variant: str
    state: State
    said: str
    when: str
    engine_files: str
    found_with: dict[str, str]

    @property
    def changed(self) -> dict[str, tuple[str, str]]:
        """Dependencies that have changed, by name: then and now."""
        now = result_dependencies(self.runtime)
        return {
            name: (self.found_with.get(name, ""), now.get(name, ""))
            for name in sorted(self.found_with.keys() | now.keys())
            if self.found_with.get(name) != now.get(name)
        }

    @property
    def is_there(self) -> bool:
        """Whether that bundle is still where it was."""
        try:
            return hashlib.sha256((Path(self.folder) / MANIFEST).read_bytes()).hexdigest() == self.digest
        except OSError:
            return False

    @property
    def is_good(self) -> bool:
        """Whether the answers were the expected ones, and nothing has changed since."""
        return self.state == "same" and not self.changed


def result_dependencies(runtime: str) -> dict[str, str]:
    """Return what a result depends on apart from the bundle."""
    gpu = {"GPU": visible_gpu() or "", "driver": driver_version()} if runtime in GPU_RUNTIMES else {}
    return {
        runtime: engine_version(runtime) or "",
        **gpu,
        "machine": f"{platform.node()} {platform.machine()}",
        "vidrisk": __version__,
    }


def keep(found: Verification) -> None:
    """Store every row that ran.

    A folder that cannot be written costs one verification per start, nothing more.
    """
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        make_private_folder(_folder())
        for row in found.rows:
            if row.problem:
                continue
            said = "; ".join(fault.said for fault in found.faults if fault.is_of(row))
            state, depends_on = found.state_of(row), result_dependencies(row.runtime)
            kept = Kept(
                str(found.folder),
                found.digest,
                row.runtime,
                row.variant,
                state,
                said,
                when,
                row.engine_files,
                depends_on,
            )
            with write_private(_path(found.digest, row.runtime, row.variant)) as file:
                file.write(json.dumps(asdict(kept)).encode())
        for old in _newest_first()[MOST_KEPT:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.info("the verification results are not kept: %s", error)


def last_result(digest: str, runtime: str, variant: str) -> Kept | None:
    """Return the last result, or None if none is known."""
    return _read(_path(digest, runtime, variant)) if is_private_folder(_folder()) else None


def last_results() -> list[Kept]:
    """Return all known results, newest first."""
    if not is_private_folder(_folder()):
        return []
    return [kept for path in _newest_first() if (kept := _read(path))]


def _folder() -> Path:
    return cache_folder() / "verified"


def _path(digest: str, runtime: str, variant: str) -> Path:
    return _folder() / f"{digest[:32]}-{runtime}-{variant}.json"


def _newest_first() -> list[Path]:
    times: dict[Path, int] = {}
    for path in _folder().glob("*.json"):
        with suppress(FileNotFoundError):
            times[path] = path.lstat().st_mtime_ns
    return sorted(times, key=times.__getitem__, reverse=True)


def _read(path: Path) -> Kept | None:
    try:
        with open_private(path) as file:
            kept = Kept(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None
    is_text = all(isinstance(value, str) for name, value in asdict(kept).items() if name != "found_with")
    return kept if is_text and isinstance(kept.found_with, dict) else None
