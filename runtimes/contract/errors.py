"""Error hierarchy: every user-facing error says what is wrong, what is allowed and how to fix it.

    VidriskError                exit 1   the user can fix it
    ├── SettingsError           exit 2   a setting or an option with an invalid value
    ├── SpecError                        a spec, a tensor or a feed that does not match
    ├── DataError                        a table, a folder or a label that cannot be used
    ├── UnreadableError                  one clip or photo cannot be decoded (a ledger row; the run goes on)
    ├── BundleError                      a damaged, foreign or too new bundle or run directory
    ├── RuntimeFailure                   an engine (ONNX Runtime, OpenVINO, …) refused or failed
    │   ├── EngineMissing                a TensorRT engine has to be built first
    │   └── GraphRefused                 TensorRT cannot read a graph: it is made for other engines
    ├── MissingExtra                     an optional dependency is not installed
    ├── GateRefused             exit 3   the exported model is not good enough to ship
    │   └── AnswersDiffer                its outputs here differ from those at export
    └── Interrupted             exit 130 Ctrl-C: finished work is kept

Third-party exceptions are converted to one of these where the third party is called, never further up.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection
from itertools import islice
from types import ModuleType
from typing import Any

from vidrisk.runtimes.contract.printable import printable

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_GATE = 3
EXIT_SOME_FAILED = 4
EXIT_INTERRUPTED = 130
MAX_NAMED = 20


class VidriskError(Exception):
    """Error of one line: ``what`` is wrong; what is ``allowed``; how to ``fix`` it. All text is ``printable``."""

    exit_code = EXIT_ERROR

    def __init__(self, what: str, *, allowed: str | None = None, fix: str | None = None) -> None:
        self.what, self.allowed, self.fix = _one_line(what), allowed and _one_line(allowed), fix and _one_line(fix)
        parts = [self.what]
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        super().__init__("; ".join(parts))


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


class SettingsError(VidriskError):
    """Setting or command-line option with an invalid value."""

    exit_code = EXIT_USAGE


class SpecError(VidriskError):
    """Spec that contradicts itself, or array that does not match its spec."""


class DataError(VidriskError):
    """Table, folder or label that cannot be used as data."""


class UnreadableError(VidriskError):
    """Input that cannot be decoded. ``state`` is its final ledger state."""

    def __init__(self, what: str, *, state: str = "corrupt", fix: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.state = state


class BundleError(VidriskError):
    """Bundle or run directory that is damaged, incomplete, foreign or of a newer schema."""


class RuntimeFailure(VidriskError):
    """Inference engine that refused a graph or failed while running it."""


class EngineMissing(RuntimeFailure):
    """Missing TensorRT engine: none was built for a graph, this GPU and this version of TensorRT."""


class GraphRefused(RuntimeFailure):
    """Graph that TensorRT cannot read, so no engine of it can be built anywhere."""


class MissingExtra(VidriskError):
    """Missing optional dependency; ``also`` is a command that installs what no extra provides."""

    def __init__(self, module: str, extra: str, *, also: str | None = None) -> None:
        command = f"pip install 'vidrisk[{extra}]'"
        super().__init__(f"{module} is not installed", fix=f"{command} && {also}" if also else command)


class GateRefused(VidriskError):
    """Stopped export: a step lost more accuracy than allowed. ``report`` holds the gate's measurements so far."""

    exit_code = EXIT_GATE

    def __init__(self, what: str, *, fix: str | None = None, report: Any = None) -> None:
        super().__init__(what, fix=fix)
        self.report = report


class AnswersDiffer(GateRefused):
    """Bundle whose outputs here differ from those at export. ``report`` holds the comparisons so far."""


class Interrupted(VidriskError):
    """Interruption by Ctrl-C; finished work is kept."""

    exit_code = EXIT_INTERRUPTED


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise an error that names the extra that installs it.

    Raises:
        MissingExtra: the module (or what it needs) is not installed.
        RuntimeFailure: it is installed but does not load, for example because a system library is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra((error.name or module).partition(".")[0], extra) from error
    except (ImportError, OSError) as error:
        raise RuntimeFailure(
            f"{module} is installed but does not load: {error}",
            fix=f"pip install --force-reinstall {module}, or fix what it reports",
        ) from error


def is_installed(module: str) -> bool:
    """Tell whether ``module`` can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def name_some(names: Collection[str]) -> str:
    """Join names for a message: the first 20, and how many more there are."""
    some = ", ".join(islice(names, MAX_NAMED))
    return f"{some} … and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else some


def first_line(error: BaseException) -> str:
    """Return the first line of an error message, or the error's type if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
