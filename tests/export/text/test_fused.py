"""Tests of text graphs of real architectures: equal to torch, refused where they are not, and packed by a recipe."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from tiny_text import CONFIG, VOCABULARY, builders_graph, save_causal

from vidrisk.calibration.files import load_graph, save_graph
from vidrisk.calibration.nbits import WeightGrid
from vidrisk.calibration.weight_only import Packing
from vidrisk.export.text import parity
from vidrisk.export.text.fused import export_text, select_logits
from vidrisk.export.text.packing import INT4, INT8, TextRecipe, pack_text
from vidrisk.export.text.parity import check_parity
from vidrisk.export.text.plain_text import export_plain
from vidrisk.runtimes.contract.errors import GateRefused, RuntimeFailure, SettingsError
from vidrisk.runtimes.text.graph_engine import GraphEngine
from vidrisk.runtimes.text.requests import Comparison, Prompt, Request
from vidrisk.runtimes.text.session import TextSession
from vidrisk.runtimes.text.vocabulary import Vocabulary


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_graph_is_equal_to_torch_and_another_model_is_told_from_it(tmp_path: Path, family: str) -> None:
    model = save_causal(tmp_path, family)
    made = export_text(tmp_path, tmp_path, model)
    assert (made.parity.top1, made.parity.tokens) == (1, 117) and made.parity.apart < 1e-5
    export_plain(made.graph, tmp_path / "plain.onnx")
    assert check_parity(tmp_path / "plain.onnx", made.embeddings, model, runtime="openvino").apart < 1e-5
    assert {path.name for path in tmp_path.iterdir()} >= {"text.fp32.onnx", "embeddings.npy"}
    assert not list(tmp_path.glob("vidrisk-text-*"))
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[3] *= -1
    with pytest.raises(GateRefused, match="nats from torch"):
        check_parity(made.graph, made.embeddings, model)
    (tmp_path / "refused").mkdir()
    if family == "Llama":
        with pytest.raises(GateRefused):
            export_text(tmp_path, tmp_path / "refused", model)
    assert not list((tmp_path / "refused").iterdir())


@pytest.mark.parametrize(
    ("places", "apart", "is_equal"),
    [(0, 0.0, True), (2, 0.005, True), (3, 0.005, False), (1, 0.02, False), (1, float("nan"), False)],
)
def test_few_places_may_be_ill_conditioned(
    monkeypatch: pytest.MonkeyPatch, places: int, apart: float, is_equal: bool
) -> None:
    found, expected = np.full((100, 5), -2.0, np.float32), np.full((100, 5), -2.0, np.float32)
    found[:places, 1] += apart
    monkeypatch.setattr(parity, "_by_graph", lambda *_: [found])
    monkeypatch.setattr(parity, "_by_torch", lambda *_: [expected])
    reference = torch.nn.Module()
    reference.get_input_embeddings = lambda: torch.nn.Embedding(5, 2)  # type: ignore[assignment]
    with (
        nullcontext()
        if is_equal
        else pytest.raises(GateRefused, match=r"nats from torch's, and .* at most of 100 positions")
    ):
        made = check_parity(Path("text.onnx"), Path("embeddings.npy"), reference)
        assert made.apart == 0 and made.most == pytest.approx(apart, rel=1e-3)


def test_names_say_the_kind_of_layer_and_no_logits_are_computed_in_vain() -> None:
    model = select_logits(builders_graph(), CONFIG)
    names = [node.name for node in model.graph.node]
    assert "model.layers.1.attn.qkv_proj/MatMul" in names and len(set(names)) == len(names)
    assert [node.op_type for node in model.graph.node][-2:] == ["GatherND", "MatMul"]
    assert not [node for node in model.graph.node if node.op_type == "SimplifiedLayerNormalization"]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes["logits"] == ["rows", VOCABULARY] and shapes["past_key_values.0.key"][3] == 16


def test_graphs_of_another_form_are_refused() -> None:
    with_positions = builders_graph()
    with_positions.graph.input.append(
        onnx.helper.make_tensor_value_info("position_ids", onnx.TensorProto.INT64, [3, "b", "n"])
    )
    headless = builders_graph()
    headless.graph.node[-1].name = "/other/MatMul"
    for model, said in ((with_positions, "takes position_ids"), (headless, "no output layer")):
        with pytest.raises(RuntimeFailure, match=said):
            select_logits(model, CONFIG)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    save_graph(select_logits(builders_graph(), CONFIG), tmp_path / "text.onnx")
    np.save(tmp_path / "embeddings.npy", np.random.default_rng(1).normal(0, 1, (VOCABULARY, 64)).astype(np.float32))
    return tmp_path / "text.onnx"


def logits_of(graph: Path) -> np.ndarray:
    session = TextSession(graph, graph.with_name("embeddings.npy"), sequences=1, tokens=64)
    return session.extend(0, session.embed(np.arange(40)), rows=40).copy()


@pytest.mark.parametrize(
    ("recipe", "bits", "most"),
    [
        (INT8, {"lm_head": 8, "model.layers.0.attn.qkv_proj": 8}, 0.02),
        (INT4, {"lm_head": 8, "model.layers.0.attn.qkv_proj": 4}, 0.25),
        (
            TextRecipe(Packing(WeightGrid(4, 16)), ("lm_head", "model.layers.*.attn.o_proj")),
            {"model.layers.0.attn.qkv_proj": 4},
            0.25,
        ),
    ],
)
def test_weights_are_packed_as_the_recipe_says(
    graph: Path, recipe: TextRecipe, bits: dict[str, int], most: float
) -> None:
    out = graph.with_name("packed.onnx")
    pack_text(graph, out, recipe)
    found = {
        node.name.partition("/")[0]: next(a.i for a in node.attribute if a.name == "bits")
        for node in load_graph(out).graph.node
        if node.op_type == "MatMulNBits"
    }
    assert found.items() >= bits.items()
    assert not {name for name in found if name.replace("0", "*").replace("1", "*") in recipe.keep_float}
    exact, rounded = logits_of(graph), logits_of(out)
    assert 0 < np.abs(exact - rounded).std() < most * exact.std()


def test_a_recipe_names_layers_that_there_are(graph: Path) -> None:
    with pytest.raises(SettingsError, match=r"'mlp' is not a kind of layer.*allowed: .*lm_head"):
        pack_text(graph, graph.with_name("packed.onnx"), TextRecipe(Packing(WeightGrid(4, 32)), ("mlp",)))
    assert not graph.with_name("packed.onnx").exists()


@pytest.mark.slow(minutes=2)
def test_smollm2_answers_by_schema_in_every_precision(smollm2: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype="float32").eval()
    made = export_text(smollm2, tmp_path, model, embeddings="float16")
    assert made.parity.top1 == 1 and made.parity.apart < 1e-3
    pack_text(made.graph, tmp_path / "text.int4.onnx", INT4)
    assert (tmp_path / "text.int4.onnx").stat().st_size < made.graph.stat().st_size / 5
    vocabulary = Vocabulary(smollm2 / "tokenizer.json", [model.config.eos_token_id])
    system = vocabulary.encode("<|im_start|>system\nYou judge defects.<|im_end|>\n", special=True)
    asked = [
        "The wall has a crack of 3 cm.",
        "One tile is loose.",
        "The roof leaks.",
        "The paint is fading.",
        "墙体有裂缝。",
    ]
    schema = {
        "type": "object",
        "properties": {"level": {"enum": ["low", "high"]}, "advice": {"type": "string", "maxLength": 40}},
        "required": ["level", "advice"],
        "additionalProperties": False,
    }

    def request(text: str) -> Request:
        rest = vocabulary.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", special=True)
        return Request(
            Prompt((system, rest), constant=1),
            limit=48,
            schema=schema,
            comparison=Comparison('"level":"', ("low", "high"), until='","'),
        )

    for graph in (made.graph, tmp_path / "text.int4.onnx"):
        with GraphEngine(TextSession(graph, made.embeddings, sequences=3, tokens=128), vocabulary) as engine:
            together = list(engine.answers(map(request, asked)))
            assert [answer.finish for answer in together] == ["schema"] * len(asked)
            assert [engine.answer(request(text)).tokens for text in asked[:2]] == [
                answer.tokens for answer in together[:2]
            ]
            for answer in together:
                assert answer.compared is not None
                assert 0 < sum(map(math.exp, answer.compared.values())) < 1
                level = json.loads(answer.text)["level"]  # chosen by its first token alone
                assert answer.compared[level] > max(answer.compared.values()) - 2
    ids = np.concatenate([system, vocabulary.encode(asked[0] + asked[4])])
    export_plain(made.graph, tmp_path / "plain.onnx")
    fused = TextSession(made.graph, made.embeddings, sequences=1, tokens=128)
    plain = TextSession(tmp_path / "plain.onnx", made.embeddings, sequences=1, tokens=128, runtime="openvino")
    wanted = fused.extend(0, fused.embed(ids), rows=len(ids))
    np.testing.assert_allclose(plain.extend(0, plain.embed(ids), rows=len(ids)), wanted, atol=1e-3)
