"""Decode workers that crash, hang or starve, depending on the names of the files that they read.

``install`` puts a ``sitecustomize`` on the workers' path, which every Python process runs at its start. The
workers are the real ones, in processes of their own, and they end as real workers do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

SITECUSTOMIZE = """
import contextlib, ctypes, fcntl, json, os, pathlib, socket, sys, time

if "vidrisk.decode.worker" in pathlib.Path("/proc/self/cmdline").read_text():
    import numpy as np
    import vidrisk.decode.read_input as worker

    read_frames, leaked = worker.read_frames, []

    def memories():  # that it shares with the pool
        for descriptor in range(3, 64):
            with contextlib.suppress(OSError):
                if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                    yield descriptor

    def freed():  # slots, in what it was sent and has not read
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(int(sys.argv[1])))
        with line:
            lines = line.recv(1 << 20, socket.MSG_PEEK).split(b"\\n")[:-1]
        return sum(json.loads(line)["free"][1] for line in lines if line.startswith(b'{"free"'))

    def faulty(path, *specs, **options):
        path = pathlib.Path(path)
        if "segfault" in path.name:
            ctypes.string_at(0)
        if "once" in path.name and path.stat().st_atime_ns != 1:
            os.utime(path, ns=(1, path.stat().st_mtime_ns))  # all that the sandbox lets it leave behind
            os.abort()
        if "hang" in path.name:
            time.sleep(1000)
        if "hungry" in path.name:
            np.ones(1 << 40, np.uint8)
        if "leak" in path.name:
            leaked.append(np.ones(30 << 20, np.uint8))
        if "exit" in path.name:
            os._exit(7)
        if "astray" in path.name:  # what it says is in the file
            os.write(int(sys.argv[1]), path.read_bytes() + b"\\n")
            time.sleep(1000)
        if "deaf" in path.name:  # what it says is sound, and it reads nothing
            for n in range(100_000):
                said = [{"frame": [4 * n + k, 0.0]} for k in range(4)] + [{"window": [n, n + 1, [4 * n + k for k in range(4)]]}]
                os.write(int(sys.argv[1]), b"".join(json.dumps(line).encode() + b"\\n" for line in said))
                while freed() < 4 * (n + 1):  # no frame without a slot, however slow its caller is
                    time.sleep(0.001)
        if "chatty" in path.name:
            with contextlib.suppress(BlockingIOError):
                for _ in range(50):
                    os.write(2, b"deprecated pixel format\\n" * 200)
        if "shrinks" in path.name:
            os.ftruncate(next(memories()), 0)
        if "slow" in path.name:
            time.sleep(0.5)
        if "typeerror" in path.name:
            raise TypeError("unsupported\\nthing")
        for item in read_frames(path, *specs, **options):
            yield item
            if "late" in path.name and isinstance(item, worker.FrameWindow):
                os.abort()

    worker.read_frames = faulty
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every worker that is started from now on faulty."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.fspath(folder), *sys.path]))
