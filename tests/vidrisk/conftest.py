"""Tiny labelled clips, and what the command line makes of them: one run and one bundle per session."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

LABELS = {"red": (200, 40, 40), "green, dark": (20, 90, 20), "蓝色 🎥": (40, 40, 200)}
CLIPS_PER_LABEL = 8
SMALL = (
    "pixel.height=64",
    "pixel.width=64",
    "frames=2",
    "lora.rank=4",
    "lora.last_blocks=2",
    "optim.epochs=3",
    "optim.batch_size=6",
    "optim.head_lr=0.01",
    "precision=fp32",
    "views=2",
)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def cli() -> Callable[..., Ended]:
    """Arguments → the end of ``vidrisk ARGUMENTS``, run in this process: quicker, with the same exit codes."""
    from vidrisk.cli.app import main

    def run(*arguments: str | Path) -> Ended:
        stdout, stderr, argv = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["vidrisk", *(os.fspath(argument) for argument in arguments)]
        try:
            with (
                contextlib.redirect_stdout(stdout),
                contextlib.redirect_stderr(stderr),
                pytest.raises(SystemExit) as end,
            ):
                main()
        finally:
            sys.argv = argv
        return Ended(int(end.value.code or 0), stdout.getvalue(), stderr.getvalue())

    return run


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """Encode six frames of a colour with noise and a moving bar, 64x48, 8 a second."""

    def write(path: Path, rgb: tuple[int, int, int], seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for moment in range(6):
                frame = np.array(rgb) + rng.integers(0, 40, (48, 64, 3))
                frame[:, 8 * moment : 8 * moment + 8] += 50
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(np.clip(frame, 0, 255).astype(np.uint8), format="rgb24"))
                )
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def clip_folder(write_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight clips, in names with spaces, quotes, a comma, Chinese and an emoji."""
    root = tmp_path_factory.mktemp("data") / "my clips"
    for label, rgb in LABELS.items():
        for number in range(CLIPS_PER_LABEL):
            write_clip(root / label / f"cam '{number}\" 楼.mp4", rgb, seed=number)
    return root


@pytest.fixture(scope="session")
def settings() -> list[str]:
    """``--set`` options that make training take seconds."""
    return [word for assignment in SMALL for word in ("--set", assignment)]


@pytest.fixture(scope="session")
def tiny_run(
    cli: Callable[..., Ended], clip_folder: Path, settings: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that the command line trained: EfficientNet-Lite0 at 64 px, two moments per clip."""
    out = tmp_path_factory.mktemp("runs") / "colours"
    end = cli("train", clip_folder, "-o", out, *settings)
    assert end.code == 0, end
    return out


@pytest.fixture(scope="session")
def tiny_bundle(cli: Callable[..., Ended], tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``tiny_run``, fp32 and INT8."""
    out = tmp_path_factory.mktemp("bundles") / "colours.bundle"
    end = cli("export", tiny_run, "-o", out, "--int8", "--max-drop", "50", "--allow-drop")  # too small to gain speed
    assert end.code == 0, end
    return out
