"""Exactness of the integer instructions of this machine's processor.

x86 multiplies 8-bit integers in pairs. With VNNI (or AMX) the sums are 32 bits wide. Without it they are 16 bits wide
and saturate: 255 x 127 x 2 does not fit. An INT8 graph then silently computes other outputs than on other processors.
Weights of 7 bits fit; for wider ones a runner has to choose slower instructions (``OnnxRuntimeRunner``,
``OpenVinoRunner``).

Source: oneDNN, "Nuances of int8 computations".
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path

from vidrisk.runtimes.contract.onnx_file import NotOnnxError, largest_int8

WIDE_SUMS = frozenset(("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"))
LARGEST_EXACT = (2**15 - 1) // (2 * 255)  # largest weight


def may_saturate(path: Path) -> bool:
    """Tell whether INT8 sums of an ONNX file may saturate: no VNNI here, and its weights are too large."""
    if not saturates_int8():
        return False
    try:
        return largest_int8(path) > LARGEST_EXACT
    except (OSError, NotOnnxError):  # the engine that loads it reports the error
        return True


@functools.cache
def saturates_int8() -> bool:
    """Tell whether sums of 8-bit products may saturate here; True for an x86 processor of unknown features."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return WIDE_SUMS.isdisjoint(flags)
