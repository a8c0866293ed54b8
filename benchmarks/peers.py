"""INT8 models by the tools of ONNX Runtime and NNCF, with their recommended settings.

    python benchmarks/peers.py ours|entropy ENCODER FRAMES COUNT

This runs one calibration in its own process, and prints its peak memory. All methods take the encoder's ONNX file and
calibration frames ``uint8 (N, H, W, 3)``, and write a model file.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.telemetry import silence_telemetry

Frames = npt.NDArray[np.uint8]
Predict = Callable[[npt.NDArray[np.float32]], int]  # features (T, D) of one sample → its class
INPUT, OUTPUT = "frames", "features"
KEPT_PIXELS = (
    64 * 224 * 224
)  # ONNX Runtime's histogram calibrators keep every activation: about 3 GB for so many pixels
BATCH = 8


def count_kept_samples(frames: Frames) -> int:
    """Return the number of frames for a calibrator that keeps every activation."""
    return min(len(frames), KEPT_PIXELS // math.prod(frames.shape[1:3]))


class FrameReader:
    """ONNX Runtime's ``CalibrationDataReader``: one frame per feed, as in its examples."""

    def __init__(self, frames: Frames) -> None:
        self._feeds = iter(frames)

    def get_next(self) -> dict[str, Frames] | None:
        frame = next(self._feeds, None)
        return None if frame is None else {INPUT: frame[None]}


def ort_static(
    encoder: Path,
    out: Path,
    frames: Frames,
    *,
    method: Literal["MinMax", "Entropy", "Percentile"] = "MinMax",
    symmetric: bool = False,
) -> Path:
    """Apply ``quantize_static`` in Q/DQ format, per channel, after ``quant_pre_process``.

    It uses uint8 activations and int8 weights, as recommended for x86 with VNNI; with ``symmetric``, int8 around zero
    for both, as recommended for TensorRT.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, path = out / "prepared.onnx", out / "model.onnx"
    quant_pre_process(encoder, prepared, skip_symbolic_shape=True)  # symbolic inference fails on some of the graphs
    options = {"ActivationSymmetric": True, "WeightSymmetric": True} if symmetric else {}
    with redirect_stdout(StringIO()):
        quantize_static(
            prepared,
            path,
            FrameReader(frames),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options=options,
        )
    return path


def nncf_quantized(encoder: Path, out: Path, frames: Frames, *, mixed: bool = False, transformer: bool = False) -> Path:
    """Apply ``nncf.quantize`` to OpenVINO's model.

    ``mixed`` requests asymmetric activations, which transformers get anyway.
    """
    nncf, openvino = _quiet_nncf()
    model = nncf.quantize(
        openvino.Core().read_model(encoder),
        nncf.Dataset(frames, _feed),
        subset_size=len(frames),
        preset=nncf.QuantizationPreset.MIXED if mixed else None,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    return _save(openvino, model, out)


def nncf_accuracy_controlled(
    encoder: Path,
    out: Path,
    frames: Frames,
    samples: Sequence[tuple[Frames, int]],
    predict: Predict,
    *,
    max_drop: float,
    transformer: bool = False,
) -> Path:
    """Apply ``nncf.quantize_with_accuracy_control``, judged by top-1 on ``samples``.

    A sample is frames ``(T, H, W, 3)`` and class; ``max_drop`` of top-1 is a fraction.
    """
    nncf, openvino = _quiet_nncf()

    def top1(model: Any, items: Any) -> tuple[float, list[float]]:
        hits = [float(predict(model({INPUT: clip})[OUTPUT]) == label) for clip, label in items]
        return float(np.mean(hits)), hits

    judged = nncf.Dataset(samples, lambda item: {INPUT: item[0]})
    model = nncf.quantize_with_accuracy_control(
        openvino.Core().read_model(encoder),
        nncf.Dataset(frames, _feed),
        judged,
        top1,
        max_drop=max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(frames),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    return _save(openvino, model, out)


def _quiet_nncf() -> tuple[Any, Any]:
    import logging

    silence_telemetry()
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    return nncf, openvino


def _feed(frame: Frames) -> dict[str, Frames]:
    return {INPUT: frame[None]}


def _save(openvino: Any, model: Any, out: Path) -> Path:
    path = out / "model.xml"
    openvino.save_model(
        model, path, compress_to_fp16=False
    )  # what stays in floating point stays in fp32, as in all others
    return path


def batches(path: Path, count: int, shape: Sequence[int]) -> Iterator[dict[str, Frames]]:
    """Yield the first ``count`` frames of a file of bytes in batches."""
    size = math.prod(shape)
    with path.open("rb") as file:
        for begin in range(0, count, BATCH):
            data = file.read(size * min(BATCH, count - begin))
            yield {INPUT: np.frombuffer(data, np.uint8).reshape(-1, *shape)}


def memory_mb(key: Literal["VmRSS", "VmHWM"]) -> float:
    """Return the resident memory of this process, now or at its peak; ``getrusage`` includes the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def main() -> None:
    """Calibrate once and print the memory before and at the peak."""
    kind, encoder, frames, count = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    import onnx

    model = onnx.load(encoder)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    if kind == "ours":
        from vidrisk.calibration.observers import observe_statistics

        before = memory_mb("VmRSS")
        observe_statistics(model, batches(frames, count, shape))
    else:
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator
        from onnxruntime.quantization.shape_inference import quant_pre_process

        before = memory_mb("VmRSS")
        # A request over what the machine has must fail here, and not take the machine with it.
        resource.setrlimit(resource.RLIMIT_AS, (int(0.95 * available_bytes()),) * 2)
        with tempfile.TemporaryDirectory() as scratch:
            prepared = Path(scratch) / "prepared.onnx"
            quant_pre_process(encoder, prepared, skip_symbolic_shape=True)
            calibrator = create_calibrator(
                prepared,
                augmented_model_path=str(Path(scratch) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.Entropy,
            )
            feeds = (frame for batch in batches(frames, count, shape) for frame in batch[INPUT])
            calibrator.collect_data(FrameReader(feeds))  # type: ignore[arg-type]
            calibrator.compute_data()
    print(json.dumps({"before_mb": round(before), "peak_mb": round(memory_mb("VmHWM"))}))


if __name__ == "__main__":
    main()
