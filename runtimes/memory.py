"""Memory figures from Linux's ``/proc``; None on other systems."""

from __future__ import annotations

from pathlib import Path


def available_bytes() -> int | None:
    """Return the bytes that can be allocated without swapping, or None if the system does not say."""
    return bytes_from_status(Path("/proc/meminfo"), "MemAvailable")


def bytes_from_status(path: Path, name: str) -> int | None:
    """Read a field such as ``VmHWM:   1234 kB``, in bytes; return None if it is missing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{name}:")), None)
    return int(found.split()[1]) * 1024 if found else None
