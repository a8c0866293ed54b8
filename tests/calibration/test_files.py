"""Graphs of any size as files. The limit of one file is lowered here: two gigabytes would be a slow test."""

from __future__ import annotations

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
    copied,
    data_path,
    fingerprint,
    graph_files,
    graph_source,
    save_graph,
    without_weights,
)

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


def test_weights_of_an_earlier_graph_do_not_stay(make_transformer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    copy = copied(model)
    assert copy == model
    copy.graph.node[0].name = "other"
    copy.graph.initializer[0].name = "another"
    assert model.graph.node[0].name != "other" and model.graph.initializer[0].name != "another"


def test_engines_and_checkers_take_it(make_transformer: Make, beside: bool) -> None:
    model = make_transformer()
    check_graph(model)
    x = np.random.default_rng(0).normal(size=(2, 6, 16)).astype(np.float32)
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
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
    assert (len(fingerprint(model)) == 64) == beside  # sha256 of two files


def test_types_and_shapes_are_inferred_without_the_weights(make_transformer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SMALL_BYTES", 64)  # more than those that shapes are made of
    model = make_transformer()
    del model.graph.value_info[:]
    whole = {value.name: value.type for value in shape_inference.infer_shapes(model).graph.value_info}
    light = without_weights(model)
    assert len(light.SerializeToString()) < len(model.SerializeToString()) / 2
    assert {value.name: value.type for value in shape_inference.infer_shapes(light).graph.value_info} == whole
