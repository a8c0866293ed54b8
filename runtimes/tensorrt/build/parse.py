"""Check at export that TensorRT can read the graphs; its parser needs no GPU."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.tensorrt.api import find_installed_kinds, open_api
from vidrisk.runtimes.tensorrt.build.engines import parse_errors

log = logging.getLogger(__name__)

MAX_ERRORS = 3  # per message


@dataclass(frozen=True)
class Parsed:
    """Result of every installed TensorRT.

    Attributes:
        libraries: libraries that read the graphs, with their versions.
        refusals: error by file; layers are named after their module.
    """

    libraries: tuple[str, ...]
    refusals: dict[Path, str]


def parse_graphs(paths: Collection[Path], on_progress: OnProgress) -> Parsed:
    """Parse ONNX files with every installed TensorRT; skip a library that does not load, with a warning."""
    libraries: list[str] = []
    refusals: dict[Path, str] = {}
    for kind in find_installed_kinds():
        try:
            library = f"{kind} {open_api(kind).version}"
            for done, path in enumerate(paths):
                on_progress(f"reading the graphs with {kind}", done, len(paths))
                if errors := parse_errors(path, kind):
                    refusals.setdefault(path, f"{library}: {'; '.join(errors[:MAX_ERRORS])}")
            libraries.append(library)
        except (MissingExtra, RuntimeFailure) as error:
            log.warning("%s could not read the graphs: %s", kind, error)
    return Parsed(tuple(libraries), refusals)
