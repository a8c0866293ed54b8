"""The error tree: every failure that a user can meet is one of these, and says what, what is allowed, how to fix it.

    VidriskError                exit 1   the user can mend it
    ├── SettingsError           exit 2   a setting or an option that makes no sense
    ├── SpecError                        a spec, a tensor or a feed that does not fit
    ├── DataError                        a table, a folder or a label that cannot be used
    ├── UnreadableError                  one clip or photo that cannot be decoded (a ledger row, never the end of a run)
    ├── BundleError                      a bundle or a run directory that is damaged, foreign or too new
    ├── RuntimeFailure                   an engine (ONNX Runtime, OpenVINO, …) refused or failed
    │   ├── EngineMissing                a TensorRT engine that has to be built first
    │   └── GraphRefused                 TensorRT has no engine for a graph: it is made for other engines
    ├── MissingExtra                     an optional dependency that is not installed
    ├── GateRefused             exit 3   the exported model is not good enough to ship
    │   └── AnswersDiffer                it does not answer here as it did where it was exported
    └── Interrupted             exit 130 Ctrl-C: what was finished is kept

Third-party exceptions become one of these at the seam where the third party is called, never further up.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from vidrisk.runtimes.contract.printable import printable

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_GATE = 3
EXIT_SOME_FAILED = 4
EXIT_INTERRUPTED = 130


class VidriskError(Exception):
    """One line for the user: ``what``; what is ``allowed``; how to ``fix`` it. All of it is ``printable``."""

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
    """A setting or a command-line option whose value makes no sense."""

    exit_code = EXIT_USAGE


class SpecError(VidriskError):
    """A spec that contradicts itself, or an array that does not fit its spec."""


class DataError(VidriskError):
    """A table, a folder or a label that cannot be used as data."""


class UnreadableError(VidriskError):
    """One input that cannot be decoded. ``state`` is the ledger state that it ends in."""

    def __init__(self, what: str, *, state: str = "corrupt", fix: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.state = state


class BundleError(VidriskError):
    """A bundle or run directory that is damaged, incomplete, foreign or of a newer schema."""


class RuntimeFailure(VidriskError):
    """An inference engine refused a graph or failed while running it."""


class EngineMissing(RuntimeFailure):
    """No TensorRT engine of a graph may be loaded here: there is none, or none that fits this GPU and this TensorRT."""


class GraphRefused(RuntimeFailure):
    """TensorRT cannot read a graph, so no engine of it can be built anywhere."""


class MissingExtra(VidriskError):
    """An optional dependency is not installed; ``also`` is the command that installs what no extra can bring."""

    def __init__(self, module: str, extra: str, *, also: str | None = None) -> None:
        command = f"pip install 'vidrisk[{extra}]'"
        super().__init__(f"{module} is not installed", fix=f"{command} && {also}" if also else command)


class GateRefused(VidriskError):
    """The export was stopped: a hop lost more than it may. ``report`` holds what the gate had measured until then."""

    exit_code = EXIT_GATE

    def __init__(self, what: str, *, fix: str | None = None, report: Any = None) -> None:
        super().__init__(what, fix=fix)
        self.report = report


class AnswersDiffer(GateRefused):
    """A bundle does not answer here as it did where it was exported. ``report`` holds what was compared until then."""


class Interrupted(VidriskError):
    """Ctrl-C: what was finished is kept."""

    exit_code = EXIT_INTERRUPTED


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or say in one line which extra brings it.

    Raises:
        MissingExtra: the module (or what it needs) is not installed.
        RuntimeFailure: it is installed and does not load, for example for want of a system library.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra((error.name or module).partition(".")[0], extra) from error
    except (ImportError, OSError) as error:
        raise RuntimeFailure(
            f"{module} is installed and does not load: {error}",
            fix=f"pip install --force-reinstall {module}, or mend what it says",
        ) from error


def is_installed(module: str) -> bool:
    """Whether ``module`` can be imported, found out without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
