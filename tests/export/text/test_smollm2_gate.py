"""Tests of the gate's limits on real weights: SmolLM2 in 4 bits passes, groups along the wrong axis do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from gate_cases import along_the_wrong_axis, changed_graph

from vidrisk.export.text.fused import export_text
from vidrisk.export.text.gate_options import GraphVariant, TextGateOptions
from vidrisk.export.text.packing import INT4, pack_text
from vidrisk.export.text.references import TorchReference
from vidrisk.export.text.samples import GateSample, ReportForm
from vidrisk.export.text.text_gate import gate_reports
from vidrisk.runtimes.contract.errors import GateRefused
from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.text.turns import Exchange, parts_from_exchanges
from vidrisk.runtimes.text.vocabulary import Vocabulary

END = 2
TURN = "<|im_end|>\n<|im_start|>"
PIECES = ChatPieces(
    begin="<|im_start|>system\n",
    begin_bare="<|im_start|>user\n",
    to_question=f"{TURN}user\n",
    to_answer=f"{TURN}assistant\n",
    to_next=f"{TURN}user\n",
)
SCHEMA = {
    "type": "object",
    "properties": {
        "level": {"enum": ["low", "high"]},
        "part": {"enum": ["wall", "roof"]},
        "advice": {"type": "string", "maxLength": 60},
    },
    "required": ["level", "part", "advice"],
    "additionalProperties": False,
}
KNOWN = (
    ("Paint peels off the wall.", "low", "wall", "look again in a year"),
    ("The roof is about to fall in.", "high", "roof", "close the building at once"),
)
ASKED = (
    ("A hairline in the plaster of the wall.", "low", "wall"),
    ("A beam of the roof is broken.", "high", "roof"),
    ("The wall leans out by 20 cm.", "high", "wall"),
    ("One tile of the roof is loose.", "low", "roof"),
    ("Dust on the wall.", "low", "wall"),
    ("Fire has burnt half of the roof.", "high", "roof"),
)


def answer_of(level: str, part: str, advice: str) -> str:
    return json.dumps({"level": level, "part": part, "advice": advice}, separators=(",", ":"))


@pytest.mark.slow(minutes=3)
def test_real_weights_pass_in_4_bits_and_groups_along_the_wrong_axis_do_not(smollm2: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype="float32").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    vocabulary = Vocabulary(smollm2 / "tokenizer.json", [END])
    system = "Judge defects of buildings in JSON.\n" + "\n".join(
        f"{words} {answer_of(*fields)}" for words, *fields in KNOWN
    )
    samples = []
    for words, level, part in ASKED:
        told = [{"role": "system", "content": system}, {"role": "user", "content": words}]
        rendered = tokenizer.apply_chat_template(told, add_generation_prompt=True, tokenize=True, return_dict=False)
        parts = parts_from_exchanges(vocabulary, PIECES, END, system, [Exchange(words)]).parts
        answer = np.append(vocabulary.encode(answer_of(level, part, "repair it")), np.int64(END))
        samples.append(
            GateSample(
                words,
                tuple(np.asarray(part) for part in parts),
                answer,
                {"level": level, "part": part},
                rendered=np.array(rendered, np.int64),
            )
        )
    made = export_text(smollm2, tmp_path, model)
    packed = tmp_path / "text.int4.onnx"
    pack_text(made.graph, packed, INT4)
    options = TextGateOptions(vocabulary, made.embeddings, ReportForm(SCHEMA, "level"), answer_tokens=40, max_drop=50)
    float_graph = GraphVariant("fp32", made.graph)
    report = gate_reports(TorchReference(model), [float_graph, GraphVariant("mixed", packed)], samples, options)
    assert report.shipped == ("fp32", "mixed")
    exact, rounded = report.text_hops[1:]
    assert exact.tokens is not None and 0 < exact.tokens.apart < 1e-3 and exact.tokens.top1 == 1
    assert rounded.tokens is not None and 1e-3 < rounded.tokens.kl < 0.2
    assert exact.fields is not None and exact.fields.complete_after == 1

    wrong = changed_graph(packed, tmp_path / "wrong.onnx", ".*o_proj.*_scales", along_the_wrong_axis)
    with pytest.raises(GateRefused, match=r"refused onnx fp32 → mixed.*packed weights of model.layers"):
        gate_reports(TorchReference(model), [float_graph, GraphVariant("mixed", wrong)], samples, options)
