"""Tests of foreign ONNX files: classifiers are read completely, all others are refused in one line.

The line describes the refused file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from strangers import LABELS, SCALES, SIDE, Nhwc, SmallVit, export, pictures, stranger
from torch import nn

from vidrisk.export.foreign.classifier import ForeignClassifier, read_classifier
from vidrisk.export.foreign.pixels import ForeignPixels, pixels_from_settings
from vidrisk.export.foreign.session import Session
from vidrisk.export.foreign.wrap import classifier_stage, wrap_classifier
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import DataError, RuntimeFailure, SettingsError
from vidrisk.runtimes.contract.specs import TimeSpec
from vidrisk.runtimes.contract.stages import check_stages

NAMES = {"defect": LABELS}
FRAMES, TRUTH = pictures(24, seed=9)


def images(batch: int, layout: str = "nchw") -> torch.Tensor:
    return torch.zeros((batch, 3, SIDE, SIDE) if layout == "nchw" else (batch, SIDE, SIDE, 3))


def contract_for(pixels: ForeignPixels, time: TimeSpec | None = None, **labels: tuple[str, ...]) -> Contract:
    targets = tuple(Target(name=name, labels=each) for name, each in (labels or NAMES).items())
    return Contract(task="risk", pixel=pixels.spec, time=time, targets=targets)


def through_contract(
    classifier: ForeignClassifier,
    time: TimeSpec | None = None,
    settings: dict[str, Any] | None = None,
    **labels: tuple[str, ...],
) -> dict[str, Any]:
    """Return the logits of the wrapped graph for ``FRAMES``."""
    pixels = pixels_from_settings(settings or {"scale": "imagenet"}, classifier.image)
    contract = contract_for(pixels, time, **labels)
    check_stages([classifier_stage(contract)], contract)
    model = wrap_classifier(classifier, pixels, contract)
    clips = FRAMES.reshape(-1, contract.frames, *FRAMES.shape[1:])
    return Session(model).run({"frames": clips})


def own_outputs(path: Path, values: torch.Tensor, batch: int = 0) -> list[Any]:
    """Return the outputs of the unchanged file in ONNX Runtime, computed ``batch`` images at a time."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: part.numpy()}) for part in (values.split(batch) if batch else [values])]
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


@pytest.mark.parametrize(
    ("kind", "batch", "dynamo"),
    [
        ("cnn", 0, False),
        ("cnn", 1, False),
        ("cnn", 4, False),
        ("vit", 0, False),
        ("vit", 1, False),
        ("vit", 4, False),
        ("vit", 1, True),
        ("vit", 0, True),
    ],
)
def test_equals_the_file_whatever_its_batch(kind: str, batch: int, dynamo: bool, tmp_path: Path) -> None:
    path = export(stranger(kind), tmp_path / "m.onnx", images(batch or 2), free=not batch, dynamo=dynamo)
    classifier = read_classifier(path, NAMES)
    assert classifier.was_fixed == (batch or None)
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES), batch)
    found = through_contract(classifier)["defect_logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (
        found.argmax(axis=1) == TRUTH
    ).mean() > 0.75  # by chance 1/3; how well training ends differs between machines


def test_a_free_axis_with_a_number_traced_behind_it(tmp_path: Path) -> None:
    """A batch axis that is free by name only is found to be fixed.

    Tracing turns ``len(images)`` into a number, so the file computes batches of two images only.
    """

    class Traced(SmallVit):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.patches(images).flatten(2).transpose(1, 2)
            return self.head(torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1).mean(dim=1))

    torch.manual_seed(0)
    path = export(Traced().eval(), tmp_path / "m.onnx", images(2))
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES), 2)
    classifier = read_classifier(path, NAMES)
    assert classifier.was_fixed == 2
    np.testing.assert_allclose(through_contract(classifier)["defect_logits"], expected, atol=1e-5)


def test_nodes_and_weights_keep_their_names(tmp_path: Path) -> None:
    path = export(stranger("cnn"), tmp_path / "m.onnx", images(2), dynamo=False)
    classifier = read_classifier(path, NAMES)
    pixels = pixels_from_settings({"scale": "imagenet"}, classifier.image)
    wrapped = wrap_classifier(classifier, pixels, contract_for(pixels))
    own = onnx.load(path)
    assert {node.name for node in own.graph.node} <= {node.name for node in wrapped.graph.node}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in wrapped.graph.initializer}
    assert all((weights[tensor.name] == numpy_helper.to_array(tensor)).all() for tensor in own.graph.initializer)


def test_takes_channels_last(tmp_path: Path) -> None:
    path = export(Nhwc(stranger("cnn")), tmp_path / "m.onnx", images(2, "nhwc"))
    classifier = read_classifier(path, NAMES)
    assert classifier.image.layout == "nhwc"
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES).permute(0, 2, 3, 1).contiguous())
    np.testing.assert_allclose(through_contract(classifier)["defect_logits"], expected, atol=1e-5)


class Bytes(nn.Module):
    """A model that takes bytes with channels last and normalises them itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (SCALES["imagenet"].mean, SCALES["imagenet"].std))
        return self.model((frames.permute(0, 3, 1, 2).float() / 255 - mean) / std)


def test_takes_bytes_that_are_normalised_inside(tmp_path: Path) -> None:
    path = export(Bytes(stranger("cnn")), tmp_path / "m.onnx", torch.zeros((2, SIDE, SIDE, 3), dtype=torch.uint8))
    classifier = read_classifier(path, NAMES)
    assert (classifier.image.dtype, classifier.image.layout) == ("uint8", "nhwc")
    (expected,) = own_outputs(path, torch.from_numpy(FRAMES))
    np.testing.assert_allclose(
        through_contract(classifier, settings={"scale": "0..255"})["defect_logits"], expected, atol=1e-5
    )


def test_takes_bgr(tmp_path: Path) -> None:
    path = export(stranger("cnn", "imagenet bgr"), tmp_path / "m.onnx", images(2))
    (expected,) = own_outputs(path, SCALES["imagenet bgr"](FRAMES))
    found = through_contract(read_classifier(path, NAMES), settings={"scale": "imagenet", "channels": "bgr"})
    np.testing.assert_allclose(found["defect_logits"], expected, atol=1e-5)


def test_takes_grey_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)).eval()
    path = export(model, tmp_path / "m.onnx", torch.zeros(2, 1, SIDE, SIDE))
    classifier = read_classifier(path, NAMES)
    grey = (FRAMES.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255)[:, None]
    (expected,) = own_outputs(path, torch.from_numpy(grey.astype(np.float32)))
    np.testing.assert_allclose(
        through_contract(classifier, settings={"scale": "0..1"})["defect_logits"], expected, atol=1e-5
    )


def test_half_precision_is_widened(tmp_path: Path) -> None:
    path = export(copy.deepcopy(stranger("cnn")).half(), tmp_path / "m.onnx", images(2).half())
    classifier = read_classifier(path, NAMES)
    assert classifier.image.dtype == "float32"
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES).half())
    np.testing.assert_allclose(through_contract(classifier)["defect_logits"], expected, atol=0.1, rtol=0.02)


def test_half_precision_is_widened_within_branches(tmp_path: Path) -> None:
    half, bit = TensorProto.FLOAT16, helper.make_tensor("bit", TensorProto.BOOL, [], [True])

    def branch(name: str, factor: float) -> onnx.GraphProto:
        factors, one = (helper.make_tensor(f"{name}.{each}", half, [1], [each]) for each in (factor, 1.0))
        nodes = [
            helper.make_node("Constant", [], [f"{name}.one"], value=one),
            helper.make_node("Mul", ["flat", factors.name], [f"{name}.times"]),
            helper.make_node("Cast", [f"{name}.times"], [f"{name}.cast"], to=half),
            helper.make_node("Mul", [f"{name}.cast", f"{name}.one"], [name]),
        ]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, half, None)], [factors])

    choice = helper.make_node("If", ["bit"], ["scores"], then_branch=branch("yes", 2), else_branch=branch("no", 3))
    values = [
        helper.make_tensor_value_info(name, half, shape)
        for name, shape in (("image", ["n", 3, 8, 8]), ("scores", ["n", 3]))
    ]
    path = saved(tmp_path / "m.onnx", [MEAN, FLAT, choice], values[1:], values[:1], weights=[bit])
    classifier = read_classifier(path, NAMES)
    assert classifier.image.dtype == "float32"
    image = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float16)
    (expected,) = own_outputs(path, torch.from_numpy(image))
    (found,) = Session(classifier.model).run({"image": image.astype(np.float32)}).values()
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_the_mean_over_the_frames_of_a_clip(tmp_path: Path) -> None:
    path = export(stranger("vit"), tmp_path / "m.onnx", images(2))
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    found = through_contract(read_classifier(path, NAMES), TimeSpec(4))["defect_logits"]
    np.testing.assert_allclose(found, expected.reshape(6, 4, 3).mean(axis=1), atol=1e-5)


class Ending(nn.Module):
    """A model with a further function after its logits."""

    def __init__(self, model: nn.Module, end: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.model, self.end = model, end

    def forward(self, image: torch.Tensor) -> Any:
        return self.end(self.model(image))


def test_a_softmax_is_cut_off(tmp_path: Path) -> None:
    path = export(Ending(stranger("cnn"), lambda x: x.softmax(dim=1)), tmp_path / "m.onnx", images(2))
    classifier = read_classifier(path, NAMES)
    assert "Softmax" not in {node.op_type for node in classifier.model.graph.node}
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    found = torch.from_numpy(through_contract(classifier)["defect_logits"]).softmax(dim=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_probabilities_become_logits_by_their_logarithm(tmp_path: Path) -> None:
    end = lambda x: x.exp() / x.exp().sum(dim=1, keepdim=True)  # noqa: E731
    path = export(Ending(stranger("cnn"), end), tmp_path / "m.onnx", images(2))
    classifier = read_classifier(path, NAMES)
    assert classifier.answers["defect"].scale == "probabilities"
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    found = torch.from_numpy(through_contract(classifier)["defect_logits"]).softmax(dim=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "end", [torch.sigmoid, lambda x: 0.5 + 0.5 * torch.tanh(x / 2)], ids=["Sigmoid", "by another way"]
)
def test_one_column_is_the_second_of_two_labels(end: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    path = export(Ending(stranger("cnn"), lambda x: end(x[:, :1])), tmp_path / "m.onnx", images(2))
    classifier = read_classifier(path, {"defect": ("other", "crack")})
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    found = through_contract(classifier, defect=("other", "crack"))["defect_logits"]
    np.testing.assert_allclose(torch.from_numpy(found).softmax(dim=1)[:, 1:], expected, atol=1e-5)


def test_one_column_of_raw_logits_is_no_probability_although_it_lies_there(tmp_path: Path) -> None:
    """One column of raw logits is not read as a probability, even where its values lie between 0 and 1.

    The model is read as trained with BCEWithLogitsLoss: a value above 0 means the second label.
    """
    path = export(Ending(stranger("cnn"), lambda x: 0.5 + 0.01 * x[:, :1]), tmp_path / "m.onnx", images(2))
    classifier = read_classifier(path, {"defect": ("other", "crack")})
    assert classifier.answers["defect"].scale == "binary logits"
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    assert expected.min() > 0 and expected.max() < 1
    found = through_contract(classifier, defect=("other", "crack"))["defect_logits"]
    np.testing.assert_allclose(found, np.concatenate([0 * expected, expected], axis=1), atol=1e-5)


def test_untrained_models_of_one_column_give_logits(tmp_path: Path) -> None:
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
        ).eval()
        path = export(model, tmp_path / "m.onnx", images(2))
        assert read_classifier(path, {"defect": ("other", "crack")}).answers["defect"].scale == "binary logits"


def test_the_labels_file_says_what_no_operator_does(tmp_path: Path) -> None:
    end = lambda x: x[:, :1].abs() / (x[:, :1].abs() + 1)  # noqa: E731
    path = export(Ending(stranger("cnn"), end), tmp_path / "m.onnx", images(2))
    two = {"defect": ("other", "crack")}
    assert read_classifier(path, two).answers["defect"].scale == "binary logits"
    classifier = read_classifier(path, two, gives={"defect": "probabilities"})
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    found = through_contract(classifier, **two)["defect_logits"]
    np.testing.assert_allclose(torch.from_numpy(found).softmax(dim=1)[:, 1:], expected, atol=1e-5)
    with pytest.raises(DataError, match=r"'scores' of m\.onnx is declared to give probabilities, but gives -?\d.* to "):
        raw = export(Ending(stranger("cnn"), lambda x: x[:, :1]), tmp_path / "m.onnx", images(2))
        read_classifier(raw, two, gives={"defect": "probabilities"})


def test_several_heads_are_told_apart_by_their_sizes_or_names(tmp_path: Path) -> None:
    model = Ending(stranger("cnn"), lambda x: (x, x[:, :2] * 2, x.flip(1)))
    path = export(model, tmp_path / "m.onnx", images(2), outputs=("what", "how", "again"))
    expected = own_outputs(path, SCALES["imagenet"](FRAMES))
    labels = {"defect": LABELS, "level": ("low", "high")}
    with pytest.raises(DataError, match="several outputs of that size: what, again"):
        read_classifier(path, labels)
    found = through_contract(read_classifier(path, labels, outputs={"defect": "again"}), **labels)
    np.testing.assert_allclose(found["defect_logits"], expected[2], atol=1e-5)
    np.testing.assert_allclose(found["level_logits"], expected[1], atol=1e-5)


def test_columns_follow_the_order_of_the_contract(tmp_path: Path) -> None:
    path = export(stranger("cnn"), tmp_path / "m.onnx", images(2))
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    found = through_contract(read_classifier(path, NAMES), defect=("sound", "crack", "rust"))["defect_logits"]
    np.testing.assert_allclose(found, expected[:, [2, 0, 1]], atol=1e-5)


def test_names_of_ours_may_be_in_use(tmp_path: Path) -> None:
    path = export(stranger("cnn"), tmp_path / "m.onnx", images(2), outputs=("defect_logits",))
    model = onnx.load(path)
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = "frames" if name == "image" else name
    model.graph.input[0].name = "frames"
    onnx.save(model, path)
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    np.testing.assert_allclose(through_contract(read_classifier(path, NAMES))["defect_logits"], expected, atol=1e-5)


def test_a_free_size_must_be_given(tmp_path: Path) -> None:
    path = export(stranger("cnn"), tmp_path / "m.onnx", images(2), axes={2: "h", 3: "w"})
    with pytest.raises(SettingsError, match="images of any size"):
        read_classifier(path, NAMES)
    classifier = read_classifier(path, NAMES, size=(SIDE, SIDE))
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    np.testing.assert_allclose(through_contract(classifier)["defect_logits"], expected, atol=1e-5)
    fixed = export(stranger("cnn"), tmp_path / "fixed.onnx", images(2))
    with pytest.raises(SettingsError, match="a size of 40x32"):
        read_classifier(fixed, NAMES, size=(40, SIDE))


@pytest.mark.parametrize("size", [(-5, -5), (0, 0), (SIDE, 0), (2049, SIDE), (100000, 100000)])
def test_a_size_out_of_range_is_refused_before_anything_is_computed(size: tuple[int, int], tmp_path: Path) -> None:
    path = export(stranger("cnn"), tmp_path / "m.onnx", images(2), axes={2: "h", 3: "w"})
    with pytest.raises(
        SettingsError, match=f"of {size[0]}x{size[1]} pixels; allowed: 1 to 2048 pixels; fix: correct height"
    ):
        read_classifier(path, NAMES, size=size)
    large = saved(tmp_path / "large.onnx", [MEAN, FLAT], [floats("flat", "n", 3)], [floats("image", "n", 3, 8, 100000)])
    with pytest.raises(
        SettingsError, match="of 8x100000 pixels; allowed: 1 to 2048 pixels; fix: export it for smaller images"
    ):
        read_classifier(large, NAMES)


@pytest.mark.parametrize("opset", [11, 21])
def test_converts_old_and_new_opsets(opset: int, tmp_path: Path) -> None:
    path = export(stranger("cnn"), tmp_path / "m.onnx", images(2), opset=min(opset, 17))
    if opset > 17:
        onnx.save(onnx.version_converter.convert_version(onnx.load(path), opset), path)
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    np.testing.assert_allclose(through_contract(read_classifier(path, NAMES))["defect_logits"], expected, atol=1e-5)


def test_reads_weights_beside_the_file(tmp_path: Path) -> None:
    path = export(stranger("cnn"), tmp_path / "plain.onnx", images(2))
    (expected,) = own_outputs(path, SCALES["imagenet"](FRAMES))
    onnx.save_model(
        onnx.load(path), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0
    )
    found = through_contract(read_classifier(tmp_path / "m.onnx", NAMES))["defect_logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(DataError, match=r"refers to weights in m\.bin, which is not beside it"):
        read_classifier(tmp_path / "m.onnx", NAMES)


def saved(
    path: Path,
    nodes: list[Any],
    outputs: list[Any],
    inputs: list[Any] | None = None,
    opset: int = 17,
    weights: list[Any] | None = None,
) -> Path:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])
    graph = helper.make_graph(nodes, "g", inputs or [image], outputs, weights or [])
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9), path)
    return path


def floats(name: str, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


MEAN = helper.make_node("GlobalAveragePool", ["image"], ["mean"])
FLAT = helper.make_node("Flatten", ["mean"], ["flat"])


def test_says_what_is_no_classifier(tmp_path: Path) -> None:
    mask = saved(
        tmp_path / "mask.onnx", [helper.make_node("Relu", ["image"], ["mask"])], [floats("mask", "n", 3, 8, 8)]
    )
    with pytest.raises(DataError, match=r"looks like a segmenter or a feature extractor: it gives mask \[2, 3, 8, 8\]"):
        read_classifier(mask, NAMES)
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [0, 3, 64])
    boxes = saved(
        tmp_path / "boxes.onnx",
        [helper.make_node("Reshape", ["image", "shape"], ["boxes"])],
        [floats("boxes", "n", 3, 64)],
        weights=[shape],
    )
    with pytest.raises(DataError, match="looks like a detector"):
        read_classifier(boxes, NAMES)
    sigmoid = saved(
        tmp_path / "s.onnx", [MEAN, FLAT, helper.make_node("Sigmoid", ["flat"], ["p"])], [floats("p", "n", 3)]
    )
    with pytest.raises(DataError, match="a probability of its own"):
        read_classifier(sigmoid, NAMES)


def test_says_which_input_is_no_image(tmp_path: Path) -> None:
    two = [floats("image", "n", 3, 8, 8), floats("mask", "n", 3, 8, 8)]
    path = saved(
        tmp_path / "two.onnx", [helper.make_node("Add", ["image", "mask"], ["sum"])], [floats("sum", "n", 3, 8, 8)], two
    )
    with pytest.raises(DataError, match="has 2 inputs: image, mask; allowed: one, an image"):
        read_classifier(path, NAMES)
    for name, shape in (("clip", ("n", 8, 3, 8, 8)), ("text", ("n", 77)), ("spectrum", ("n", 16, 8, 8))):
        path = saved(
            tmp_path / f"{name}.onnx",
            [helper.make_node("Relu", [name], ["out"])],
            [floats("out", *shape)],
            [floats(name, *shape)],
        )
        with pytest.raises(DataError, match=f"input '{name}' of {name}.onnx has"):
            read_classifier(path, NAMES)


@pytest.mark.parametrize("labels", [("crack", "sound"), ("a", "b", "c", "d")])
def test_labels_must_match_the_columns(labels: tuple[str, ...], tmp_path: Path) -> None:
    path = export(stranger("cnn"), tmp_path / "m.onnx", images(2))
    with pytest.raises(
        DataError, match=rf"defect has {len(labels)} labels, and no output of m.onnx has as many columns"
    ):
        read_classifier(path, {"defect": labels})


def test_refuses_what_cannot_be_computed(tmp_path: Path) -> None:
    custom = saved(
        tmp_path / "c.onnx", [helper.make_node("Magic", ["image"], ["x"], domain="acme")], [floats("x", "n", 3)]
    )
    with pytest.raises(DataError, match=r"custom operator acme\.Magic"):
        read_classifier(custom, NAMES)
    unknown = saved(tmp_path / "u.onnx", [helper.make_node("NoSuchOperator", ["image"], ["x"])], [floats("x", "n", 3)])
    with pytest.raises((DataError, RuntimeFailure), match="NoSuchOperator"):
        read_classifier(unknown, NAMES)
    quantised = [
        helper.make_node("DynamicQuantizeLinear", ["image"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
    ]
    with pytest.raises(DataError, match="already quantised"):
        read_classifier(saved(tmp_path / "q.onnx", quantised, [floats("x", "n", 3, 8, 8)]), NAMES)
    (tmp_path / "no.onnx").write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(DataError, match=r"no\.onnx is not an ONNX file"):
        read_classifier(tmp_path / "no.onnx", NAMES)
    with pytest.raises(DataError, match="is not a file"):
        read_classifier(tmp_path / "missing.onnx", NAMES)


def test_refuses_a_batch_that_cannot_be_freed(tmp_path: Path) -> None:
    """A graph that mixes the images of a batch is refused: an image alone gets another answer than in a batch."""
    nodes = [
        MEAN,
        FLAT,
        helper.make_node("ReduceMean", ["flat"], ["all"], axes=[0], keepdims=1),
        helper.make_node("Add", ["flat", "all"], ["scores"]),
    ]
    path = saved(tmp_path / "m.onnx", nodes, [floats("scores", 1, 3)], [floats("image", 1, 3, 8, 8)])
    with pytest.raises(
        DataError, match="computes batches of 1 image only: output scores of two images is not that of each alone"
    ):
        read_classifier(path, NAMES)


class Mixing(nn.Module):
    """A small classifier of scaled pixels, after a function that joins the images or distorts them."""

    def __init__(self, scale: float, bend: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        self.scale, self.bend = scale, bend

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(self.bend(images / self.scale))


JOINS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "less their mean": lambda x: x - x.mean(dim=0, keepdim=True),
    "by the largest": lambda x: x / (x.abs().max() + 1e-3),
    "a trace of the mean": lambda x: x + 0.03 * x.mean(dim=0, keepdim=True),
    "of the first": lambda x: x + 0.1 * x[:1],
    "of the last": lambda x: x + 0.1 * x[-1:],
}


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("scale", [1.0, 255.0])
@pytest.mark.parametrize("join", JOINS)
def test_a_graph_that_joins_the_images_of_a_batch_is_refused(
    join: str, scale: float, free: bool, tmp_path: Path
) -> None:
    example = torch.zeros(2 if free else 1, 3, 8, 8)
    path = export(Mixing(scale, JOINS[join]).eval(), tmp_path / "m.onnx", example, free=free)
    with pytest.raises(
        DataError, match="of two images is not that of each alone.*" + ("eval mode" if free else "free batch axis")
    ):
        read_classifier(path, NAMES)


@pytest.mark.parametrize(
    "bend",
    [torch.sqrt, torch.log, lambda x: 1e-3 / x.round(), lambda x: x.clamp(300, 400)],
    ids=["root", "logarithm", "infinite", "constant"],
)
@pytest.mark.parametrize("free", [True, False])
def test_pixels_that_have_no_answer_prove_nothing(
    bend: Callable[[torch.Tensor], torch.Tensor], free: bool, tmp_path: Path
) -> None:
    example = torch.ones(2 if free else 1, 3, 8, 8)
    path = export(Mixing(1.0, bend).eval(), tmp_path / "m.onnx", example, free=free)
    assert read_classifier(path, NAMES).was_fixed == (None if free else 1)
