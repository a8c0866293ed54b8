"""Import of PEFT without downloads or warnings."""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType

from vidrisk.runtimes.contract.errors import is_installed, require


def require_peft(extra: str) -> ModuleType:
    """Import PEFT, and bitsandbytes, which PEFT imports if it is installed.

    Raises:
        MissingExtra, RuntimeFailure: as ``require``, for PEFT only.
    """
    if "peft" not in sys.modules and is_installed("bitsandbytes"):
        try:
            import_bitsandbytes()
        except Exception as error:  # it loads its own library, whose errors vary; PEFT raises one if it needs it
            logging.getLogger(__name__).debug("bitsandbytes does not load: %s", error)
    return require("peft", extra)


def import_bitsandbytes() -> None:
    """Import bitsandbytes with its own kernels.

    On processors with AVX512-BF16, its import downloads other kernels from a hub and runs them if the library
    ``kernels`` is installed, and warns if it is not.
    """
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level, kernels = log.level, sys.modules.get("kernels")
    log.setLevel(logging.ERROR)
    sys.modules["kernels"] = None  # type: ignore[assignment]  # makes an import of it fail
    try:
        importlib.import_module("bitsandbytes")
    finally:
        log.setLevel(level)
        if kernels is None:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = kernels
