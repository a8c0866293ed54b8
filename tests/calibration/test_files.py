"""Tests of graph files: graphs of any size can be written and read.

The size limit of one file is lowered here, because a test with two gigabytes would be slow.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, shape_inference

from vidrisk.calibration import files
from vidrisk.calibration.files import (
    check_graph,
    copy_graph,
    data_path,
    fingerprint,
    graph_files,
    graph_source,
    load_graph,
    save_graph,
    save_trial,
    without_weights,
)
from vidrisk.calibration.graph import Net
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES

Make = Callable[..., onnx.ModelProto]


@pytest.fixture(params=["one file", "weights beside"])
def beside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "weights beside":
        monkeypatch.setattr(files, "MAX_INLINE_BYTES", 100)
        monkeypatch.setattr(files, "SMALL_BYTES", 100)
    return bool(request.param == "weights beside")


def weights_of(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_a_graph_is_written_and_stays_in_memory(make_transformer: Make, tmp_path: Path, beside: bool) -> None:
    model, path = make_transformer(), tmp_path / "a.onnx"
    before = weights_of(model)
    for _ in range(2):  # a second time over the first
        save_graph(model, path)
        assert graph_files(path) == ([path, data_path(path)] if beside else [path])
        assert sorted(tmp_path.iterdir()) == graph_files(path)
        for found in (weights_of(model), weights_of(onnx.load(str(path)))):
            assert found.keys() == before.keys()
            assert all((found[name] == before[name]).all() for name in before)
    if beside:
        large = sum(w.nbytes for w in before.values() if w.nbytes > files.SMALL_BYTES)
        assert large <= data_path(path).stat().st_size < large + 64 * len(before)
        assert path.stat().st_size < sum(w.nbytes for w in before.values())


def test_weights_of_an_earlier_graph_do_not_stay(
    make_transformer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    with monkeypatch.context() as patch:
        patch.setattr(files, "MAX_INLINE_BYTES", 100)
        save_graph(make_transformer(), path)
    save_graph(make_transformer(), path)
    assert graph_files(path) == [path] == list(tmp_path.iterdir())


def test_a_copy_is_equal_and_its_own(exported_vit: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported_vit)
    model.doc_string = model.graph.doc_string = "read me"
    copy = copy_graph(model)
    assert copy == model
    copy.graph.node[0].name = "other"
    copy.graph.initializer[0].name = "another"
    assert model.graph.node[0].name != "other" and model.graph.initializer[0].name != "another"


def test_engines_and_checkers_take_it(make_transformer: Make, beside: bool) -> None:
    model = make_transformer()
    check_graph(model)
    x = np.random.default_rng(0).normal(size=(2, 6, 16)).astype(np.float32)
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )
    with graph_source(model) as source:
        assert isinstance(source, str if beside else bytes)
        found = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_array_equal(found[0], expected[0])
    assert not (isinstance(source, str) and Path(source).exists())
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(onnx.checker.ValidationError, match="NoSuchOperator"):
        check_graph(model)


def test_fingerprints_tell_weights_apart(make_transformer: Make, beside: bool) -> None:
    model, same, other = make_transformer(), make_transformer(), make_transformer(seed=1)
    assert fingerprint(model) == fingerprint(same) != fingerprint(other)


def test_types_and_shapes_are_inferred_without_the_weights(
    make_transformer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SMALL_BYTES", 64)  # more than those that shapes are made of
    model = make_transformer()
    del model.graph.value_info[:]
    whole = {value.name: value.type for value in shape_inference.infer_shapes(model).graph.value_info}
    light = without_weights(model)
    assert len(light.SerializeToString()) < len(model.SerializeToString()) / 2
    assert {value.name: value.type for value in shape_inference.infer_shapes(light).graph.value_info} == whole


@pytest.fixture
def shared_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower ``SHARED_BYTES``, so that every weight of more than 100 bytes counts as large."""
    monkeypatch.setattr(files, "SHARED_BYTES", 100)


def test_a_graph_refers_to_its_weights_and_computes_the_same(
    make_transformer: Make, tmp_path: Path, beside: bool, shared_small: None
) -> None:
    model, path = make_transformer(), tmp_path / "a.onnx"
    save_graph(model, path)
    light = load_graph(path, tmp_path / "weights")
    assert len(light.SerializeToString()) < len(model.SerializeToString()) / 2
    assert fingerprint(light) == fingerprint(model)
    net, whole = Net(light), Net(model)
    for name in whole.weights:
        np.testing.assert_array_equal(net.array(name), whole.array(name))
    check_graph(light)
    x = np.random.default_rng(0).normal(size=(2, 6, 16)).astype(np.float32)
    found = []
    for each in (model, light):
        with graph_source(each) as source:
            found.append(
                onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
            )
    np.testing.assert_array_equal(found[0], found[1])
    save_graph(light, path)  # over the file that it refers to
    assert weights_of(onnx.load(str(path))).keys() == weights_of(model).keys()
    assert all((value == weights_of(model)[name]).all() for name, value in weights_of(onnx.load(str(path))).items())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_trials_write_what_they_change(
    make_transformer: Make, tmp_path: Path, shared_small: None, runtime: str
) -> None:
    """A changed weight is written once for all trials; all other weights are files of the source graph."""
    save_graph(make_transformer(), tmp_path / "a.onnx")
    source = load_graph(tmp_path / "a.onnx", tmp_path / "weights")
    changed = Net(source)
    changed.set_array("q.w", changed.array("q.w") * 2)
    trials = tmp_path / "trials"
    trials.mkdir()
    save_trial(source, trials / "0.onnx")
    before = set(trials.glob("*.bin"))
    for number in (1, 2):
        save_trial(changed.model, trials / f"{number}.onnx")
    (written,) = set(trials.glob("*.bin")) - before
    assert written.stat().st_size == changed.array("q.w").nbytes
    inodes = {file.stat().st_ino for file in (tmp_path / "weights").iterdir()}
    assert {file.stat().st_ino for file in before} == inodes
    specs = (TensorSpec("x", "float32", ("batch", 6, 16)),), (TensorSpec("y", "float32", ("batch", 6, 16)),)
    x = np.random.default_rng(0).normal(size=(2, 6, 16)).astype(np.float32)
    for model, path in ((source, trials / "0.onnx"), (changed.model, trials / "1.onnx")):
        save_graph(model, tmp_path / "whole.onnx")
        answers = [
            BUNDLE_RUNTIMES[runtime](each, *specs).infer({"x": x})["y"] for each in (tmp_path / "whole.onnx", path)
        ]
        np.testing.assert_array_equal(answers[0], answers[1])


def test_weights_on_another_disk_are_copied(
    make_transformer: Make, tmp_path: Path, shared_small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_graph(make_transformer(), tmp_path / "a.onnx")
    source = load_graph(tmp_path / "a.onnx", tmp_path / "weights")

    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (tmp_path / "trials").mkdir()
    save_trial(source, tmp_path / "trials/0.onnx")
    assert fingerprint(onnx.load(str(tmp_path / "trials/0.onnx"))) == fingerprint(source)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("../secret", "refers to weights in '../secret'; allowed: files beside it"),
        ("/etc/passwd", "refers to weights in '/etc/passwd'"),
        ("link", "refers to weights in 'link'"),
        ("none", "refers to weights in 'none'"),
        ("short", "short is too short for its graph"),
    ],
)
def test_weights_from_elsewhere_are_not_read(
    make_transformer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, said: str
) -> None:
    """Weight files outside a graph's folder are refused, since the graph may come from an untrusted source."""
    monkeypatch.setattr(files, "MAX_INLINE_BYTES", 100)
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "short").write_bytes(b"1")
    (folder / "link").symlink_to(tmp_path / "secret")
    save_graph(make_transformer(), folder / "a.onnx")
    model = onnx.load(str(folder / "a.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save_model(model, str(folder / "a.onnx"))
    with pytest.raises(DataError, match=re.escape(said)):
        load_graph(folder / "a.onnx")


def test_weights_inside_of_nodes_are_read(make_transformer: Make, tmp_path: Path) -> None:
    """Weights inside nodes are read from external files.

    Saving a graph with all constants as external data also moves the constants of nodes.
    """
    model = make_transformer()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "q.w")
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["q.w"], value=weight))
    onnx.save_model(
        model,
        str(tmp_path / "a.onnx"),
        save_as_external_data=True,
        location="a.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    light = load_graph(tmp_path / "a.onnx")
    np.testing.assert_array_equal(
        numpy_helper.to_array(light.graph.node[0].attribute[0].t), numpy_helper.to_array(weight)
    )
    assert set(weights_of(make_transformer())) - {"q.w"} == set(Net(light).weights)
