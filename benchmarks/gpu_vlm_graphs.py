"""Export the stages of Qwen2.5-VL-3B as graphs for a GPU, from a model with random weights on that GPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_place import Place

STAGES = {
    "vision": ("fp16", "int8"),
    "text": ("fp16",),
}  # and their variants: a bundle's text stage is FP16 beside INT8, too


def backbone_of(place: Place) -> Path:
    from qwen_3b import write_backbone

    return write_backbone(place.work / "qwen" / "backbone", small=place.trial)


def build_classifier(place: Place) -> tuple[Any, Any]:
    """Return a classifier on the GPU in bfloat16, and its contract."""
    from qwen_3b import build_qwen, clip_contract, qwen_config

    config = qwen_config(backbone_of(place), small=place.trial)
    contract = clip_contract(config)
    return build_qwen(config, contract, device=place.device), contract


def free_memory() -> None:
    """Free the unused GPU memory in torch's cache."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def export_graphs(place: Place, seconds: dict[str, float]) -> Path:
    """Export the missing ``STAGE.fp32.onnx`` and variants to a folder that keeps them for the next run.

    The time for each file is added to ``seconds``.
    """
    from qwen_3b import export_stages, noise_frames

    from vidrisk.calibration.files import load_graph, save_graph
    from vidrisk.calibration.half import half_from_float

    folder = place.work / "qwen"

    def make_missing(name: str, make: Callable[[], object]) -> None:
        begin = time.perf_counter()
        if not (folder / name).is_file():
            make()
        seconds[name] = round(time.perf_counter() - begin, 1)

    def export() -> None:
        model, contract = build_classifier(place)
        export_stages(model.cpu().float(), contract, noise_frames(contract, 1), folder)

    make_missing("head.fp32.onnx", export)  # the last one
    free_memory()
    for stage in STAGES:
        path = folder / f"{stage}.fp16.onnx"
        make_missing(
            path.name,
            lambda stage=stage, path=path: save_graph(  # type: ignore[misc]
                half_from_float(load_graph(folder / f"{stage}.fp32.onnx")), path
            ),
        )
    make_missing(
        "vision.int8.onnx", lambda: save_graph(half_from_float(_quantize_vision(folder)), folder / "vision.int8.onnx")
    )
    return folder


def _quantize_vision(folder: Path) -> Any:
    """Quantize the vision stage for TensorRT with the ranges of one window, which do not affect its speed."""
    from qwen_stages import feed_of, read_stages

    from vidrisk.calibration.files import load_graph
    from vidrisk.calibration.graph import Net
    from vidrisk.calibration.observers import observe_statistics
    from vidrisk.calibration.profiles import PROFILES
    from vidrisk.calibration.qdq import tensors_to_quantize
    from vidrisk.calibration.recipe import Observed, Quantizer, Recipe

    stages, values = read_stages(folder)
    rows = feed_of(stages["vision"], values)["frames"]
    graph = load_graph(folder / "vision.fp32.onnx")
    statistics = observe_statistics(
        graph, ({"frames": row[None]} for row in rows), names=tensors_to_quantize(Net(graph))
    )
    observed = Observed(graph, statistics)
    return Quantizer(observed, observed, PROFILES["tensorrt"]).quantize(Recipe())
