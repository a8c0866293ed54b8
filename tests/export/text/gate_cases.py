"""A tiny text graph with its tokenizer, samples with visual tokens, and a vision stage.

Used by the tests of the gate of language models.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_text import CONFIG, END, VOCABULARY, WIDTH, builders_graph, write_tokenizer

from vidrisk.calibration.files import load_graph, save_graph
from vidrisk.export.text.fused import select_logits
from vidrisk.export.text.gate_options import TextGateOptions
from vidrisk.export.text.references import GraphReference
from vidrisk.export.text.samples import GateSample, ReportForm
from vidrisk.export.text.visual_tokens import visual_tokens
from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import Stage
from vidrisk.runtimes.text.turns import Exchange, Photo, parts_from_exchanges
from vidrisk.runtimes.text.vocabulary import Vocabulary

LEVELS, PARTS = ("low", "mid", "high"), ("wall", "roof", "")
SCHEMA = {
    "type": "object",
    "properties": {
        "level": {"enum": list(LEVELS)},
        "part": {"enum": list(PARTS)},
        "advice": {"type": "string", "maxLength": 8},
    },
    "required": ["level", "part", "advice"],
    "additionalProperties": False,
}
FORM = ReportForm(SCHEMA, "level")
PIECES = ChatPieces(
    begin="S:", begin_bare="U:", to_question=";U:", photo_open="<", photo_close=">", to_answer=";A:", to_next="<end>"
)
PLACEHOLDER = 257
SIDE, TOKENS = 4, 3
STAGE = Stage(
    name="vision",
    per="frame",
    inputs=(TensorSpec("frames", "uint8", ("batch", SIDE, SIDE, 3)),),
    outputs=(TensorSpec("visual", "float32", ("batch", TOKENS, WIDTH)),),
)
MEAN = 0.5


@dataclass(frozen=True)
class World:
    """Files of one model, and the samples that judge it."""

    folder: Path
    graph: Path
    photos: list[list[np.ndarray]]
    samples: list[GateSample]
    options: TextGateOptions

    @property
    def embeddings(self) -> Path:
        return self.options.embeddings

    def reference(self) -> GraphReference:
        return GraphReference(self.graph, self.embeddings, tokens=200)

    def file(self, name: str) -> Path:
        return self.folder / name


def make_world(folder: Path, samples: int = 24, **options: Any) -> World:
    graph, embeddings = folder / "text.fp32.onnx", folder / "embeddings.npy"
    save_graph(select_logits(builders_graph(), CONFIG), graph)
    np.save(embeddings, np.random.default_rng(1).normal(0, 1, (VOCABULARY, WIDTH)).astype(np.float32))
    vocabulary = Vocabulary(write_tokenizer(folder / "tokenizer.json"), [END])
    rng = np.random.default_rng(2)
    photos = [list(rng.integers(0, 256, (1 + number % 2, SIDE, SIDE, 3), np.uint8)) for number in range(samples)]
    visual = visual_tokens(STAGE, write_vision(folder / "vision.torch.onnx"), photos)
    made = [_sample(vocabulary, number, tokens) for number, tokens in enumerate(visual)]
    settings = {"answer_tokens": 60, "sequences": 4, "threads": 1, **options}
    return World(folder, graph, photos, made, TextGateOptions(vocabulary, embeddings, FORM, **settings))


def _sample(vocabulary: Vocabulary, number: int, visual: Any) -> GateSample:
    truth = {"level": LEVELS[number % 3], "part": PARTS[number % 2], "advice": "fix it"}
    said = parts_from_exchanges(vocabulary, PIECES, END, "rate", [Exchange(f"no {number}?", len(visual))])
    answer = np.append(vocabulary.encode(json.dumps(truth, separators=(",", ":"))), np.int64(END))
    parts = tuple(visual[part.number] if isinstance(part, Photo) else part for part in said.parts)
    sample = GateSample(f"photo {number}.jpg", parts, answer, truth)
    rendered = np.concatenate(
        [part if part.ndim == 1 else np.full(len(part), PLACEHOLDER, np.int64) for part in sample.parts]
    )
    return replace(sample, rendered=rendered, placeholder=PLACEHOLDER)


def write_vision(path: Path, mean: float = MEAN, noise: float = 0.0) -> Path:
    """Write a vision stage: normalised pixels times a matrix, optionally with noise that simulates rounding."""
    rng = np.random.default_rng(3)
    matrix = rng.normal(0, 0.3, (SIDE * SIDE * 3, TOKENS * WIDTH))
    matrix += noise * np.random.default_rng(4).normal(size=matrix.shape) * matrix.std()
    weights = {
        "matrix": matrix.astype(np.float32),
        "scale": np.array(255, np.float32),
        "mean": np.array(mean, np.float32),
        "flat": np.array([-1, SIDE * SIDE * 3], np.int64),
        "shape": np.array([-1, TOKENS, WIDTH], np.int64),
    }
    nodes = [
        helper.make_node(kind, inputs, [output], name=output, **extra)
        for kind, inputs, output, extra in (
            ("Cast", ["frames"], "floats", {"to": TensorProto.FLOAT}),
            ("Div", ["floats", "scale"], "unit", {}),
            ("Sub", ["unit", "mean"], "centred", {}),
            ("Reshape", ["centred", "flat"], "rows", {}),
            ("MatMul", ["rows", "matrix"], "products", {}),
            ("Reshape", ["products", "shape"], "visual", {}),
        )
    ]
    graph = helper.make_graph(
        nodes,
        "vision",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("visual", TensorProto.FLOAT, ["batch", TOKENS, WIDTH])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def changed_graph(source: Path, to: Path, pattern: str, change: Any) -> Path:
    """Write a graph in which the weights with matching names are changed."""
    model = load_graph(source)
    found = [tensor for tensor in model.graph.initializer if re.fullmatch(pattern, tensor.name)]
    assert found
    for tensor in found:
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    save_graph(model, to)
    return to


def along_the_wrong_axis(scales: np.ndarray) -> np.ndarray:
    """Return the scales of groups as they would be if inputs and outputs were mixed up."""
    return np.ascontiguousarray(scales.T.reshape(scales.shape))
