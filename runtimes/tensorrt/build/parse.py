"""Whether TensorRT reads what is about to ship: its parser needs no GPU, so this is known before a device has the bundle."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.tensorrt.api import installed_kinds, open_api
from vidrisk.runtimes.tensorrt.build.engines import parse_errors

log = logging.getLogger(__name__)

MAX_ERRORS = 3  # in one line


@dataclass(frozen=True)
class Parsed:
    """What every TensorRT that is installed here said.

    Attributes:
        libraries: those that were asked, with their version.
        refusals: by file; a layer is named after the module that it comes from.
    """

    libraries: tuple[str, ...]
    refusals: dict[Path, str]


def parsed_graphs(paths: Collection[Path], on_progress: OnProgress) -> Parsed:
    """Let them read ONNX files. A library that does not load is left out, and said."""
    libraries: list[str] = []
    refusals: dict[Path, str] = {}
    for kind in installed_kinds():
        try:
            library = f"{kind} {open_api(kind).version}"
            for done, path in enumerate(paths):
                on_progress(f"reading the graphs with {kind}", done, len(paths))
                if errors := parse_errors(path, kind):
                    refusals.setdefault(path, f"{library}: {'; '.join(errors[:MAX_ERRORS])}")
            libraries.append(library)
        except (MissingExtra, RuntimeFailure) as error:
            log.warning("%s has not read the graphs: %s", kind, error)
    return Parsed(tuple(libraries), refusals)
