"""Disable the telemetry of imported libraries.

What they send:

    openvino, nncf              an event to Google Analytics for every import; a client id in the user's home
    onnxruntime                 sessions and models to Microsoft, in recent versions (1.32) on Linux too; unsent events
                                are kept in ``~/.cache/Microsoft``. ``disable_telemetry_events`` does not stop it;
                                the environment variable does if it is set before the import
    huggingface_hub and its     the library and its version with every request, and usage events
    users (transformers, peft)
"""

from __future__ import annotations

import os
import sys
from typing import Any, cast

OPT_OUT_VARIABLES = (
    "ORT_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_TELEMETRY",
    "DISABLE_SAFETENSORS_CONVERSION",  # transformers asks the hub to convert a loaded checkpoint
    "DISABLE_TELEMETRY",
    "DO_NOT_TRACK",  # https://donottrack.sh: honoured by many tools
)


def silence_telemetry() -> None:
    """Disable telemetry of libraries imported later, in this process and in its child processes.

    OpenVINO has no switch for it. If ``openvino_telemetry`` cannot be imported, it falls back to its own stub.
    """
    cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
    for variable in OPT_OUT_VARIABLES:
        os.environ.setdefault(variable, "1")
