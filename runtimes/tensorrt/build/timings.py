"""Timings of kernels, kept per library and GPU: what was timed for one engine need not be timed for the next one."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from vidrisk.runtimes.folders import cache_folder, is_private_folder, make_private_folder, open_private, write_private
from vidrisk.runtimes.tensorrt.api import Api
from vidrisk.runtimes.tensorrt.device import Device

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)


def timings_path(api: Api, device: Device) -> Path:
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{api.kind}-{api.version}-{device.model}-{device.compute_capability}")
    return cache_folder() / "timings" / f"{name}.cache"


def use_timings(api: Api, config: trt.IBuilderConfig, device: Device) -> None:
    """Let a build begin with what is known. TensorRT itself refuses what does not fit; nothing is known then."""
    if not api.keeps_timings:
        return
    path = timings_path(api, device)
    known = b""
    if is_private_folder(path.parent):
        try:
            with open_private(path) as file:
                known = file.read()
        except OSError as error:
            log.info("no timings are known: %s", error)
    for timings in (known, b""):
        cache: trt.ITimingCache | None = config.create_timing_cache(timings)
        if cache is not None and config.set_timing_cache(cache, False):
            return
        log.info("%s does not fit any more and is not used", path)
        api.errors.clear()


def keep_timings(api: Api, config: trt.IBuilderConfig, device: Device) -> None:
    """Keep what a build knows now. Whoever comes last wins, and nothing is lost but time."""
    cache: trt.ITimingCache | None = config.get_timing_cache() if api.keeps_timings else None
    if cache is None:
        return
    path = timings_path(api, device)
    try:
        make_private_folder(path.parent)
        with write_private(path) as file:
            file.write(memoryview(cache.serialize()))
    except OSError as error:
        log.info("timings are not kept: %s", error)
