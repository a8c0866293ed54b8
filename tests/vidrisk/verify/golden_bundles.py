"""Small models that are really exported, with golden samples.

The module also creates bundles with exchanged content and matching hashes.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vidrisk.export.export import export_bundle
from vidrisk.export.gate.outputs import Validation
from vidrisk.export.trained import ExportOptions, Trained, TrainedStage
from vidrisk.models.heads import Head
from vidrisk.runtimes import Bundle, Contract, PixelSpec, Target
from vidrisk.runtimes.contract.stages import frame_encoder_stages

SIDE = 32
TARGETS = (
    Target(name="defect", labels=("crack", "hole", "sound")),
    Target(name="level", labels=("1", "2"), ordered=True),
)
CONTRACT = Contract(task="risk", pixel=PixelSpec(SIDE, SIDE), targets=TARGETS)


class Frames:
    """Calibration frames that are held in memory."""

    digest = "frames"

    def __init__(self, frames: np.ndarray) -> None:
        self._frames, self.count = frames, len(frames)

    def __iter__(self) -> Any:
        return iter(self._frames)

    def windows(self) -> Any:
        return iter(self._frames[:, None])


class Encoder(nn.Module):
    """An encoder of four convolutions and an average."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(nn.Conv2d(inputs, 12, 3, stride=2, padding=1) for inputs in (3, 12, 12, 12))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = frames.float().permute(0, 3, 1, 2) / 64 - 1.5
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.mean(dim=(2, 3))


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Return pictures of a colour, a bright bar and noise, ``uint8 (N, 1, H, W, 3)``."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 200, (count, 1, 1, 1, 3)) + rng.integers(0, 30, (count, 1, SIDE, SIDE, 3))
    for sample in range(count):
        values[sample, :, :, rng.integers(SIDE - 4) :][:, :, :4] += 60
    return np.clip(values, 0, 255).astype(np.uint8)


def export_small(out: Path, seed: int = 3, samples: int = 60, **options: Any) -> Bundle:
    """Export an encoder and a head with random weights in fp32 and INT8.

    In fp32, the answer to every validation sample is right.
    """
    encoder, frames = Encoder(seed).eval(), pictures(samples, seed)
    with torch.inference_mode():
        features = encoder(torch.from_numpy(frames).flatten(0, 1))
    head = Head("linear", width=12, frames=1, targets=TARGETS, hidden=16, dropout=0.1)
    head.standardise_by([features])
    for classifier in head.classifiers:
        nn.init.normal_(classifier.weight)
        nn.init.zeros_(classifier.bias)
    with torch.inference_mode():
        truth = {
            target.name: np.asarray(logits.numpy().argmax(1), np.int64)
            for target, logits in zip(TARGETS, head.eval()(features.unflatten(0, (samples, 1))), strict=True)
        }
    stages = zip(frame_encoder_stages(CONTRACT, 12), (encoder, head), strict=True)
    trained = Trained(tuple(TrainedStage(stage, module) for stage, module in stages), CONTRACT)
    asked = {"int8": True, "max_drop": 100, "allow_drop": True, **options}
    validation = Validation(frames, truth, [f"photo {sample}" for sample in range(samples)])
    return export_bundle(trained, out, validation, Frames(pictures(32, seed + 100)[:, 0]), ExportOptions(**asked))[0]


def changed_bundle(
    bundle: Path,
    out: Path,
    *,
    golden: Callable[[dict[str, Any], dict[str, bytes]], None] | None = None,
    manifest: Callable[[dict[str, Any]], None] | None = None,
    files: dict[str, bytes] | None = None,
) -> Path:
    """Return a copy of a bundle with changed content and new hashes, as an attacker would create it.

    Args:
        golden: changes the content of golden.json and the entries of the archive, both in place.
        manifest: changes bundle.json, in place.
        files: new contents, by name.
    """
    shutil.copytree(bundle, out)
    for name, content in (files or {}).items():
        (out / name).write_bytes(content)
    if golden:
        with zipfile.ZipFile(out / "golden.zip") as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        told = json.loads(entries["golden.json"])
        entries.pop("golden.json")
        golden(told, entries)
        (out / "golden.zip").write_bytes(archive_of({"golden.json": json.dumps(told).encode(), **entries}))
    described = json.loads((out / "bundle.json").read_text(encoding="utf-8"))
    for name in described["files"]:
        content = (out / name).read_bytes()
        described["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    if manifest:
        manifest(described)
    (out / "bundle.json").write_text(json.dumps(described), encoding="utf-8")
    return out


def archive_of(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()
