"""Tests of plain text graphs: they compute what the fused ones do, and both engines give the same answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny_text import CONFIG, END, HEADS, KV_HEADS, VOCABULARY, builders_graph, write_tokenizer

from vidrisk.calibration.files import load_graph, save_graph
from vidrisk.export.text.fused import select_logits
from vidrisk.export.text.packing import INT4, INT8, TextRecipe, pack_text
from vidrisk.export.text.plain_text import export_plain, plain_attention
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.text.graph_engine import GraphEngine
from vidrisk.runtimes.text.requests import Comparison, Prompt, Request
from vidrisk.runtimes.text.session import TextRuntime, TextSession
from vidrisk.runtimes.text.vocabulary import Vocabulary

IDS = np.random.default_rng(3).integers(0, 256, (3, 160))
RUNTIMES: tuple[TextRuntime, ...] = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    save_graph(select_logits(builders_graph(), CONFIG), folder / "text.onnx")
    np.save(folder / "embeddings.npy", np.random.default_rng(1).normal(0, 1, (VOCABULARY, 64)).astype(np.float32))
    write_tokenizer(folder / "tokenizer.json")
    return folder


def opened(folder: Path, runtime: TextRuntime, name: str = "text") -> TextSession:
    graph = folder / (f"{name}.onnx" if runtime == "onnxruntime" else f"{name}.plain.onnx")
    return TextSession(graph, folder / "embeddings.npy", sequences=3, tokens=192, threads=1, runtime=runtime)


@pytest.mark.parametrize("recipe", [None, INT8, INT4])
def test_logits_are_those_of_the_fused_graph(folder: Path, recipe: TextRecipe | None) -> None:
    name = "text" if recipe is None else f"text.{recipe.packing.grid.bits}"
    if recipe is not None:
        pack_text(folder / "text.onnx", folder / f"{name}.onnx", recipe)
    export_plain(folder / f"{name}.onnx", folder / f"{name}.plain.onnx")
    found = []
    for runtime in RUNTIMES:
        session = opened(folder, runtime, name)
        logits = [
            session.extend(0, session.embed(part), rows=len(part)).copy()
            for part in (IDS[0, :70], IDS[0, 70:71], IDS[0, 71:130])
        ]
        session.extend(1, session.embed(IDS[1, :3]))
        session.extend(2, session.embed(IDS[2, :90]))
        logits += [session.step(session.embed(IDS[:, 130 + step])).copy() for step in range(5)]
        found.append(logits)
    for fused, plain in zip(*found, strict=True):
        np.testing.assert_allclose(plain, fused, atol=1e-3)


def test_a_plain_graph_of_float_weights_is_plain_onnx(folder: Path) -> None:
    model = plain_attention(load_graph(folder / "text.onnx"))
    assert [opset.domain for opset in model.opset_import] == [""] and {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input][:3] == ["inputs_embeds", "positions", "attention_bias"]
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read


def test_queries_keys_and_values_may_come_apart(folder: Path, tmp_path: Path) -> None:
    """Queries, keys and values are separate products in models that normalise queries and keys, such as Qwen3."""
    fused = select_logits(builders_graph(), CONFIG)
    nodes = []
    for node in fused.graph.node:
        if node.op_type == "GroupQueryAttention":
            parts = [f"{node.name}/{part}" for part in "qkv"]
            nodes.append(helper.make_node("Split", [node.input[0], "sizes"], parts, name=f"{node.name}/Split", axis=-1))
            node.input[:3] = parts
        nodes.append(node)
    del fused.graph.node[:]
    fused.graph.node.extend(nodes)
    fused.graph.initializer.append(onnx.numpy_helper.from_array(np.array([HEADS, KV_HEADS, KV_HEADS]) * 16, "sizes"))
    save_graph(fused, tmp_path / "text.onnx")
    export_plain(tmp_path / "text.onnx", tmp_path / "text.plain.onnx")
    (tmp_path / "embeddings.npy").symlink_to(folder / "embeddings.npy")
    wanted, found = (opened(of, runtime) for of, runtime in ((folder, RUNTIMES[0]), (tmp_path, RUNTIMES[1])))
    ids = IDS[0, :20]
    np.testing.assert_allclose(
        found.extend(0, found.embed(ids), rows=20), wanted.extend(0, wanted.embed(ids), rows=20), atol=1e-4
    )


def test_answers_are_the_same_on_either_engine(folder: Path) -> None:
    export_plain(folder / "text.onnx", folder / "text.plain.onnx")
    vocabulary = Vocabulary(folder / "tokenizer.json", [END])
    schema = {
        "type": "object",
        "properties": {"level": {"enum": ["low", "high"]}, "advice": {"type": "string", "maxLength": 10}},
        "required": ["level", "advice"],
        "additionalProperties": False,
    }
    visual = np.random.default_rng(0).normal(0, 1, (5, 64)).astype(np.float32)
    judge = vocabulary.encode("You judge. ")
    requests = [
        Request(
            Prompt((judge, visual, vocabulary.encode("crack " * number)), constant=1),
            limit=40,
            schema=schema if number % 2 else None,
            comparison=Comparison('"level":"', ("low", "high")),
        )
        for number in range(1, 8)
    ]
    answers = []
    for runtime in RUNTIMES:
        with GraphEngine(opened(folder, runtime), vocabulary) as engine:
            assert engine.name == runtime
            answers.append(list(engine.answers(requests)))
    assert [each.tokens for each in answers[0]] == [each.tokens for each in answers[1]]
    for one, other in zip(*answers, strict=True):
        assert (one.finish, one.compared and list(one.compared)) == (
            other.finish,
            other.compared and list(other.compared),
        )
        assert one.compared is None or one.compared == pytest.approx(other.compared, abs=1e-3)


def _changed(change: Callable[[onnx.NodeProto], None]) -> onnx.ModelProto:
    model = select_logits(builders_graph(), CONFIG)
    change(next(node for node in model.graph.node if node.op_type == "GroupQueryAttention"))
    return model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda node: node.attribute.append(helper.make_attribute("softcap", 30.0)), "softcap"),
        (lambda node: node.attribute.append(helper.make_attribute("local_window_size", 8)), "local_window_size"),
        (lambda node: node.attribute.append(helper.make_attribute("rotary_interleaved", 1)), "rotary_interleaved"),
        (lambda node: node.input.extend(["positions"]), "other rotary embeddings"),
    ],
)
def test_attention_of_other_kinds_is_refused(change: Callable[[onnx.NodeProto], None], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        plain_attention(_changed(change))


def test_a_graph_without_fused_attention_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="no fused attention"):
        plain_attention(plain_attention(load_graph(folder / "text.onnx")))
