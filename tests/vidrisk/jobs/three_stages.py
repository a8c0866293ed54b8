"""A bundle of three stages, written by hand, and its results in plain numpy: frame → group of 2 → window.

    vision/frame     mean colours of the upper and the lower half                            tokens[2, 3]
    pairs/group 2    both frames' tokens times a matrix, plus a prompt (a constant), ReLU    pair[5]
    answer/window    mean pair and mean tokens (bypassing stage pairs) times a matrix        logits[3]

Variant ``fp32`` is float throughout; ``int8`` has the middle stage in INT8 and the last stage in FP16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from vidrisk.runtimes import (
    Bundle,
    Contract,
    Manifest,
    PixelSpec,
    Stage,
    Target,
    TensorSpec,
    TimeSpec,
    Variant,
    write_bundle,
)
from vidrisk.runtimes.contract.bundle import CONSTANTS, sha256_of
from vidrisk.runtimes.contract.constants import write_constants
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.golden import GOLDEN, Description, Expected, webp_from_frame, write_golden

SIDE, T, GROUP, PAIR = 16, 4, 2, 5
CONTRACT = Contract(
    task="action",
    pixel=PixelSpec(SIDE, SIDE),
    time=TimeSpec(T, 1.0, 0.5),
    targets=(Target(name="action", labels=("red", "green", "blue")),),
)
STAGES = (
    Stage(
        name="vision",
        per="frame",
        macs=SIDE * SIDE * 3,
        inputs=(TensorSpec("frames", "uint8", ("batch", SIDE, SIDE, 3)),),
        outputs=(TensorSpec("tokens", "float32", ("batch", 2, 3)),),
    ),
    Stage(
        name="pairs",
        per="group",
        group=GROUP,
        macs=60,
        constants=("prompt",),
        inputs=(TensorSpec("tokens", "float32", ("batch", GROUP, 2, 3)), TensorSpec("prompt", "float32", (PAIR,))),
        outputs=(TensorSpec("pair", "float32", ("batch", PAIR)),),
    ),
    Stage(
        name="answer",
        per="window",
        macs=33,
        inputs=(
            TensorSpec("pair", "float32", ("batch", T // GROUP, PAIR)),
            TensorSpec("tokens", "float32", ("batch", T, 2, 3)),
        ),
        outputs=CONTRACT.answers(),
    ),
)
_rng = np.random.default_rng(5)
PROMPT = _rng.normal(size=PAIR).astype(np.float32)
MIX = _rng.normal(size=(GROUP * 6, PAIR)).astype(np.float32)
LAST = (_rng.normal(size=(PAIR + 6, 3)) * 2).astype(np.float32)
FILES = {"vision": "vision.fp32.onnx", "pairs": "pairs.fp32.onnx", "answer": "answer.fp32.onnx"}
INT8_FILES = {**FILES, "pairs": "pairs.int8.onnx", "answer": "answer.fp16.onnx"}
Floats = npt.NDArray[np.float64]


def logits_of(clip: npt.NDArray[np.uint8]) -> Floats:
    """Return the logits of the float variant for a clip ``uint8 (T, H, W, 3)``."""
    halves = clip.reshape(T, 2, SIDE // 2, SIDE, 3).astype(np.float64)
    tokens = halves.mean(axis=(2, 3)) / 255
    pairs = np.maximum(tokens.reshape(T // GROUP, -1) @ MIX + PROMPT, 0)
    summary = np.concatenate([pairs.mean(axis=0), tokens.mean(axis=0).reshape(-1)])
    logits: Floats = summary @ LAST
    return logits


def write_three_stages(root: Path, *, golden: bool = True, prompt: npt.NDArray[Any] | None = PROMPT) -> Bundle:
    """Write the bundle, optionally with another ``prompt``."""
    work = root.with_name(f"{root.name}.work")
    work.mkdir(parents=True)
    models = {
        "vision.fp32.onnx": _vision(),
        "pairs.fp32.onnx": _pairs(),
        "pairs.int8.onnx": _pairs_int8(),
        "answer.fp32.onnx": _answer(TensorProto.FLOAT),
        "answer.fp16.onnx": _answer(TensorProto.FLOAT16),
    }
    files = {name: _saved(work / name, model) for name, model in models.items()}
    write_constants(work / CONSTANTS, {"prompt": PROMPT if prompt is None else prompt})
    files[CONSTANTS] = work / CONSTANTS
    variants = {
        "fp32": Variant(files=FILES, precision=dict.fromkeys(FILES, "fp32"), passed=True, threshold={"action": 0.2}),
        "int8": Variant(
            files=INT8_FILES,
            precision={"vision": "fp32", "pairs": "int8", "answer": "fp16"},
            passed=True,
            threshold={"action": 0.2},
        ),
    }
    if golden:
        files[GOLDEN] = _golden(work, files)
    manifest = Manifest(
        contract=CONTRACT, stages=STAGES, variants=variants, constants=CONSTANTS, files={}, golden=golden
    )
    return write_bundle(root, manifest, files)


def _golden(work: Path, files: dict[str, Path]) -> Path:
    """Write three samples with the results of numpy for both variants, and return the path."""
    clips = np.random.default_rng(1).integers(0, 256, (3, T, SIDE, SIDE, 3), np.uint8)
    clips[1, ..., 0], clips[2, ..., 2] = 250, 250
    logits = np.stack([logits_of(clip) for clip in clips]).astype(np.float32)
    told = {
        name: Expected(
            files={file: sha256_of(files[file]) for file in of.values()},
            temperature={},
            logits={"action": logits.tolist()},
            probabilities={"action": probabilities_from_logits(logits).tolist()},
        )
        for name, of in (("fp32", FILES), ("int8", INT8_FILES))
    }
    described = Description(contract=CONTRACT.digest, runtime="onnxruntime", engine="", samples=3, variants=told)
    write_golden(work / GOLDEN, described, [[webp_from_frame(frame) for frame in clip] for clip in clips])
    return work / GOLDEN


def _vision() -> onnx.ModelProto:
    return _model(
        STAGES[0],
        [
            helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["float", "halves"], ["split"]),
            helper.make_node("ReduceMean", ["split", "axes"], ["means"], keepdims=0),
            helper.make_node("Div", ["means", "scale"], ["tokens"]),
        ],
        {"halves": np.array([-1, 2, SIDE // 2 * SIDE, 3]), "axes": np.array([2]), "scale": np.array(255, np.float32)},
    )


def _pairs() -> onnx.ModelProto:
    return _model(
        STAGES[1],
        [
            helper.make_node("Reshape", ["tokens", "flat"], ["both"]),
            helper.make_node("MatMul", ["both", "mix"], ["mixed"]),
            helper.make_node("Add", ["mixed", "prompt"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["pair"]),
        ],
        {"flat": np.array([-1, GROUP * 6]), "mix": MIX},
    )


def _pairs_int8() -> onnx.ModelProto:
    scale = np.float32(np.abs(MIX).max() / 127)
    return _model(
        STAGES[1],
        [
            helper.make_node("Reshape", ["tokens", "flat"], ["both"]),
            helper.make_node("QuantizeLinear", ["both", "tokens_scale", "zero"], ["both_int8"]),
            helper.make_node("DequantizeLinear", ["both_int8", "tokens_scale", "zero"], ["both_back"]),
            helper.make_node("DequantizeLinear", ["mix", "mix_scale", "zero"], ["mix_back"]),
            helper.make_node("MatMul", ["both_back", "mix_back"], ["mixed"]),
            helper.make_node("Add", ["mixed", "prompt"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["pair"]),
        ],
        {
            "flat": np.array([-1, GROUP * 6]),
            "mix": np.round(MIX / scale).astype(np.int8),
            "mix_scale": np.array(scale),
            "tokens_scale": np.array(1 / 127, np.float32),
            "zero": np.array(0, np.int8),
        },
    )


def _answer(dtype: int) -> onnx.ModelProto:
    of_numpy = helper.tensor_dtype_to_np_dtype(dtype)
    return _model(
        STAGES[2],
        [
            helper.make_node("Cast", ["pair"], ["pair_typed"], to=dtype),
            helper.make_node("Cast", ["tokens"], ["tokens_typed"], to=dtype),
            helper.make_node("ReduceMean", ["pair_typed", "axes"], ["pair_mean"], keepdims=0),
            helper.make_node("ReduceMean", ["tokens_typed", "axes"], ["token_mean"], keepdims=0),
            helper.make_node("Reshape", ["token_mean", "flat"], ["token_flat"]),
            helper.make_node("Concat", ["pair_mean", "token_flat"], ["summary"], axis=1),
            helper.make_node("MatMul", ["summary", "last"], ["logits"]),
            helper.make_node("Cast", ["logits"], ["action_logits"], to=TensorProto.FLOAT),
        ],
        {"axes": np.array([1]), "flat": np.array([-1, 6]), "last": LAST.astype(of_numpy)},
    )


def _model(stage: Stage, nodes: list[onnx.NodeProto], weights: dict[str, Any]) -> onnx.ModelProto:
    infos = [
        [
            helper.make_tensor_value_info(s.name, helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype)), s.shape)
            for s in specs
        ]
        for specs in (stage.inputs, stage.outputs)
    ]
    graph = helper.make_graph(nodes, stage.name, *infos, [numpy_helper.from_array(w, n) for n, w in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _saved(path: Path, model: onnx.ModelProto) -> Path:
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))
    return path
