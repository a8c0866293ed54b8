"""Compare INT8 exports of foreign ONNX files: a CNN and a ViT, trained here with plain torch on brick cracks.

    python benchmarks/foreign.py [--data DIR] [--trial]

Each is trained from scratch, exported without changes (NCHW, fixed batch of one), and given to ``vidrisk export``
without any description of its pixels. The other tools quantize the same float graph with the same calibration photos.
All are evaluated on the same test photos and timed in turns in one process, each with the faster of ONNX Runtime and
OpenVINO. --trial: few photos and two epochs; writes nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import peers
import torch
from machine import describe_machine
from quiet import measure_quietly
from torch import nn

from vidrisk.data import Table, load_table
from vidrisk.data.choice import draw_samples
from vidrisk.export.trained import ExportOptions
from vidrisk.frames import read_clips
from vidrisk.jobs.foreign import ForeignModel, export_foreign
from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.errors import VidriskError, is_installed
from vidrisk.runtimes.contract.specs import PixelSpec
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, file_runtimes
from vidrisk.runtimes.timing import seconds_in_turns

RESULT = Path(__file__).parent / "results" / "foreign.json"
SIDE, BATCH, ROUNDS = 96, 8, 19
MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
TRAIN, VALIDATION = 0.5, 0.25  # of the photos; the rest are the test's
Frames = npt.NDArray[np.uint8]


class Residual(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.beside = nn.Sequential(nn.Conv2d(inputs, width, 1, 2, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.beside(x))


def cnn() -> nn.Module:
    """Return a network of four residual blocks with 48 to 256 channels."""
    blocks = [Residual(inputs, width) for inputs, width in ((48, 64), (64, 128), (128, 192), (192, 256))]
    return nn.Sequential(
        nn.Conv2d(3, 48, 3, 1, 1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 2)
    )


class Block(nn.Module):
    """Attention and a multilayer perceptron, each after a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = heads

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, width = tokens.shape
        q, k, v = self.qkv(self.first(tokens)).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width)
        tokens = tokens + self.out(mixed)
        return tokens + self.mlp(self.second(tokens))


class Vit(nn.Module):
    """A ViT of six blocks of width 192, with patches of 12 pixels."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 12, 12)
        self.positions = nn.Parameter(torch.randn(1, (SIDE // 12) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, 6) for _ in range(6)), nn.LayerNorm(width))
        self.head = nn.Linear(width, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        logits: torch.Tensor = self.head(self.blocks(tokens).mean(dim=1))
        return logits


def normalize_frames(frames: Frames) -> torch.Tensor:
    return ((torch.from_numpy(frames).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()


def train_model(model: nn.Module, frames: Frames, truth: npt.NDArray[np.int64], epochs: int) -> nn.Module:
    """Train a model from scratch, with random mirroring."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1e-3, epochs=epochs, steps_per_epoch=-(-len(frames) // 32)
    )
    images, labels = normalize_frames(frames), torch.from_numpy(truth)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(32):
            batch = images[part]
            batch = batch.flip(3) if torch.rand(1) < 0.5 else batch
            loss = nn.functional.cross_entropy(model(batch.flip(2) if torch.rand(1) < 0.5 else batch), labels[part])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return model.eval()


def photos(table: Table, labels: list[str]) -> tuple[Frames, npt.NDArray[np.int64]]:
    pixel = PixelSpec(SIDE, SIDE)
    frames = np.concatenate(
        [next(read_clips(sample.path, pixel, None, sample.interval)).frames for sample in table.samples]
    )
    return frames, np.array([labels.index(sample.labels["defect"]) for sample in table.samples], np.int64)


def split_of(table: Table) -> tuple[Table, Table, Table]:
    mixed = np.random.default_rng(0).permutation(len(table))
    ends = [int(TRAIN * len(table)), int((TRAIN + VALIDATION) * len(table))]
    train, val, test = (table.with_samples(table.samples[i] for i in part) for part in np.split(mixed, ends))
    return train, val, test


def methods(bundle: Bundle, fp32: Path, windows: Frames, scratch: Path, *, transformer: bool) -> dict[str, Path | str]:
    """Return the model file of each method, or the reason why there is none."""
    (stage,) = bundle.stages
    made: dict[str, Path | str] = {"fp32": fp32}
    quantized = next((name for name in ("int8", "mixed") if name in bundle.manifest.variants), None)
    made["vidrisk"] = bundle.path(stage.name, quantized) if quantized else "not faster than fp32"  # type: ignore[arg-type]
    tools: dict[str, Callable[[Path], Path]] = {
        "ONNX Runtime, min-max": lambda out: peers.ort_static(fp32, out, windows)
    }
    if is_installed("nncf"):
        tools["NNCF quantize"] = lambda out: peers.nncf_quantized(fp32, out, windows, transformer=transformer)
    for name, tool in tools.items():
        out = scratch / name.replace(" ", "_").replace(",", "")
        out.mkdir()
        try:
            made[name] = tool(out)
        except Exception as error:  # tools raise many types
            made[name] = str(error).strip().splitlines()[0][:200]
    return made


def measure(
    bundle: Bundle, files: dict[str, Path | str], windows: Frames, truth: npt.NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Measure accuracy and speed of every method, each with its faster runtime."""
    (stage,) = bundle.stages
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        runners = {}
        for method, path in files.items():
            for runtime in file_runtimes():
                if isinstance(path, Path):
                    try:
                        runner = stack.enter_context(BUNDLE_RUNTIMES[runtime](path, stage.inputs, stage.outputs))
                        runner.infer({"frames": windows[:2]})
                    except VidriskError:
                        continue  # an IR is OpenVINO's alone
                    runners[method, runtime] = runner
        seconds = measure_quietly(lambda: seconds_in_turns(runners, {"frames": windows[:BATCH]}, ROUNDS))
        said = {
            key: np.concatenate(
                [
                    np.array(runner.infer({"frames": windows[i : i + BATCH]})["defect_logits"])
                    for i in range(0, len(windows), BATCH)
                ]
            )
            for key, runner in runners.items()
        }
    fastest = {
        method: min((key for key in seconds if key[0] == method), key=seconds.__getitem__, default=None)
        for method in files
    }
    fp32 = fastest["fp32"]
    assert fp32 is not None
    for method, path in files.items():
        key = fastest[method]
        if key is None:
            rows.append({"method": method, "refusal": str(path)})
            continue
        right = said[key].argmax(axis=1) == truth
        rows.append(
            {
                "method": method,
                "runtime": key[1],
                "top1": float(right.mean()),
                "speed": seconds[fp32] / seconds[key],
                "agreement": float((said[key].argmax(axis=1) == said[fp32].argmax(axis=1)).mean()),
                "ms_per_photo": 1e3 * seconds[key] / BATCH,
            }
        )
    return rows


def benchmark(
    name: str, model: nn.Module, tables: tuple[Table, Table, Table], scratch: Path, epochs: int
) -> dict[str, Any]:
    train, val, test = tables
    labels = sorted({sample.labels["defect"] for sample in train.samples})
    frames, truth = photos(train, labels)
    path = scratch / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own making
        torch.onnx.export(
            train_model(model, frames, truth, epochs),
            (torch.zeros(1, 3, SIDE, SIDE),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["scores"],
        )
    (scratch / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    foreign = ForeignModel(path, "risk", scratch / "labels.txt")
    options = ExportOptions(int8=True, allow_drop=True)
    bundle, report = export_foreign(foreign, scratch / f"{name}.bundle", options, val=val, calib=train)
    (stage,) = bundle.stages
    fp32 = bundle.path(stage.name, "fp32")
    shown, answers = photos(test, labels)
    own = onnxruntime.InferenceSession(str(path))
    ours = onnxruntime.InferenceSession(str(fp32))
    difference = max(
        float(
            np.abs(
                own.run(None, {"image": normalize_frames(each[None]).numpy()})[0]
                - ours.run(None, {"frames": each[None, None]})[0]
            ).max()
        )
        for each in shown
    )
    calibration = frames[: report.calibration["frames"], None]
    files = methods(bundle, fp32, calibration, scratch / name, transformer=name == "vit")
    return {
        "photos": {"train": len(train), "val": len(val), "test": len(test)},
        "pixels": bundle.manifest.source["pixels"],
        "fp32_difference": difference,
        "max_drop": options.max_drop,
        "rows": measure(bundle, files, shown[:, None], answers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with brick_crack")
    parser.add_argument("--trial", action="store_true")
    arguments = parser.parse_args()
    table = load_table(arguments.data / "brick_crack", "risk")
    tables = split_of(draw_samples(table, 120, 0) if arguments.trial else table)
    models: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "vit": Vit}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in models.items():
            torch.manual_seed(0)
            (Path(folder) / name).mkdir()
            results[name] = benchmark(name, make(), tables, Path(folder), 2 if arguments.trial else 30)
            print(json.dumps(results[name], indent=2))
    if not arguments.trial:
        RESULT.write_text(
            json.dumps({"machine": describe_machine(), "side": SIDE, "batch": BATCH, "models": results}, indent=2)
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
