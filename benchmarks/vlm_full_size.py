"""Qwen2.5-VL-3B at its full dimensions through export, 4-bit weights and ONNX Runtime, within 20 GB of memory.

    python benchmarks/vlm_full_size.py [--layers N] [--vision-layers N] [--work FOLDER] [--small]

The weights are random, and created in memory (``qwen_3b.py``). Every phase runs in its own process, whose peak resident
memory (VmHWM, including mapped files) is recorded:

    export       torch model → ONNX files of its stages in float32, and torch's outputs for one window of 8 frames
    pack         the text stage's weights in 4 bits
    fp32, int4   ONNX Runtime alone: all stages loaded, one window run, every stage compared with torch

Without --layers, there are as many language-model layers as the limit and the free memory allow; the vision tower is
complete. --work keeps the files, about 4 bytes per weight; the default is a temporary folder. --small: a tiny model, to
check that it runs. With --vision-layers or --small nothing is written.
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

RESULT = Path(__file__).parent / "results" / "vlm_full_size.json"
LIMIT_MB = 20_000
LAYERS, VISION_LAYERS = 36, 32
# Of float32: a layer of the language model, all else, and what the export takes beside weights (1.5 GB measured with 8
# layers).
LAYER_MB, OTHERS_MB, BESIDE_MB = 308, 3920, 2500
GROUP = 64  # weights that share a scale
THREADS = 2
EXACT = 2e-4  # of the largest value: float32 sums in another order, through all layers


def export(work: Path, layers: int, vision_layers: int, small: bool) -> dict[str, Any]:
    """Create the model, and export its stages."""
    import torch
    from qwen_3b import build_qwen, clip_contract, export_stages, noise_frames, qwen_config, write_backbone

    torch.set_num_threads(THREADS)
    backbone = write_backbone(work / "backbone", layers=layers, vision_layers=vision_layers, small=small)
    config = qwen_config(backbone, small=small, **{"vlm.weights": "float32"})
    contract = clip_contract(config)
    begin = time.perf_counter()
    model = build_qwen(config, contract)
    parameters = {
        part: sum(p.numel() for p in module.parameters())
        for part, module in (("vision", model.backbone.tower), ("language", model.backbone.decoder))
    }
    build_s = time.perf_counter() - begin
    return {
        "parameters": parameters,
        "tokens": model.fixed.layout.length,
        "build_s": build_s,
        "seconds": export_stages(model, contract, noise_frames(contract, 1), work),
    }


def pack(work: Path) -> dict[str, Any]:
    """Pack the weights of the text stage in 4 bits."""
    from vidrisk.calibration.files import SHARED, load_graph, save_graph
    from vidrisk.calibration.nbits import WeightGrid
    from vidrisk.calibration.weight_only import Packing, WeightPacker

    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=work, prefix=SHARED) as shared:
        packer = WeightPacker(load_graph(work / "text.fp32.onnx", Path(shared)), Path(shared))
        save_graph(packer.pack(Packing(WeightGrid(4, GROUP))), work / "text.int4.onnx")
    return {"seconds": time.perf_counter() - begin, "matrices": len(packer.nodes)}


def run(work: Path, text: str) -> dict[str, Any]:
    """Load all stages in ONNX Runtime, run one window, and compare every stage with torch on torch's own inputs."""
    from qwen_stages import constants_of, distance, feed_of, read_stages

    from vidrisk.runtimes.ort import OnnxRuntimeRunner

    stages, values = read_stages(work)
    begin = time.perf_counter()
    runners = {
        name: OnnxRuntimeRunner(
            work / f"{name}.{text if name == 'text' else 'fp32'}.onnx",
            stage.inputs,
            stage.outputs,
            threads=THREADS,
            constants=constants_of(stage, values),
        )
        for name, stage in stages.items()
    }
    told: dict[str, Any] = {"load_s": time.perf_counter() - begin, "loaded_mb": memory_mb("VmRSS"), "stages": {}}
    for name, stage in stages.items():
        begin = time.perf_counter()
        made = runners[name].infer(feed_of(stage, values))
        told["stages"][name] = {"forward_s": time.perf_counter() - begin, **distance(stage, made, values)}
    return told


def layers_that_fit() -> int:
    """Return the number of layers that the export has memory for.

    Raises:
        SystemExit: there is no room for one layer.
    """
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    free_mb = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 / 1e6
    layers = min(LAYERS, int((min(free_mb, LIMIT_MB) - OTHERS_MB - BESIDE_MB) // LAYER_MB))
    if layers < 1:
        raise SystemExit(
            f"{free_mb:.0f} MB of memory are free; needed: {OTHERS_MB + BESIDE_MB + LAYER_MB} MB for one layer"
        )
    return layers


def memory_mb(key: str) -> float:
    """Return the memory of this process, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024 / 1e6


def sizes_mb(work: Path) -> dict[str, float]:
    return {path.name: path.stat().st_size / 1e6 for path in sorted(work.iterdir()) if ".onnx" in path.name}


def measure(work: Path, phases: dict[str, list[str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for phase, options in phases.items():
        command = [sys.executable, str(Path(__file__).resolve()), "--phase", phase, "--work", str(work), *options]
        found[phase] = json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        )
        print(phase, json.dumps(found[phase]), flush=True)
    for stage, row in found["fp32"]["stages"].items():
        if not row["apart"] <= EXACT:
            raise SystemExit(f"stage {stage} computes something else than torch: {row}")
    return {**found, "files_mb": sizes_mb(work), "peak_mb": max(each["peak_mb"] for each in found.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vision-layers", type=int, default=VISION_LAYERS)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--small", action="store_true")
    phases: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "export": lambda a: export(a.work, a.layers, a.vision_layers, a.small),
        "pack": lambda a: pack(a.work),
        **{text: lambda a: run(a.work, a.phase) for text in ("fp32", "int4")},
    }
    parser.add_argument("--phase", choices=phases, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        print(json.dumps({**phases[arguments.phase](arguments), "peak_mb": memory_mb("VmHWM")}))
        return
    from machine import describe_machine

    layers = arguments.layers or layers_that_fit()
    size = ["--layers", str(layers), "--vision-layers", str(arguments.vision_layers), *["--small"] * arguments.small]
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        found = measure(work, {"export": size, "pack": [], "fp32": [], "int4": []})
    found |= {
        "layers": layers,
        "of_layers": LAYERS,
        "vision_layers": arguments.vision_layers,
        "group": GROUP,
        "limit_mb": LIMIT_MB,
        "threads": THREADS,
        "machine": describe_machine(),
    }
    if found["peak_mb"] > LIMIT_MB:
        raise SystemExit(f"{found['peak_mb']:.0f} MB at the peak, with {layers} layers; allowed: {LIMIT_MB} MB")
    if not arguments.small and arguments.vision_layers == VISION_LAYERS:
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
