"""A real bundle of a few hundred bytes that classifies colours, for tests that need a bundle but no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from colour import ACTION
from onnx import TensorProto, helper, numpy_helper

from vidrisk.inference.model import open_classifier
from vidrisk.runtimes import Bundle, Manifest, Stage, TensorSpec, Variant, write_bundle
from vidrisk.runtimes.contract.bundle import SealedFile, sha256_of
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.contract.stages import frame_encoder_stages
from vidrisk.runtimes.golden import GOLDEN, Description, Expected, webp_from_frame, write_golden

OPSET, IR_VERSION = 20, 10


def write_colour_bundle(root: Path, *, normalises: bool = False) -> Bundle:
    """Write a bundle whose label is the dominant colour of a 32x32 clip or photo.

    The labels agree with ``colour.colour_classifier``.

    Args:
        normalises: divide the features by their sum, as heads of CLIP divide by their norm; for a black picture
            this is 0 / 0.
    """
    encoder, head = frame_encoder_stages(ACTION, 3)
    root.parent.mkdir(parents=True, exist_ok=True)
    files = {
        "encoder.fp32.onnx": _saved(
            root.with_name(f"{root.name}.encoder.onnx"),
            encoder,
            [
                helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMean", ["float", "axes"], ["features"], keepdims=0),
            ],
            {"axes": np.array([1, 2])},
        ),
        "head.fp32.onnx": _saved(
            root.with_name(f"{root.name}.head.onnx"),
            head,
            [
                helper.make_node("ReduceMean", ["features", "axes"], ["mean"], keepdims=0),
                *(
                    [
                        helper.make_node("ReduceSum", ["mean", "axes"], ["sum"], keepdims=1),
                        helper.make_node("Div", ["mean", "sum"], ["action_logits"]),
                    ]
                    if normalises
                    else [helper.make_node("Div", ["mean", "scale"], ["action_logits"])]
                ),
            ],
            {"axes": np.array([1]), **({} if normalises else {"scale": np.array(32, np.float32)})},
        ),
    }
    variant = Variant(
        files={"encoder": "encoder.fp32.onnx", "head": "head.fp32.onnx"},
        precision={"encoder": "fp32", "head": "fp32"},
        passed=True,
        threshold={"action": 0.4},
    )
    manifest = Manifest(
        contract=ACTION, stages=(encoder, head), variants={"fp32": variant}, files={}, made_with={"vidrisk": "0"}
    )
    bundle = write_bundle(root, manifest, files)
    for path in files.values():
        path.unlink()
    return bundle


def seal_golden(bundle: Bundle, *, turned: bool = False) -> Bundle:
    """Write golden samples of three colours into a bundle, with the answers of ONNX Runtime.

    Args:
        turned: exchange the answers for one another, so that no runtime agrees.
    """
    contract = bundle.contract
    frames = np.zeros((3, contract.frames, *contract.pixel.frame_shape), np.uint8)
    for colour in range(3):
        frames[colour, ..., colour] = 200
    with open_classifier(bundle.root, runtime="onnxruntime") as classifier:
        features = classifier.features(frames.reshape(-1, *contract.pixel.frame_shape))
        logits = classifier.logits(features.reshape(3, contract.frames, -1))
        if turned:
            logits = {target: np.roll(scores, 1, axis=0) for target, scores in logits.items()}
    graphs = {name: bundle.manifest.files[name].sha256 for name in bundle.manifest.variants["fp32"].files.values()}
    expected = Expected(
        files=graphs,
        temperature={},
        logits={name: scores.tolist() for name, scores in logits.items()},
        probabilities={name: probabilities_from_logits(scores).tolist() for name, scores in logits.items()},
    )
    told = Description(
        contract=contract.digest, runtime="onnxruntime", engine="", samples=3, variants={"fp32": expected}
    )
    write_golden(bundle.root / GOLDEN, told, [[webp_from_frame(frame) for frame in clip] for clip in frames])
    sealed = SealedFile(sha256=sha256_of(bundle.root / GOLDEN), bytes=(bundle.root / GOLDEN).stat().st_size)
    manifest = bundle.manifest.model_copy(update={"files": {**bundle.manifest.files, GOLDEN: sealed}, "golden": True})
    (bundle.root / "bundle.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return Bundle.open(bundle.root)


def _saved(path: Path, graph: Stage, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    def described(specs: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(s.name, helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype)), s.shape)
            for s in specs
        ]

    made = helper.make_graph(
        nodes,
        "colours",
        described(graph.inputs),
        described(graph.outputs),
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))
    return path
