"""The stages of Qwen2.5-VL-3B as graphs for a GPU, made of a model whose weights were drawn on it."""

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


def built(place: Place) -> tuple[Any, Any]:
    """A classifier on the GPU in bfloat16, and its contract."""
    from qwen_3b import build_qwen, clip_contract, qwen_config

    config = qwen_config(backbone_of(place), small=place.trial)
    contract = clip_contract(config)
    return build_qwen(config, contract, device=place.device), contract


def free_memory() -> None:
    """Give back what torch holds on the GPU and nobody uses."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def exported(place: Place, seconds: dict[str, float]) -> Path:
    """Make what is missing of ``STAGE.fp32.onnx`` and of the variants, in a folder that keeps them for the next time.

    Args:
        seconds: is told what each file took.
    """
    from qwen_3b import export_stages, noise_frames

    from vidrisk.calibration.files import load_graph, save_graph
    from vidrisk.calibration.half import half_from_float

    folder = place.work / "qwen"

    def made(name: str, make: Callable[[], object]) -> None:
        begin = time.perf_counter()
        if not (folder / name).is_file():
            make()
        seconds[name] = round(time.perf_counter() - begin, 1)

    def export() -> None:
        model, contract = built(place)
        export_stages(model.cpu().float(), contract, noise_frames(contract, 1), folder)

    made("head.fp32.onnx", export)  # the last one
    free_memory()
    for stage in STAGES:
        path = folder / f"{stage}.fp16.onnx"
        made(
            path.name,
            lambda stage=stage, path=path: save_graph(  # type: ignore[misc]
                half_from_float(load_graph(folder / f"{stage}.fp32.onnx")), path
            ),
        )
    made(
        "vision.int8.onnx", lambda: save_graph(half_from_float(_quantized_vision(folder)), folder / "vision.int8.onnx")
    )
    return folder


def _quantized_vision(folder: Path) -> Any:
    """The vision stage with Q/DQ pairs for TensorRT, by the ranges of one window: how fast it is does not depend on them."""
    from qwen_stages import feed_of, read_stages

    from vidrisk.calibration.files import load_graph
    from vidrisk.calibration.graph import Net
    from vidrisk.calibration.observers import observed_statistics
    from vidrisk.calibration.profiles import PROFILES
    from vidrisk.calibration.qdq import quantised_tensors
    from vidrisk.calibration.recipe import Observed, Quantiser, Recipe

    stages, values = read_stages(folder)
    rows = feed_of(stages["vision"], values)["frames"]
    graph = load_graph(folder / "vision.fp32.onnx")
    statistics = observed_statistics(
        graph, ({"frames": row[None]} for row in rows), names=quantised_tensors(Net(graph))
    )
    observed = Observed(graph, statistics)
    return Quantiser(observed, observed, PROFILES["tensorrt"]).quantised(Recipe())
