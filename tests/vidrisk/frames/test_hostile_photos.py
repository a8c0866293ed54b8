"""Tests of damaged photos of every kind that phones, drones and microscopes write.

A process with limits reads them. Each photo must end in a known state, without a crash or a hang.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mutants import mutants
from phone_photos import STRIPS, cr2, deep_heic, dng, encoded, heic, jpeg, make_tiff, nef, page_of, raf, smooth
from PIL import Image

ROOT = Path(__file__).parents[3]
IMAGE = smooth(96, 64)
MUTANTS = 420
MOST_S, MOST_MB = 240, 1024
_READ_ALL = """
import logging, sys, time, warnings
from pathlib import Path
from vidrisk.frames import read_clips
from vidrisk.decode.worker import memory_limiter
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import PixelSpec

warnings.simplefilter("ignore")
memory_limiter()(int(sys.argv[2]))
for path in sorted(Path(sys.argv[1]).iterdir()):
    started_s = time.monotonic()
    print(path.name, end=" ", flush=True)
    try:
        (clip,) = read_clips(path, PixelSpec(48, 64), None)
        assert clip.frames.shape == (1, 48, 64, 3)
        state = "partial" if clip.damage else "ok"
    except UnreadableError as error:
        assert str(error).isprintable(), str(error)
        state = error.state
    print(state, round(time.monotonic() - started_s, 3), flush=True)
"""


def originals() -> dict[str, bytes]:
    grey = np.asarray(IMAGE.convert("L")).astype("u2") * 16
    page = page_of(grey, 0, t281=("H", [4095]))
    deep = np.asarray(IMAGE).astype(np.uint16) * 257
    return {
        "one.heic": heic(IMAGE),
        "grid.heic": heic(IMAGE, tile_size=32),
        "turned.heic": heic(IMAGE, orientation=6, tile_size=32),
        "several.heic": heic(IMAGE, Image.new("RGB", (32, 32)), primary=1),
        "deep.heic": deep_heic(deep),
        "alpha.heic": heic(IMAGE.convert("RGBA")),
        "a.avif": encoded(IMAGE, "AVIF"),
        "alpha.avif": encoded(IMAGE.convert("RGBA"), "AVIF"),
        "twelve.tif": make_tiff(page),
        "planes.tif": make_tiff(page_of(np.asarray(IMAGE), 2, planar=True), order=">"),
        "deflate.tif": make_tiff(page | {259: ("H", [8]), STRIPS: zlib.compress(page[STRIPS])}, page),
        "a.dng": dng(jpeg(IMAGE)),
        "a.nef": nef(jpeg(IMAGE), jpeg(Image.new("RGB", (16, 16)))),
        "a.cr2": cr2(jpeg(IMAGE, progressive=True), jpeg(IMAGE)),
        "a.raf": raf(jpeg(IMAGE)),
    }


def states_of(folder: Path) -> dict[str, str]:
    command = [sys.executable, "-c", _READ_ALL, str(folder), str(MOST_MB)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MOST_S, env=environment)
    assert ended.returncode == 0, f"{ended.stdout[-200:]}\n{ended.stderr[-2000:]}"
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert max(float(seconds) for *_, seconds in lines) < 10
    return {name: state for name, state, _ in lines}


@pytest.mark.slow
def test_mutants_end_in_a_state(tmp_path: Path) -> None:
    contents = originals()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert set(states_of(tmp_path).values()) == {"ok"}
    folder = tmp_path / "mutants"
    folder.mkdir()
    names = list(contents)
    for number, (name, content) in enumerate(mutants(list(contents.values()), MUTANTS, seed=5)):
        (folder / f"{name}-{names[number % len(names)]}").write_bytes(content)
    states = states_of(folder)
    counts = Counter(states.values())
    assert len(states) == MUTANTS and counts.keys() <= {"ok", "partial", "corrupt", "too_large", "skipped"}
    assert min(counts["ok"], counts["partial"], counts["corrupt"]) > 0
