"""Tests of GGUF files of real architectures.

llama.cpp computes with them what torch does, and reads text as the tokenizer does.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from tiny_text import END, VOCABULARY, save_causal

from vidrisk.export.text import gguf as module
from vidrisk.export.text.gguf import digest_of_model, export_gguf
from vidrisk.export.text.gguf_tokenizer import SPLITS
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError
from vidrisk.runtimes.text.gguf_header import read_gguf
from vidrisk.runtimes.text.llama_engine import LlamaEngine
from vidrisk.runtimes.text.requests import Answer, Comparison, Prompt, Request
from vidrisk.runtimes.text.vocabulary import Vocabulary

MERGES = (("t", "h"), ("Ġ", "c"))
LAST = END + len(MERGES)  # the token that ends a text
NO_LLAMA = "xllamacpp is not installed: pip install 'vidrisk[gguf]'"
TEXTS = [
    "The wall has a crack of 35 cm, doesn't it?\n\n  Yes: 12345.",
    "墙体有裂缝🧱。",
    "naïve café…\t\tx = {1: 'a'}\r\n",
    " ",
    "42",
]


def logprobs_by_torch(model: Any, prompt: np.ndarray, answer: Answer) -> np.ndarray:
    """Return the log-probabilities ``(tokens, vocabulary)`` at every token of an answer."""
    ids = torch.tensor([*prompt.tolist(), *answer.tokens])[None]
    with torch.inference_mode():
        found: np.ndarray = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1).numpy()
    return found


def check_against_torch(model: Any, prompt: np.ndarray, answer: Answer, apart: float, among: int | None = None) -> None:
    """Check that every token is torch's most probable one (of the first ``among``), with the same probability."""
    wanted = logprobs_by_torch(model, prompt, answer)
    at = wanted[np.arange(len(answer.tokens)), list(answer.tokens)]
    np.testing.assert_allclose(answer.logprobs, at, atol=apart)
    assert (wanted[:, :among].max(-1) - at < apart).all()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Llama", {"attention_bias": True}),
        ("Llama", {"num_key_value_heads": 4, "tie_word_embeddings": True, "vocab_size": VOCABULARY + 8}),
        ("Mistral", {"head_dim": 32, "sliding_window": None}),
        ("Qwen2", {}),
        ("Qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ],
)
def test_llama_cpp_computes_what_torch_does(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    pytest.importorskip("xllamacpp", reason=NO_LLAMA)
    model = save_causal(tmp_path, family, MERGES, **settings)
    export_gguf(tmp_path, tmp_path / "model.gguf", weights="f32")
    vocabulary = Vocabulary(tmp_path / "tokenizer.json", [LAST])
    prompt = vocabulary.encode(TEXTS[0] + TEXTS[1])
    above = tuple(range(94, LAST + 2))  # bytes beyond ASCII: llama.cpp does not name all tokens of such a character
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
    with LlamaEngine(tmp_path / "model.gguf", vocabulary, sequences=1, tokens=128, threads=1) as engine:
        answer = engine.answer(Request(Prompt((prompt,)), limit=16, banned=above))
        levels = engine.answer(
            Request(
                Prompt((prompt,)),
                limit=16,
                schema=schema,
                comparison=Comparison(":", ("low", "high", "none"), until="."),
            )
        ).compared
    assert (answer.prompt_tokens, len(answer.tokens)) == (len(prompt), 16)
    check_against_torch(model, prompt, answer, 0.02, among=94)
    assert levels is not None
    for word, logprob in levels.items():
        ids = tuple(vocabulary.encode(f'{{"a":{word}.').tolist())
        scores = logprobs_by_torch(model, prompt, Answer("", "stop", ids))
        assert logprob == pytest.approx(float(scores[np.arange(5, len(ids)), ids[5:]].sum()), abs=0.05)


@pytest.mark.slow(minutes=1)
def test_smollm2_answers_as_torch_does(smollm2: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason=NO_LLAMA)
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype="float32").eval()
    vocabulary = Vocabulary(smollm2 / "tokenizer.json", [model.config.eos_token_id])
    prompts = [
        vocabulary.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", special=True)
        for text in TEXTS[:2]
    ]
    for weights, apart in (("f16", 0.02), ("q8_0", 0.35)):
        export_gguf(smollm2, tmp_path / "model.gguf", weights=weights)  # type: ignore[arg-type]
        with LlamaEngine(tmp_path / "model.gguf", vocabulary, sequences=2, tokens=256, threads=1) as engine:
            for prompt, answer in zip(
                prompts, list(engine.answers(Request(Prompt((prompt,)), limit=12) for prompt in prompts)), strict=True
            ):
                check_against_torch(model, prompt, answer, apart)


@pytest.mark.parametrize("split", SPLITS)
def test_llama_cpp_reads_text_as_the_tokenizer_does(smollm2: Path, tmp_path: Path, split: tuple[str, ...]) -> None:
    """SmolLM2's tokens and merges are used with every supported way of splitting text, one after another."""
    llama = pytest.importorskip("xllamacpp", reason=NO_LLAMA)
    save_causal(
        tmp_path,
        "Llama",
        vocab_size=49152,
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=2,
    )
    content = json.loads((smollm2 / "tokenizer.json").read_text(encoding="utf-8"))
    steps: list[dict[str, Any]] = [
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": split[-1] == "words"}
    ]
    if split[0] == "digits":
        steps.insert(0, {"type": "Digits", "individual_digits": True})
    elif len(split) > 1:
        steps.insert(0, {"type": "Split", "pattern": {"Regex": split[0]}, "behavior": "Isolated", "invert": False})
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    content["model"]["ignore_merges"] = SPLITS[split] == "llama-bpe"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    export_gguf(tmp_path, tmp_path / "model.gguf", weights="f16")
    assert read_gguf(tmp_path / "model.gguf").metadata["tokenizer.ggml.pre"] == SPLITS[split]
    vocabulary = Vocabulary(tmp_path / "tokenizer.json", [2])
    params = llama.CommonParams()
    params.model.path, params.n_ctx, params.verbosity, params.warmup = str(tmp_path / "model.gguf"), 256, -1, False
    server = llama.Server(params)
    for text in TEXTS:
        asked = urllib.request.Request(f"{server.listening_address}/tokenize", json.dumps({"content": text}).encode())
        with urllib.request.urlopen(asked, timeout=10) as answer:
            assert json.load(answer)["tokens"] == vocabulary.encode(text).tolist(), text


def test_weights_have_the_precision_that_is_asked_for(tmp_path: Path) -> None:
    save_causal(tmp_path, "Llama", MERGES, hidden_size=96, intermediate_size=80, head_dim=24)
    sizes = {}
    for weights in ("f32", "f16", "q8_0"):
        digest = export_gguf(tmp_path, tmp_path / f"{weights}.gguf", weights=weights)  # type: ignore[arg-type]
        header = read_gguf(tmp_path / f"{weights}.gguf")
        assert header.digest == digest == digest_of_model(tmp_path) and header.ends == {LAST}
        sizes[weights] = (tmp_path / f"{weights}.gguf").stat().st_size
    assert sizes["q8_0"] < sizes["f16"] < sizes["f32"] and not list(tmp_path.glob(".*"))
    assert (
        export_gguf(tmp_path, tmp_path / "named.gguf", digest="abc")
        == "abc"
        == read_gguf(tmp_path / "named.gguf").digest
    )


def test_a_digest_is_one_of_weights_and_tokenizer(tmp_path: Path) -> None:
    save_causal(tmp_path, "Llama", MERGES)
    before = digest_of_model(tmp_path)
    (tmp_path / "tokenizer.json").write_text(
        (tmp_path / "tokenizer.json").read_text(encoding="utf-8") + "\n", encoding="utf-8"
    )
    other = digest_of_model(tmp_path)
    save_causal(tmp_path, "Llama", MERGES, intermediate_size=64)
    assert len({before, other, digest_of_model(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["GraniteForCausalLM"]}, "no GGUF can be written of GraniteForCausalLM"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_scaling": {"type": "linear"}}, "'linear'"),
        ({"mlp_bias": True}, "MLP with biases"),
        ({"eos_token_id": None}, "0 tokens end"),
    ],
)
def test_models_of_other_kinds_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    save_causal(tmp_path, "Llama", MERGES)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    if "rope_scaling" in changes:
        del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(SettingsError, match=said):
        export_gguf(tmp_path, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content["model"].update(type="Unigram"), "Unigram"),
        (lambda content: content["model"].update(byte_fallback=True), "not BPE of bytes"),
        (lambda content: content.update(pre_tokenizer={"type": "Metaspace"}), "no name in llama.cpp"),
        (lambda content: content["pre_tokenizer"].update(add_prefix_space=True), "no name in llama.cpp"),
        (lambda content: content.update(normalizer={"type": "Lowercase"}), "changes text by Lowercase"),
        (lambda content: content["model"].update(merges=[]), "merges nothing"),
        (lambda content: content.update(pre_tokenizer=None), "not a tokenizer that llama.cpp reads"),
        (
            lambda content: content["model"]["vocab"].update(more=VOCABULARY + len(MERGES)),
            "not a tokenizer that llama.cpp reads",
        ),
    ],
)
def test_tokenizers_of_other_kinds_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    save_causal(tmp_path, "Llama", MERGES)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SettingsError, match=said):
        export_gguf(tmp_path, tmp_path / "model.gguf")


def test_weights_that_are_not_as_they_should_be_are_refused(tmp_path: Path) -> None:
    save_causal(tmp_path, "Llama", MERGES)
    path = tmp_path / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    name = "model.layers.1.self_attn.k_proj.weight"
    broken = weights[name].clone()
    broken[3, 3] = float("nan")
    for changed, said in (
        ({**weights, name: broken}, f"{name} is not finite"),
        ({key: value for key, value in weights.items() if key != name}, f"{name} and 0 further"),
        ({**weights, "model.layers.1.router.weight": broken}, "router.weight, which a llama"),
    ):
        safetensors.torch.save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(DataError, match=said):
            export_gguf(tmp_path, tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        export_gguf(tmp_path, tmp_path / "model.gguf")
    path.unlink()
    with pytest.raises(DataError, match="has no weights"):
        export_gguf(tmp_path, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*gguf*"))


def test_an_engine_refuses_a_gguf_of_another_export_and_of_another_tokenizer(tmp_path: Path) -> None:
    save_causal(tmp_path, "Llama", MERGES)
    made = tmp_path / "model.gguf"
    digest = export_gguf(tmp_path, made)
    with pytest.raises(BundleError, match=f'belongs to export "{digest[:16]}"; allowed: "another"'):
        LlamaEngine(made, Vocabulary(tmp_path / "tokenizer.json", [LAST]), digest="another")
    with pytest.raises(BundleError, match="does not end a text at token 259; allowed: 258"):
        LlamaEngine(made, Vocabulary(tmp_path / "tokenizer.json", [LAST, LAST + 1]))
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "swapped.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleError, match="other tokens than the tokenizer: 'a' is"):
        LlamaEngine(made, Vocabulary(tmp_path / "swapped.json", [LAST]))


def test_a_model_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_causal(tmp_path, "Llama", MERGES, num_hidden_layers=1)
    alive: list[str] = []
    turned = module._reorder_rows

    def counted(values: np.ndarray, name: str, config: dict[str, Any]) -> np.ndarray:
        alive.append(name)
        return turned(values, name, config)

    monkeypatch.setattr(module, "_reorder_rows", counted)
    export_gguf(tmp_path, tmp_path / "model.gguf")
    assert alive == sorted(alive) and len(alive) == 12
