"""Tiny text models with random weights, and a tokenizer of bytes.

Graphs have the form that the builder creates, and models the form that transformers saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

LAYERS, HEADS, KV_HEADS, HEAD_SIZE, WIDTH, POSITIONS = 2, 4, 2, 16, 64, 256
END, VOCABULARY = 256, 258  # bytes, the end of a text, one more
CONFIG = {"max_position_embeddings": POSITIONS, "hidden_size": WIDTH, "num_attention_heads": HEADS}
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 0,
    "eos_token_id": END,
    "pad_token_id": 257,
}


def write_tokenizer(path: Path, merges: Sequence[tuple[str, str]] = ()) -> Path:
    """Write a tokenizer with one token per byte, then the merged tokens, ``<end>`` and ``<act>``; return its path."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    tokenizer = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<end>", "<act>")])
    tokenizer.save(str(path))
    return path


def save_causal(folder: Path, family: str, merges: Sequence[tuple[str, str]] = (), **settings: Any) -> Any:
    """Save a transformers model and its tokenizer in the form of a merged checkpoint, and return the model.

    Each merge of the tokenizer raises the id of ``<end>`` by one.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    moved = {name: SIZES[name] + len(merges) for name in ("vocab_size", "eos_token_id", "pad_token_id")}
    settings = SIZES | moved | ({"head_dim": HEAD_SIZE} if family == "Qwen3" else {}) | settings
    config = getattr(transformers, f"{family}Config")(**settings)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)  # as trained: ones would hide a norm that is left out
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json", merges)
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<end>"
    ).save_pretrained(folder)
    return model


def builders_graph(seed: int = 0, sharpness: float = 3.0) -> onnx.ModelProto:
    """Return a graph in the form that the builder creates. ``sharpness`` scales the logits."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    nodes = [
        helper.make_node("ReduceSum", ["attention_mask", "one"], ["tokens"], name="/model/mask/ReduceSum", keepdims=0),
        helper.make_node("Sub", ["tokens", "one"], ["last"], name="/model/mask/Sub"),
        helper.make_node("Cast", ["last"], ["lasts"], name="/model/mask/Sub/Cast", to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["mask_shape"], name="/model/mask/Shape"),
        helper.make_node("Gather", ["mask_shape", "first"], ["total"], name="/model/mask/Gather", axis=0),
        helper.make_node("Cast", ["total"], ["totals"], name="/model/mask/Gather/Cast", to=TensorProto.INT32),
    ]

    def weight(name: str, *shape: int) -> str:
        weights[name] = rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32)
        return name

    def product(name: str, source: str, depth: int, width: int) -> str:
        out = "logits" if name == "lm_head" else f"/{name}/out"
        nodes.append(
            helper.make_node("MatMul", [source, weight(f"{name}.weight", depth, width)], [out], name=f"/{name}/MatMul")
        )
        return out

    def norm(name: str, source: str) -> str:
        weights[f"{name}.scale"] = rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)
        nodes.append(
            helper.make_node(
                "SimplifiedLayerNormalization",
                [source, f"{name}.scale"],
                [f"/{name}/out"],
                name=f"/{name}/LayerNorm",
                axis=-1,
                epsilon=1e-5,
                stash_type=1,
            )
        )
        return f"/{name}/out"

    states, inputs, outputs = "inputs_embeds", [], []
    for layer in range(LAYERS):
        root = f"model/layers.{layer}"
        qkv = product(
            f"{root}/attn/qkv_proj", norm(f"{root}/input_layernorm", states), WIDTH, (HEADS + 2 * KV_HEADS) * HEAD_SIZE
        )
        pairs = [(f"past_key_values.{layer}.{half}", f"present.{layer}.{half}") for half in ("key", "value")]
        nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [qkv, "", "", pairs[0][0], pairs[1][0], "lasts", "totals", "cos_cache", "sin_cache"],
                [f"{root}/attended", pairs[0][1], pairs[1][1]],
                name=f"/{root}/attn/GroupQueryAttention",
                domain="com.microsoft",
                num_heads=HEADS,
                kv_num_heads=KV_HEADS,
                do_rotary=1,
            )
        )
        for values, place, axis in ((inputs, 0, "past_sequence_length"), (outputs, 1, "total_sequence_length")):
            shape = ["batch_size", KV_HEADS, axis, "kv_cache_dim"]
            values += [helper.make_tensor_value_info(pair[place], TensorProto.FLOAT, shape) for pair in pairs]
        attended = product(f"{root}/attn/o_proj", f"{root}/attended", HEADS * HEAD_SIZE, WIDTH)
        nodes.append(helper.make_node("Add", [states, attended], [f"{root}/added"], name=f"/{root}/Add"))
        states = f"{root}/added"
    product("lm_head", norm("model/norm", states), WIDTH, VOCABULARY)
    weights["lm_head.weight"] *= sharpness
    angles = np.arange(POSITIONS)[:, None] * 10000.0 ** (-np.arange(HEAD_SIZE // 2) / (HEAD_SIZE // 2))
    weights |= {
        "cos_cache": np.cos(angles).astype(np.float32),
        "sin_cache": np.sin(angles).astype(np.float32),
        "one": np.array([1], np.int64),
        "first": np.array(1, np.int64),
    }
    inputs = [
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]),
        helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, ["batch_size", "sequence_length", WIDTH]),
        *inputs,
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", VOCABULARY]),
        *outputs,
    ]
    graph = helper.make_graph(
        nodes, "text", inputs, outputs, [numpy_helper.from_array(w, name) for name, w in weights.items()]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
