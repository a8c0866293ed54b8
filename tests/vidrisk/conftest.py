"""Fixtures of tiny labelled clips, and of a run and a bundle that the command line creates once per session."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from vidrisk.runtimes.contract.bundle import MANIFEST

REPOSITORY = Path(__file__).resolve().parents[2]
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
    """Result of a command."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def cli() -> Callable[..., Ended]:
    """Return a function that runs ``vidrisk ARGUMENTS`` in this process and returns its result.

    This is faster than a separate process, and the exit codes are the same.
    """
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
def run_line(cli: Callable[..., Ended]) -> Callable[..., Ended]:
    """Return a function that runs a line of a document in a folder, checks its exit code and returns its result.

    The line runs in this process, like a command of ``cli``, because a separate process spends more time
    on importing torch than most commands spend on their work. With ``alone``, it runs in a separate process.
    A page runs one command this way to show that the command needs nothing that ran before it.
    """

    def run(line: str, folder: Path, *more: str, code: int = 0, alone: bool = False) -> Ended:
        program, *words = [*shlex.split(line), *more]
        assert program == "vidrisk"
        if alone:
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
            }
            process = subprocess.run(
                [sys.executable, "-m", program, *words],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            end = Ended(process.returncode, process.stdout, process.stderr)
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                end = cli(*words)
        assert end.code == code, f"{line}\n{end.stdout}\n{end.stderr}"
        return end

    return run


@pytest.fixture
def any_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return a copy of ``tiny_bundle`` that allows every engine to use its INT8, which is made for CPUs."""
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "any.bundle"))
    described = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    for variant in described["variants"].values():
        variant["engines"] = "any"
    (root / MANIFEST).write_text(json.dumps(described), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """Return a function that encodes six frames of a colour with noise and a moving bar, 64x48, 8 per second."""

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
    """Return a folder with three classes of eight clips.

    The names contain spaces, quotes, a comma, Chinese characters and an emoji.
    """
    root = tmp_path_factory.mktemp("data") / "my clips"
    for label, rgb in LABELS.items():
        for number in range(CLIPS_PER_LABEL):
            write_clip(root / label / f"cam '{number}\" 楼.mp4", rgb, seed=number)
    return root


@pytest.fixture(scope="session")
def settings() -> list[str]:
    """Return ``--set`` options that shorten training to seconds."""
    return [word for assignment in SMALL for word in ("--set", assignment)]


@pytest.fixture(scope="session")
def tiny_run(
    cli: Callable[..., Ended], clip_folder: Path, settings: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a run that the command line trained: EfficientNet-Lite0 at 64 px, two frames per clip."""
    out = tmp_path_factory.mktemp("runs") / "colours"
    end = cli("train", clip_folder, "-o", out, *settings)
    assert end.code == 0, end
    return out


@pytest.fixture(scope="session")
def tiny_bundle(cli: Callable[..., Ended], tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of ``tiny_run``, in fp32 and INT8.

    The check of the INT8 speed is disabled, because so small a model may gain none.
    """
    out = tmp_path_factory.mktemp("bundles") / "colours.bundle"
    with pytest.MonkeyPatch.context() as patch:
        for module in ("gate.keeper", "pack"):
            patch.setattr(f"vidrisk.export.{module}.speed_refusal", lambda report, variant: "")
        end = cli("export", tiny_run, "-o", out, "--int8", "--max-drop", "50", "--max-confidence-drop", "100")
    assert end.code == 0, end
    return out


@pytest.fixture(scope="session")
def deep_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with ten thousand nested folders, the last of which no path can reach."""
    top = tmp_path_factory.mktemp("deep")
    root = os.open(top, os.O_RDONLY)
    descriptor = os.dup(root)
    for _ in range(10_000):
        os.mkdir("d", dir_fd=descriptor)
        descriptor = _entered(descriptor)
    os.close(descriptor)
    yield top
    is_left = True
    while is_left:  # 200 levels at a time, which shutil can delete
        descriptor = os.dup(root)
        with contextlib.suppress(FileNotFoundError):
            for _ in range(200):
                descriptor = _entered(descriptor)
            os.rename("d", "rest", src_dir_fd=descriptor, dst_dir_fd=root)
        os.close(descriptor)
        shutil.rmtree(top / "d")
        is_left = (top / "rest").exists()
        if is_left:
            (top / "rest").rename(top / "d")
    os.close(root)


def _entered(descriptor: int) -> int:
    below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
    os.close(descriptor)
    return below


@pytest.fixture
def folder_of_nobody() -> Iterator[Path]:
    """Yield a folder of an unprivileged user, as whom the process runs during the test.

    Unlike root, this user cannot enter folders whose mode forbids it.
    """
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)
