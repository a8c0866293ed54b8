"""Measure what a device needs: the size of the `[cpu]` environment and of a bundle, and the time of `vidrisk --help`.

    python benchmarks/footprint.py

It creates virtual environments in a temporary folder, and installs this checkout into them as on a device.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine
from quiet import measure_quietly

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).parent / "results" / "footprint.json"
HEAVY = ("torch", "transformers", "onnx", "pandas", "pyarrow")


def environment(folder: Path, *requirements: str) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *requirements], check=True)
    return folder


def size_mb(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def help_s(folder: Path) -> float:
    def time_help() -> float:
        begin = time.perf_counter()
        subprocess.run([str(folder / "bin" / "vidrisk"), "--help"], check=True, capture_output=True)
        return time.perf_counter() - begin

    times = measure_quietly(lambda: [time_help() for _ in range(9)])
    return statistics.median(times[2:])


def bundle_mb(folder: Path) -> float:
    """Return the size of an INT8 bundle of EfficientNet-Lite0; a new head is as large as a trained one."""
    import numpy as np

    from vidrisk.export.export import export_bundle
    from vidrisk.export.gate.outputs import Validation
    from vidrisk.export.quantize.feeds import ValidationFrames
    from vidrisk.export.trained import ExportOptions, Trained, TrainedStage
    from vidrisk.models.encoders import build_encoder
    from vidrisk.models.heads import Head
    from vidrisk.runtimes import Contract, PixelSpec, Target
    from vidrisk.runtimes.contract.stages import frame_encoder_stages

    encoder = build_encoder("efficientnet-lite0")
    contract = Contract(task="risk", pixel=PixelSpec(), targets=(Target(name="level", labels=("minor", "severe")),))
    head = Head("linear", width=encoder.width, frames=1, targets=contract.targets, hidden=8, dropout=0.0)
    frames = np.random.default_rng(0).integers(0, 256, (16, 1, 224, 224, 3), dtype=np.uint8)
    validation = Validation(frames, {"level": np.zeros(16, np.int64)}, [str(i) for i in range(16)])
    stages = zip(frame_encoder_stages(contract, encoder.width), (encoder, head), strict=True)
    trained = Trained(tuple(TrainedStage(stage, module) for stage, module in stages), contract)
    bundle, _ = export_bundle(
        trained,
        folder / "int8.bundle",
        validation,
        ValidationFrames(validation, 16),
        ExportOptions(int8=True, max_drop=100, only="int8"),
    )
    return size_mb(bundle.root)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        cpu = environment(Path(scratch) / "cpu", f"{ROOT}[cpu]")
        packages = {path.name for path in (cpu / "lib").glob("python*/site-packages/*")}
        assert not packages & set(HEAVY), f"the device install holds {packages & set(HEAVY)}"
        with_openvino = size_mb(cpu)
        start = help_s(cpu)
        subprocess.run(
            [str(cpu / "bin" / "pip"), "uninstall", "--quiet", "--yes", "openvino", "openvino-telemetry"], check=True
        )
        without = size_mb(cpu)
        bundle = bundle_mb(Path(scratch))
    rows = [
        {"what": "`vidrisk --help`, median of 7", "measured": f"{start:.2f} s", "limit": "0.3 s", "ok": start < 0.3},
        {
            "what": "`[cpu]` environment with OpenVINO, pip included",
            "measured": f"{with_openvino:.0f} MB",
            "limit": "550 MB",
            "ok": with_openvino < 550,
        },
        {
            "what": "`[cpu]` environment without OpenVINO",
            "measured": f"{without:.0f} MB",
            "limit": "350 MB",
            "ok": without < 350,
        },
        {
            "what": "bundle of EfficientNet-Lite0, INT8 alone",
            "measured": f"{bundle:.1f} MB",
            "limit": "8 MB",
            "ok": bundle < 8,
        },
    ]
    RESULT.write_text(json.dumps({"rows": rows, "machine": describe_machine()}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
