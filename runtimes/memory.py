"""What Linux says of memory; nothing, where it is not Linux that is asked."""

from __future__ import annotations

from pathlib import Path


def available_bytes() -> int | None:
    """Memory that can be taken without swapping; None where the system does not say."""
    return bytes_from_status(Path("/proc/meminfo"), "MemAvailable")


def bytes_from_status(path: Path, name: str) -> int | None:
    """A field such as ``VmHWM:   1234 kB``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(f"{name}:")), None)
    return int(found.split()[1]) * 1024 if found else None
