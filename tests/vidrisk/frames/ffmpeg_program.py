"""The programs ffmpeg and ffprobe, whose results tests compare with.

Such tests are skipped where the programs are missing, unless ``VIDRISK_REQUIRE_FFMPEG`` is 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

IS_THERE = bool(shutil.which("ffmpeg") and shutil.which("ffprobe"))
IS_REQUIRED = os.environ.get("VIDRISK_REQUIRE_FFMPEG") == "1"
needs_ffmpeg = pytest.mark.skipif(not IS_THERE and not IS_REQUIRED, reason="ffmpeg and ffprobe are not installed")


def output_of(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout
