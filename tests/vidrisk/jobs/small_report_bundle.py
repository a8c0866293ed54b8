"""A small real bundle that writes reports.

It has visual tokens of mean colours and a tiny text graph, with weights packed or not.

The model is untrained: its answers are noise in the form that the scheme's JSON Schema permits. They depend
only on the photo and on the text of a case. ``write_report_bundle`` takes a second; ``report_bundle`` keeps
one bundle per process.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tiny_text
from onnx import TensorProto, helper, numpy_helper

from vidrisk.calibration.files import save_graph
from vidrisk.data.scheme import Scheme
from vidrisk.export.text.fused import select_logits
from vidrisk.export.text.packing import INT8, pack_text
from vidrisk.runtimes import Manifest, Variant, write_bundle
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.manifest import TEXT, ReportPart
from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.contract.specs import PixelSpec, TensorSpec
from vidrisk.runtimes.contract.stages import BATCH, PIXELS, Stage

SIDE_PX, TOKENS, POSITIONS, ANSWER_TOKENS = 16, 4, 768, 224
PIXEL = PixelSpec(SIDE_PX, SIDE_PX, mean=(0, 0, 0), std=(1, 1, 1))
FRAMES = TensorSpec(PIXELS, "uint8", (BATCH, *PIXEL.frame_shape))
VISUAL = TensorSpec("visual", "float32", (BATCH, TOKENS, tiny_text.WIDTH))
SCHEME = Scheme.model_validate(
    {
        "name": "small",
        "language": "en",
        "levels": [
            {"name": "minor", "severity": 0},
            {"name": "medium", "severity": 50},
            {"name": "severe", "severity": 100},
        ],
        "fields": [
            {"name": "level", "label": "risk level", "kind": "level", "required": True},
            {"name": "defect", "label": "defect", "max_chars": 12, "columns": ["description"]},
            {"name": "risk", "label": "risk", "max_chars": 8},
            {"name": "advice", "label": "advice", "max_chars": 8},
        ],
        "text_field": "defect",
        "prompts": {"system": "{fields}", "photos": "{count} photos.", "text": "Told: {text}"},
    }
)
PIECES = ChatPieces(
    begin="system\n",
    begin_bare="",
    to_question="<end>user\n",
    photo_open="[",
    photo_close="]",
    to_answer="<end>answer\n",
    to_next="<end>user\n",
)


def write_report_bundle(
    root: Path,
    *,
    scheme: Scheme | None = SCHEME,
    positions: int = POSITIONS,
    answer_tokens: int = ANSWER_TOKENS,
    ends: tuple[int, ...] = (tiny_text.END,),
    seed: int = 0,
    **variant: Any,
) -> Path:
    """Write a bundle with the variants ``fp32`` and ``int8``; the text graph of ``int8`` has 8-bit weights.

    Args:
        scheme: scheme of the reports; None for a bundle that only answers questions.
        ends: ids of the tokens that end an answer.
        variant: further fields of both variants: ``temperature``, ``threshold``.
    """
    targets = (
        ()
        if scheme is None
        else (
            Target(
                name=scheme.level_fields[0].name,
                labels=scheme.level_names,
                ordered=True,
                severity=tuple(level.severity or 0.0 for level in scheme.levels),
            ),
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        files = _model_files(work, positions, seed)
        if scheme is not None:
            files["scheme.json"] = work / "scheme.json"
            files["scheme.json"].write_text(scheme.to_json(), encoding="utf-8")
        part = ReportPart(
            scheme="scheme.json" if scheme else None,
            system=None if scheme else "Answer.",
            pieces=PIECES,
            tokenizer="tokenizer.json",
            embeddings="embeddings.npy",
            ends=ends,
            positions=positions,
            answer_tokens=answer_tokens,
        )
        variants = {
            name: Variant(
                files={"vision": "vision.fp32.onnx", TEXT: f"text.{name}.onnx"},
                precision={"vision": "fp32", TEXT: precision},
                passed=True,
                **variant,
            )
            for name, precision in (("fp32", "fp32"), ("int8", "int8-weight-only"))
        }
        stage = Stage(name="vision", per="frame", inputs=(FRAMES,), outputs=(VISUAL,))
        manifest = Manifest(
            contract=Contract(task="report", pixel=PIXEL, targets=targets),
            stages=(stage,),
            variants=variants,
            files={},
            report=part,
        )
        write_bundle(root, manifest, files)
    return root


def _model_files(work: Path, positions: int, seed: int) -> dict[str, Path]:
    names = ("vision.fp32.onnx", "text.fp32.onnx", "text.int8.onnx", "embeddings.npy", "tokenizer.json")
    files = {name: work / name for name in names}
    rng = np.random.default_rng(seed)
    onnx.save_model(_vision(rng), str(files["vision.fp32.onnx"]))
    graph = tiny_text.builders_graph(seed)
    _lengthen(graph, positions)
    config = tiny_text.CONFIG | {"max_position_embeddings": positions}
    save_graph(select_logits(graph, config), files["text.fp32.onnx"])
    pack_text(files["text.fp32.onnx"], files["text.int8.onnx"], INT8)
    np.save(files["embeddings.npy"], rng.normal(0, 1, (tiny_text.VOCABULARY, tiny_text.WIDTH)).astype(np.float32))
    tiny_text.write_tokenizer(files["tokenizer.json"])
    return files


def _lengthen(graph: onnx.ModelProto, positions: int) -> None:
    """Set the number of positions of the rotary embedding to ``positions``."""
    half = tiny_text.HEAD_SIZE // 2
    angles = np.arange(positions)[:, None] * 10000.0 ** (-np.arange(half) / half)
    for tensor in graph.graph.initializer:
        if tensor.name in ("cos_cache", "sin_cache"):
            values = np.cos(angles) if tensor.name == "cos_cache" else np.sin(angles)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def _vision(rng: np.random.Generator) -> onnx.ModelProto:
    """Return a graph that maps the mean colour of a frame to ``TOKENS`` tokens."""
    weights = {
        "axes": np.array([1, 2]),
        "scale": np.array(1 / 64, np.float32),
        "shape": np.array([-1, TOKENS, tiny_text.WIDTH]),
        "weight": rng.normal(0, 1, (3, TOKENS * tiny_text.WIDTH)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", [PIXELS], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["colour"]),
        helper.make_node("MatMul", ["colour", "weight"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], [VISUAL.name]),
    ]
    graph = helper.make_graph(
        nodes,
        "vision",
        [helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, FRAMES.shape)],
        [helper.make_tensor_value_info(VISUAL.name, TensorProto.FLOAT, VISUAL.shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@functools.cache
def report_bundle() -> Path:
    """Return a bundle with the default arguments, created once per test process.

    Tests must not change it.
    """
    _kept.append(tempfile.TemporaryDirectory(prefix="vidrisk-report-bundle-"))
    return write_report_bundle(Path(_kept[-1].name) / "small.bundle")


_kept: list[tempfile.TemporaryDirectory[str]] = []
