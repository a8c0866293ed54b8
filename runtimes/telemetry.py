"""Silence what imported libraries report about their users.

openvino, nncf              an event to Google Analytics for every import; a client id in the user's home
onnxruntime                 sessions and models to Microsoft, in late versions (1.32) on Linux, too; what was not sent
                            yet lies in ``~/.cache/Microsoft``. ``disable_telemetry_events`` does not stop it; the
                            variable does, set before the import
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
    "DISABLE_SAFETENSORS_CONVERSION",  # transformers asks the hub to convert a checkpoint that was loaded
    "DISABLE_TELEMETRY",
    "DO_NOT_TRACK",  # https://donottrack.sh: what many tools agree on
)


def silence_telemetry() -> None:
    """Let no library that is imported later report anything, here and in processes started from here.

    OpenVINO has no switch for it. Where ``openvino_telemetry`` cannot be imported, it falls back to a stub of its own.
    """
    cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
    for variable in OPT_OUT_VARIABLES:
        os.environ.setdefault(variable, "1")
