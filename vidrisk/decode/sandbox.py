"""Confinement of processes that read untrusted files, so that a file can affect nothing but its decoder.

There are two layers, each as strong as the kernel permits:

    process   no new privileges; Landlock: no file is written, created, removed or executed outside of the named
              folders, no TCP connection, no signal to a process outside; seccomp: no socket, no process, no ptrace
    files     a second Landlock rule set for a thread that lives as long as the next files are read: it may open only
              these files and the code of Python and its packages

Landlock cannot be loosened, and it binds a thread and its descendants. Therefore the next files, one or a few, are read
by a separate thread, while the main thread, which reads no file, keeps the right to start another. A decoder that
merely opens paths named in a file is stopped by the second layer. A decoder that a file has taken over shares its
memory with the main thread, and may get as far as the first layer: it can read what the user can read, but cannot
change, start or send anything.

Kernels: Landlock from 5.13 (TCP from 6.7, signals from 6.12), seccomp on x86_64 and aarch64. Sources: landlock(7),
seccomp(2).
"""

from __future__ import annotations

import _thread
import ctypes
import functools
import logging
import os
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vidrisk.decode.seccomp import refuse_system_calls

log = logging.getLogger(__name__)

PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
M_ARENA_MAX = -8  # malloc.h
# linux/landlock.h; the numbers of the system calls are the same on all processors.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE  # the rights that a rule on a file, not a folder, may hold
READ = READ_FILE | READ_DIR
FIRST_RIGHTS = (1 << 13) - 1
LATER_RIGHTS = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # version → REFER, TRUNCATE, IOCTL_DEV
TCP, TCP_VERSION = 0b11, 4
SCOPES, SCOPES_VERSION = 0b11, 6  # abstract Unix sockets, signals
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")


@dataclass(frozen=True)
class Rule:
    """Rights on the file or folder behind a descriptor, and on everything below it."""

    descriptor: int
    rights: int


@dataclass(frozen=True)
class Sandbox:
    """The confinement of this process.

    Attributes:
        landlock: version of Landlock's interface; 0 without it.
        seccomp: whether system calls are refused.
        rules: what may be opened at any time: code, and the writable folders.
    """

    landlock: int
    seccomp: bool
    rules: tuple[Rule, ...] = ()

    def read_alone(self, paths: Iterable[str | os.PathLike[str]], work: Callable[[], None]) -> None:
        """Call ``work`` in a thread that may open only ``paths``, code, and what the process may write.

        Raises:
            BaseException: whatever ``work`` raises.
        """
        if not self.landlock:
            work()
            return
        raised: list[BaseException] = []
        ended = _thread.allocate_lock()

        def run_confined() -> None:
            try:
                own = _rules_of(paths, READ)
                try:
                    _restrict(self.landlock, _changing(self.landlock) | READ, (*self.rules, *own))
                finally:
                    for rule in own:
                        os.close(rule.descriptor)
                work()
            except BaseException as error:
                raised.append(error)
            finally:
                ended.release()

        ended.acquire()
        _thread.start_new_thread(run_confined, ())  # a third of what threading.Thread costs
        ended.acquire()
        if raised:
            raise raised[0]


def confine_process(writable: Iterable[Path] = ()) -> Sandbox:
    """Confine this process permanently, as far as the kernel can.

    Call it before another thread is started.

    Args:
        writable: existing folders in which files may be created and removed.
    """
    if sys.platform != "linux":
        return Sandbox(0, False)
    _libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc().mallopt(M_ARENA_MAX, 1)  # otherwise malloc keeps an arena for each short-lived thread
    version = landlock_version()
    rules = [*_rules_of(writable, ~EXECUTE), *_rules_of(code_folders(), READ)]
    try:
        if version:
            _restrict(version, _changing(version), rules, scoped=True)
    except OSError as error:
        log.debug("Landlock refuses: %s", error)
        version = 0
    return Sandbox(version, refuse_system_calls(), tuple(rules))


def landlock_version() -> int:
    """Return the version of Landlock's interface, or 0 if the kernel lacks or forbids it."""
    return max(0, int(_libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION)))


def code_folders() -> tuple[str, ...]:
    """Return the folders of Python, its packages and shared libraries, which decoders load on demand."""
    standard = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    standard += [os.path.join(prefix, "lib") for prefix in (sys.prefix, sys.base_prefix)]  # noqa: PTH118 (conda's libraries)
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    loaded = [
        folder
        for name, module in list(sys.modules.items())
        if "." not in name or name.startswith("vidrisk.")
        for folder in getattr(module, "__path__", ())
    ]
    folders: list[str] = []
    for folder in sorted({os.path.realpath(path) for path in (*standard, *packages, *loaded, *SYSTEM_LIBRARIES)}):
        if not any(os.path.commonpath([folder, above]) == above for above in folders):
            folders.append(folder)
    return tuple(folders)


def _rules_of(paths: Iterable[str | os.PathLike[str]], rights: int) -> list[Rule]:
    """Return a rule for each file and folder that exists; their descriptors are open."""
    descriptors = map(_open_path, paths)
    return [Rule(descriptor, rights) for descriptor in descriptors if descriptor is not None]


def _open_path(path: str | os.PathLike[str]) -> int | None:
    """Return an ``O_PATH`` descriptor of a file, or None if there is none and so nothing to allow."""
    with suppress(OSError, ValueError):
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    return None


def _changing(version: int) -> int:
    """Return all rights that this version of Landlock supports, except for reading."""
    return (FIRST_RIGHTS | sum(right for since, right in LATER_RIGHTS.items() if version >= since)) & ~READ


def _restrict(version: int, handled: int, rules: Iterable[Rule], *, scoped: bool = False) -> None:
    """Take the handled rights from this thread and those that it starts, except for what the rules allow.

    Args:
        version: version of Landlock's interface.
        handled: rights to take.
        rules: exceptions.
        scoped: also refuse TCP and signals to other processes.

    Raises:
        OSError: the kernel refuses.
    """
    attributes = struct.pack("=QQQ", handled, TCP * scoped, SCOPES * scoped)
    attributes = attributes[: 24 if version >= SCOPES_VERSION else 16 if version >= TCP_VERSION else 8]
    ruleset = _call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        for rule in rules:
            rights = rule.rights & handled
            if rights and _libc().syscall(
                ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", rights, rule.descriptor), 0
            ):
                # fewer rights apply to a file than to a folder
                _call(ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", rights & OF_FILES, rule.descriptor), 0)
        _call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
