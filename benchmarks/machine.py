"""Describe the machine, the code and the packages of a measurement; every result contains this description."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from quiet import take_record

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("vidrisk", "torch", "transformers", "peft", "onnx", "onnxruntime", "openvino", "av", "numpy")


def describe_machine() -> dict[str, Any]:
    """Return the commit, the processor, versions of Python and packages, and how quiet the machine was.

    Call it after the measurements: it takes the record of all measurements since the previous call.
    """
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    installed = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    record = take_record()
    return {
        "commit": read_commit(),
        "processor": fields.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if flag in flags],
        "python": platform.python_version(),
        "packages": {name: installed[name] for name in PACKAGES if name in installed},
        **({"other_work": record} if record else {}),
    }


def read_commit() -> str:
    """Return the commit of the checkout, with ``+`` if files other than results differ from it; empty without one."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results"], capture_output=True)
    return commit + "+" * (bool(commit) and changed.returncode == 1)
