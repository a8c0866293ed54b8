"""Measure the peak memory of merging, exporting and bundling a large model, each in its own process.

    python benchmarks/sizes.py [--scale 1] [--dtype float16] [--json FILE]

The dummy model has the shape of a language model of 1.5 billion parameters: an embedding and blocks of linear layers,
the last of which have LoRA. A scale below 1 reduces the blocks, the rows, and the size from which a model counts as
large by the same factor, so the code path is the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "sizes.json"
WIDTH, INNER, BLOCKS, ROWS = 1536, 8960, 32, 151_936
ADAPTED = 8  # blocks, one is adapted: the last ones
SIDE_PX = 16
LIMIT = 2.0  # times the size of the weights


def describe_process() -> dict[str, float]:
    from vidrisk.runtimes.memory import bytes_from_status

    status = Path("/proc/self/status")
    return {
        name: (bytes_from_status(status, field) or 0) / 1e6 for name, field in (("peak_mb", "VmHWM"), ("mb", "VmRSS"))
    }


def dummy(scale: float, dtype: str) -> Any:
    """Return a model ``uint8 (N, 16, 16, 3)`` → ``float32 (N, width)``; the last blocks have LoRA with nonzero B."""
    import peft
    import torch
    from torch import nn

    torch.set_default_dtype(getattr(torch, dtype))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(WIDTH)
            self.gate, self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(x)
            result: torch.Tensor = x + self.down(torch.relu(self.gate(y)) * self.up(y))
            return result

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(max(256, round(ROWS * scale)), WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(max(2, round(BLOCKS * scale))))

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            x = self.embed(frames.flatten(1)[:, :64].long())
            for block in self.blocks:
                x = block(x)
            return x.mean(dim=1).float()

    with torch.device("meta"):
        empty = Backbone()
    with torch.no_grad():
        backbone = empty.to_empty(device="cpu")
        for parameter in backbone.parameters():
            parameter.uniform_(-0.02, 0.02)
        blocks = len(backbone.blocks)
        last = range(blocks - max(1, blocks // ADAPTED), blocks)
        names = [f"blocks.{index}.{name}" for index in last for name in ("gate", "up", "down")]
        adapted = peft.get_peft_model(backbone, peft.LoraConfig(r=8, target_modules=names))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    return adapted.eval()


def measure(scale: float, dtype: str, folder: Path) -> dict[str, Any]:
    """Merge, export and bundle the dummy model in this process."""
    import torch

    from vidrisk.calibration import files
    from vidrisk.export.convert.graphs import export_onnx
    from vidrisk.export.convert.merge import merge_trained
    from vidrisk.runtimes.contract.specs import TensorSpec

    files.MAX_INLINE_BYTES = round(files.MAX_INLINE_BYTES * min(scale, 1.0) / 2)
    steps: dict[str, Any] = {}

    def step(name: str, act: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = act()
        steps[name] = {"seconds": round(time.perf_counter() - begin, 1), **describe_process()}
        return result

    pixels = TensorSpec("pixels", "uint8", ("batch", SIDE_PX * SIDE_PX * 3))
    step("start", lambda: export_onnx(torch.nn.Flatten(), *_example(pixels), folder / "first.onnx"))
    model = step("load", lambda: dummy(scale, dtype))
    weights = [parameter for name, parameter in model.named_parameters() if "lora_" not in name]
    size_mb = sum(weight.nbytes for weight in weights) / 1e6
    merged = step("merge", lambda: merge_trained(model))
    step(
        "export",
        lambda: export_onnx(
            merged, *_example(TensorSpec("features", "float32", ("batch", WIDTH))), folder / "encoder.fp32.onnx"
        ),
    )
    step("bundle", lambda: write_bundle_of(folder))
    size = sum(file.stat().st_size for file in (folder / "bundle").iterdir())
    start_mb, peak_mb = steps["start"]["peak_mb"], steps["bundle"]["peak_mb"]
    return {
        "scale": scale,
        "dtype": dtype,
        "parameters": sum(weight.numel() for weight in weights),
        "size_mb": size_mb,
        "bundle_mb": size / 1e6,
        "start_mb": start_mb,
        "peak_mb": peak_mb,
        "times_size": round(peak_mb / size_mb, 3),
        "growth_times_size": round((peak_mb - start_mb) / size_mb, 3),
        "limit": LIMIT,
        "steps": steps,
    }


def _example(output: Any) -> tuple[Any, Any, Any]:
    import torch

    from vidrisk.runtimes.contract.specs import TensorSpec

    frames = TensorSpec("frames", "uint8", ("batch", SIDE_PX, SIDE_PX, 3))
    return (torch.zeros((2, SIDE_PX, SIDE_PX, 3), dtype=torch.uint8),), [frames], [output]


def write_bundle_of(folder: Path) -> None:
    """Write a bundle of the encoder and a head of one layer."""
    import torch

    from vidrisk.calibration.files import graph_files, load_graph
    from vidrisk.export.convert.graphs import export_onnx
    from vidrisk.export.convert.macs import macs_from_onnx
    from vidrisk.runtimes import Contract, PixelSpec, Target, TimeSpec
    from vidrisk.runtimes.contract.bundle import Manifest, Variant, write_bundle
    from vidrisk.runtimes.contract.stages import frame_encoder_stages

    torch.set_default_dtype(torch.float32)
    contract = Contract(
        task="action",
        pixel=PixelSpec(SIDE_PX, SIDE_PX),
        time=TimeSpec(1),
        targets=(Target(name="action", labels=("run", "sit")),),
    )
    stages = {stage.name: stage for stage in frame_encoder_stages(contract, WIDTH)}
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(WIDTH, 2))
    export_onnx(
        head, (torch.zeros(2, 1, WIDTH),), stages["head"].inputs, stages["head"].outputs, folder / "head.fp32.onnx"
    )
    paths = {"encoder": folder / "encoder.fp32.onnx", "head": folder / "head.fp32.onnx"}
    counted = tuple(
        stage.model_copy(update={"macs": macs_from_onnx(load_graph(paths[name]))}) for name, stage in stages.items()
    )
    variant = Variant(
        files={name: path.name for name, path in paths.items()}, precision=dict.fromkeys(paths, "fp32"), passed=True
    )
    manifest = Manifest(contract=contract, stages=counted, files={}, variants={"fp32": variant})
    write_bundle(
        folder / "bundle", manifest, {file.name: file for path in paths.values() for file in graph_files(path)}
    )


def measure_in_process(scale: float, dtype: str) -> dict[str, Any]:
    """Run ``measure`` in a separate process."""
    with tempfile.TemporaryDirectory(prefix="vidrisk-sizes-") as folder:
        command = [sys.executable, __file__, "--scale", str(scale), "--dtype", dtype, "--in", folder]
        end = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(end.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float32")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measure(options.scale, options.dtype, options.folder)))
        return
    from machine import describe_machine

    result = measure_in_process(options.scale, options.dtype)
    options.json.write_text(json.dumps({**result, "machine": describe_machine()}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
