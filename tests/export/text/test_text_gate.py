"""Tests of the gate of a language model.

Correct variants pass with their figures, and every injected fault is caught by the intended hop.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from gate_cases import (
    END,
    FORM,
    PIECES,
    STAGE,
    VOCABULARY,
    World,
    along_the_wrong_axis,
    changed_graph,
    make_world,
    write_vision,
)
from tokenizers import Tokenizer

from vidrisk.export.gate.text_page import text_gate_page
from vidrisk.export.text.gate_options import GraphVariant
from vidrisk.export.text.limits import FieldLimits, TokenLimits
from vidrisk.export.text.packed_weights import compare_weights
from vidrisk.export.text.packing import INT4, INT8, pack_text
from vidrisk.export.text.references import TorchReference
from vidrisk.export.text.samples import GateSample, ReportForm
from vidrisk.export.text.text_gate import TextGate, gate_reports
from vidrisk.export.text.visual_tokens import visual_tokens
from vidrisk.runtimes.contract.errors import DataError, GateRefused, SettingsError
from vidrisk.runtimes.text.turns import Exchange, parts_from_exchanges
from vidrisk.runtimes.text.vocabulary import Vocabulary

LAX = TokenLimits(kl=0.3, top1=0.5)  # random weights have no reason to be near after rounding
NO_FIELDS = FieldLimits(agreement=0.0, length_drift=10)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, rounded=LAX, fields=NO_FIELDS, max_drop=100)


def refused(world: World, *variants: GraphVariant, **how: Any) -> GateRefused:
    """Return the gate's refusal of variants, or of floating point if there are none."""
    given = {"reference": world.reference(), "options": world.options, "samples": world.samples, **how}
    with pytest.raises(GateRefused) as caught:
        gate_reports(
            given.pop("reference"),
            variants or [GraphVariant("fp32", world.graph)],
            given.pop("samples"),
            given.pop("options"),
            **given,
        )
    assert caught.value.report.text_hops[-1].passed is False and not caught.value.report.shipped
    return caught.value


def test_halves_that_variants_share_are_judged_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pack_text(world.graph, world.file("int8.onnx"), INT8)
    pack_text(world.graph, world.file("int4.onnx"), INT4)
    seen, rounded = (
        visual_tokens(STAGE, write_vision(world.file(f"vision-{noise}.onnx"), noise=noise), world.photos)
        for noise in (0.0, 0.02)
    )
    judged: list[str] = []
    rounding_hop = TextGate._rounding_hop

    def counted(self: TextGate, name: str, *given: Any, **how: Any) -> Any:
        judged.append(name)
        return rounding_hop(self, name, *given, **how)

    monkeypatch.setattr(TextGate, "_rounding_hop", counted)
    report = gate_reports(
        world.reference(),
        [
            GraphVariant("fp32", world.graph, seen),
            GraphVariant("int8", world.file("int8.onnx"), rounded),
            GraphVariant("mixed", world.file("int4.onnx"), rounded),
        ],
        world.samples,
        world.options,
    )
    assert judged == ["text → int8", "vision → int8", "onnx fp32 → int8", "text → mixed", "onnx fp32 → mixed"]
    of_vision = [hop for hop in report.text_hops if hop.name.startswith("vision → ") and hop.kind == "rounded"]
    assert [(hop.name, hop.variant) for hop in of_vision] == [("vision → int8", "int8"), ("vision → mixed", "mixed")]
    assert of_vision[0].tokens == of_vision[1].tokens


def test_a_sound_export_passes_with_figures_per_hop(world: World) -> None:
    pack_text(world.graph, world.file("int8.onnx"), INT8)
    pack_text(world.graph, world.file("int4.onnx"), INT4)
    seen = visual_tokens(STAGE, write_vision(world.file("vision.onnx")), world.photos)
    rounded = visual_tokens(STAGE, write_vision(world.file("vision.int8.onnx"), noise=0.02), world.photos)
    told: list[str] = []
    report = gate_reports(
        world.reference(),
        [
            GraphVariant("fp32", world.graph, seen),
            GraphVariant("int8", world.file("int8.onnx"), rounded),
            GraphVariant("mixed", world.file("int4.onnx")),
        ],
        world.samples,
        world.options,
        lambda what, done, total: told.append(what),
        adapter=world.reference(),
    )
    assert [hop.name for hop in report.text_hops] == [
        "template → prompts",
        "adapter → merged",
        "merged → onnx fp32",
        "vision → onnx fp32",
        "text → int8",
        "vision → int8",
        "onnx fp32 → int8",
        "onnx fp32 → mixed",
    ]
    assert report.shipped == ("fp32", "int8", "mixed") and not any(hop.reason or hop.waived for hop in report.text_hops)
    by_name = {hop.name: hop for hop in report.text_hops}
    exact, int8, int4 = (by_name[name].tokens for name in ("merged → onnx fp32", "text → int8", "onnx fp32 → mixed"))
    assert exact and int8 and int4
    assert exact.apart == 0 and exact.top1 == 1 and exact.tokens == sum(len(sample.answer) for sample in world.samples)
    assert 0 < int8.kl < int4.kl and int8.top1 > int4.top1 and int8.first_mean < int8.first_apart < int8.apart
    visual = by_name["vision → int8"].visual
    assert visual and 0.99 < visual.cosine < 1 and visual.tokens == 3 * sum(map(len, world.photos))
    fields = by_name["onnx fp32 → mixed"].fields
    assert fields and fields.complete_after == 1 and set(fields.agreement) == {"level", "part"}
    assert fields.changed == len(fields.examples) > 0 and 0 < fields.level_agreement < 1
    assert set(report.temperature) == set(report.coverage) == {"fp32", "int8", "mixed"}
    assert report.coverage["int8"]["level"].samples == len(world.samples) and "judging merged" in told
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert stored["version"] == "1.5" and stored["text_hops"][-1]["fields"]["examples"][0]["sample"].startswith("photo")
    page = text_gate_page(report, "reports.bundle")
    assert (
        "Shipped:" in page and page.count('class="badge good"') == 8 and f"{fields.examples[0].sample}, mixed" in page
    )


def test_a_swapped_tokenizer_is_caught_by_the_prompts(world: World) -> None:
    """The swapped tokenizer numbers its tokens in the reverse order."""
    told = json.loads(world.file("tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = told["model"]["vocab"]
    told["model"]["vocab"] = dict(zip(vocabulary, reversed(list(vocabulary.values())), strict=True))
    world.file("swapped.json").write_text(json.dumps(told), encoding="utf-8")
    swapped = Vocabulary(world.file("swapped.json"), [END])
    prompts = [replace(sample, parts=(swapped.encode("S:rate"), *sample.parts[1:])) for sample in world.samples]
    said = str(refused(world, samples=prompts))
    assert "refused template → prompts" in said
    assert f"24 of 24 prompts have other tokens than the reference's: in {prompts[0].name}" in said
    said = str(refused(world, options=replace(world.options, vocabulary=swapped)))
    assert (
        "24 of 24 reference answers are invalid with the tokenizer that ships" in said
        and "tokenizer and chat template" in said
    )


def test_prompts_are_equal_to_the_template_of_the_checkpoint(world: World) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(world.file("tokenizer.json")))
    )
    template = "S:{{ messages[0].content }};U:{{ messages[1].content }};A:"
    messages = [{"role": "system", "content": "rate"}, {"role": "user", "content": "no 3?"}]
    theirs = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=False)
    said = parts_from_exchanges(world.options.vocabulary, PIECES, END, "rate", [Exchange("no 3?")])
    sample = GateSample(
        "words", tuple(np.asarray(part) for part in said.parts), world.samples[0].answer, rendered=np.array(theirs)
    )
    assert gate_reports(world.reference(), [GraphVariant("fp32", world.graph)], [sample], world.options).shipped == (
        "fp32",
    )
    longer = replace(sample, rendered=np.append(sample.rendered, 7))
    assert "at position 17, the end and not token 7" in str(refused(world, samples=[longer]))


def test_a_wrong_image_mean_is_caught_by_the_vision_stage(world: World) -> None:
    wrong = visual_tokens(STAGE, write_vision(world.file("wrong.onnx"), mean=0.45), world.photos)
    error = refused(world, GraphVariant("fp32", world.graph, wrong))
    assert error.report.text_hops[-1].name == "vision → onnx fp32" and "mean, standard deviation" in str(error)
    right = visual_tokens(STAGE, world.file("vision.torch.onnx"), world.photos)
    strict = replace(world.options, rounded=TokenLimits(kl=1e-3))
    error = refused(
        world, GraphVariant("fp32", world.graph, right), GraphVariant("int8", world.graph, wrong), options=strict
    )
    assert error.report.text_hops[-1].name == "onnx fp32 → int8" and "KL divergence" in str(error)


def test_an_untied_head_and_embeddings_of_another_model_are_caught_by_the_graph(world: World) -> None:
    rng = np.random.default_rng(5)
    untied = changed_graph(
        world.graph,
        world.file("untied.onnx"),
        "lm_head.weight",
        lambda head: (head + 0.01 * rng.normal(size=head.shape)).astype(np.float32),
    )
    assert "refused merged → onnx fp32" in str(refused(world, GraphVariant("fp32", untied)))
    foreign = world.file("foreign.npy")
    np.save(foreign, rng.normal(size=(VOCABULARY, 64)).astype(np.float32))
    error = refused(world, options=replace(world.options, embeddings=foreign))
    assert "refused merged → onnx fp32" in str(error) and "graph and embeddings of one export" in str(error)


def test_an_adapter_that_is_merged_twice_is_caught_by_the_merge(world: World) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)
    twice = copy.deepcopy(adapted)
    for module in twice.modules():
        if hasattr(module, "lora_A"):
            module.base_layer.weight.data += module.get_delta_weight("default").detach()
    adapter = TorchReference(adapted)
    error = refused(world, reference=TorchReference(twice.merge_and_unload()), adapter=adapter)
    assert error.report.text_hops[-1].name == "adapter → merged" and "merge the adapter once" in str(error)
    once = TorchReference(copy.deepcopy(adapted).merge_and_unload())
    error = refused(world, reference=once, adapter=adapter)  # by the next hop: the graph is another model's
    merge, graph = error.report.text_hops[-2:]
    assert (
        merge.name == "adapter → merged"
        and merge.passed
        and merge.tokens.apart < 1e-5
        and graph.name == "merged → onnx fp32"
    )


def test_scales_of_groups_along_the_wrong_axis_are_caught_by_the_packed_graph(world: World) -> None:
    pack_text(world.graph, world.file("int4.onnx"), INT4)
    wrong = changed_graph(world.file("int4.onnx"), world.file("wrong.onnx"), ".*o_proj.*_scales", along_the_wrong_axis)
    report = gate_reports(
        world.reference(),
        [GraphVariant("fp32", world.graph), GraphVariant("mixed", world.file("int4.onnx"))],
        world.samples,
        world.options,
    )
    sound = report.text_hops[-1].tokens
    error = refused(
        world,
        GraphVariant("fp32", world.graph),
        GraphVariant("mixed", wrong),
        options=replace(world.options, rounded=TokenLimits(kl=1.1 * sound.kl)),
    )
    hop = error.report.text_hops[-1]
    assert (
        hop.name == "onnx fp32 → mixed"
        and "pack fewer kinds of layers" in str(error)
        and hop.tokens.kl > 1.1 * sound.kl
    )


def test_one_matrix_that_is_packed_wrongly_is_caught_by_its_weights(world: World) -> None:
    """The answers hide wrong packing in one of many layers; the comparison of weights finds it."""
    pack_text(world.graph, world.file("int4.onnx"), INT4)
    right = compare_weights(world.graph, world.file("int4.onnx"))
    assert right is not None and right.matrices == 5 and 0.05 < right.error < 0.1 and right.limit == 0.2
    wrong = changed_graph(
        world.file("int4.onnx"), world.file("wrong.onnx"), ".*layers.1.*qkv_proj.*_scales", along_the_wrong_axis
    )
    error = refused(
        world,
        GraphVariant("fp32", world.graph),
        GraphVariant("mixed", wrong),
        options=replace(world.options, allow_drop=True),
    )
    assert "packed weights of model.layers.1.attn.qkv_proj are off by 0.25 of their size" in str(error)
    other = changed_graph(world.graph, world.file("other.onnx"), "lm_head.weight", lambda head: head[:, ::-1].copy())
    found = compare_weights(other, world.file("int4.onnx"))
    assert found is not None and found.where == "lm_head" and found.error > 1 and compare_weights(other, other) is None


def test_a_loss_that_is_allowed_is_written_down_and_one_that_is_not_finite_never_passes(world: World) -> None:
    pack_text(world.graph, world.file("int4.onnx"), INT4)
    options = replace(world.options, rounded=TokenLimits(kl=1e-6), allow_drop=True)
    report = gate_reports(
        world.reference(),
        [GraphVariant("fp32", world.graph), GraphVariant("mixed", world.file("int4.onnx"))],
        world.samples,
        options,
    )
    assert report.text_hops[-1].waived and report.verdicts[-1].shipped and "KL divergence" in report.verdicts[-1].reason
    assert "overruled on request" in text_gate_page(report, "reports.bundle")
    broken = changed_graph(
        world.graph, world.file("broken.onnx"), "lm_head.weight", lambda head: head * np.float32(math.nan)
    )
    error = refused(world, GraphVariant("fp32", world.graph), GraphVariant("mixed", broken), options=options)
    assert "not finite" in str(error) and "Refused:" in text_gate_page(error.report, "reports.bundle")


def test_a_model_without_a_form_is_judged_by_its_tokens(world: World) -> None:
    pack_text(world.graph, world.file("int8.onnx"), INT8)
    report = gate_reports(
        world.reference(),
        [GraphVariant("fp32", world.graph), GraphVariant("int8", world.file("int8.onnx"))],
        world.samples,
        replace(world.options, form=None, token_samples=5),
    )
    assert report.shipped == ("fp32", "int8") and not report.temperature and not report.coverage
    assert all(hop.fields is None for hop in report.text_hops) and report.text_hops[-1].samples == 5


def test_what_makes_no_sense_is_refused_in_a_line(world: World) -> None:
    float_graph = GraphVariant("fp32", world.graph)
    for graphs, samples in (
        ([], world.samples),
        ([float_graph], []),
        ([GraphVariant("int8", world.graph)], world.samples),
        ([float_graph, float_graph], world.samples),
    ):
        with pytest.raises(SettingsError, match="fp32 and then other variants"):
            gate_reports(world.reference(), graphs, samples, world.options)
    with pytest.raises(DataError, match="visual tokens"):
        gate_reports(world.reference(), [replace(float_graph, visual=[()] * 24)], world.samples, world.options)
    with pytest.raises(SettingsError, match=r"allowed: .* of 2 to 256 tokens"):
        gate_reports(world.reference(), [float_graph], world.samples, replace(world.options, answer_tokens=500))
    with pytest.raises(DataError, match="no 1: an answer float32"):
        GateSample("no 1", (np.arange(3),), np.zeros(2, np.float32))
    with pytest.raises(SettingsError, match="level 'advice'"):
        ReportForm(FORM.schema, "advice")
