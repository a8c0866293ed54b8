"""Timing cache of kernels per library and GPU, which saves timing the same kernels for the next engine."""

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
    """Start a build with the cached timings; if TensorRT refuses them, start without."""
    if not api.keeps_timings:
        return
    path = timings_path(api, device)
    known = b""
    if is_private_folder(path.parent):
        try:
            with open_private(path) as file:
                known = file.read()
        except OSError as error:
            log.info("no cached timings: %s", error)
    for timings in (known, b""):
        cache: trt.ITimingCache | None = config.create_timing_cache(timings)
        if cache is not None and config.set_timing_cache(cache, False):
            return
        log.info("%s no longer matches and is not used", path)
        api.errors.clear()


def keep_timings(api: Api, config: trt.IBuilderConfig, device: Device) -> None:
    """Save the timings of a build. The last writer wins; lost timings only cost time."""
    cache: trt.ITimingCache | None = config.get_timing_cache() if api.keeps_timings else None
    if cache is None:
        return
    path = timings_path(api, device)
    try:
        make_private_folder(path.parent)
        with write_private(path) as file:
            file.write(memoryview(cache.serialize()))
    except OSError as error:
        log.info("timings are not cached: %s", error)
