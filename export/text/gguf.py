"""Export of a merged language model as a GGUF file for llama.cpp, one tensor in memory at a time.

The file is written by the package gguf (MIT).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vidrisk.export.text.builder import read_config
from vidrisk.export.text.gguf_tokenizer import GgufTokenizer, read_tokenizer
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import DataError, SettingsError, require
from vidrisk.runtimes.text.gguf_header import DIGEST

EXTRA = "gguf"
# Architecture in transformers → in GGUF. The first kind rotates neighbouring rows of a head, the second its two halves.
PAIRED = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "llama"}
HALVED = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
Weights = Literal["f32", "f16", "q8_0"]
TYPES: dict[Weights, tuple[str, str]] = {
    "f32": ("F32", "ALL_F32"),
    "f16": ("F16", "MOSTLY_F16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
}
HEAD = "lm_head.weight"
Array = npt.NDArray[Any]


def export_gguf(folder: Path, out: Path, *, weights: Weights = "q8_0", digest: str | None = None) -> str:
    """Write a merged model as a GGUF file, including its tokenizer.

    Args:
        folder: the model, written by ``save_pretrained``, in safetensors.
        out: the file.
        weights: type of matrices; norms and biases are float32. A matrix whose row length is not a multiple of 32 uses
            float16 instead of ``q8_0``.
        digest: identifies the export that the file belongs to; None uses ``digest_of_model``.

    Returns:
        The digest, which ``LlamaEngine`` compares.

    Raises:
        SettingsError: an unsupported architecture, rotary embedding or tokenizer.
        DataError: weights that are missing, have an unknown name, or are not finite.
        MissingExtra: gguf is not installed.
    """
    package: Any = require("gguf", EXTRA)
    config = read_config(folder)
    architecture = _architecture(config)
    tokenizer = read_tokenizer(folder, config)
    digest = digest or digest_of_model(folder)
    partial = out.with_name(f".{out.name}.partial")
    writer = package.GGUFWriter(partial, architecture)
    try:
        _describe(writer, package, config, tokenizer)
        writer.add_string(DIGEST, digest)
        writer.add_file_type(package.LlamaFileType[TYPES[weights][1]])
        _write_tensors(writer, package, folder, config, architecture, weights)
        writer.close()
        partial.replace(out)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)
    return digest


def digest_of_model(folder: Path) -> str:
    """Return the SHA-256 of a model's weights and its tokenizer.

    Raises:
        DataError: there are none.
    """
    digest = hashlib.sha256()
    for path in (*_weight_files(folder), folder / "tokenizer.json"):
        try:
            digest.update(sha256_of(path).encode())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}", fix="save model and tokenizer again") from error
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise DataError(f"{folder} has no weights", allowed="*.safetensors", fix="merge and save the model again")
    return found


def _architecture(config: dict[str, Any]) -> str:
    """Return the architecture's name in GGUF.

    Raises:
        SettingsError: as ``export_gguf``.
    """
    known = {**PAIRED, **HALVED}
    name = config["architectures"][0]
    if name not in known:
        raise SettingsError(f"no GGUF can be written of {name}", allowed=", ".join(known))
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or rope.get("partial_rotary_factor", 1) != 1:
        raise SettingsError(
            f"rotary embeddings of kind {kind!r}", allowed="the plain ones", fix="serve the merged model by vLLM"
        )
    if config.get("mlp_bias"):
        raise SettingsError("an MLP with biases", allowed="one without")
    return known[name]


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "rope_theta": config.get("rope_theta", 10_000.0),
        **(config.get("rope_scaling") or {}),
        **(config.get("rope_parameters") or {}),
    }


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _describe(writer: Any, package: Any, config: dict[str, Any], tokenizer: GgufTokenizer) -> None:
    heads = config["num_attention_heads"]
    writer.add_type(package.GGUFType.MODEL)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    for add in (writer.add_rope_dimension_count, writer.add_key_length, writer.add_value_length):
        add(_head_size(config))
    writer.add_vocab_size(len(tokenizer.tokens))
    writer.add_quantization_version(package.GGML_QUANT_VERSION)
    tokenizer.add_to(writer)


def _write_tensors(
    writer: Any, package: Any, folder: Path, config: dict[str, Any], architecture: str, weights: Weights
) -> None:
    names = package.get_tensor_name_map(package.MODEL_ARCH[architecture.upper()], config["num_hidden_layers"])
    skipped = {HEAD} if config.get("tie_word_embeddings") else set()
    found = [(name, shape) for name, shape, _ in _tensors(folder, read=False) if name not in skipped]
    kinds = {}
    for name, shape in found:
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise DataError(
                f"weights of {name}, which a {architecture} of llama.cpp does not have", fix="save the merged model"
            )
        kind = "f32" if len(shape) == 1 else "f16" if weights == "q8_0" and shape[-1] % 32 else weights
        kinds[name] = quant = package.GGMLQuantizationType[TYPES[kind][0]]
        stored = package.quant_shape_to_byte_shape(shape, quant) if kind == "q8_0" else shape
        of_type = np.dtype({"f32": np.float32, "f16": np.float16, "q8_0": np.uint8}[kind])
        writer.add_tensor_info(target, stored, of_type, int(np.prod(stored)) * of_type.itemsize, quant)
    _check_complete({name for name, _ in found} | skipped, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, _, values in _tensors(folder, read=True):
        if name in skipped:
            continue
        if not np.isfinite(values).all():
            raise DataError(f"{name} is not finite", fix="export an earlier checkpoint")
        if config["architectures"][0] in PAIRED:
            values = _reorder_rows(values, name, config)
        writer.write_tensor_data(np.ascontiguousarray(package.quantize(values, kinds[name])))


def _check_complete(names: set[str], config: dict[str, Any]) -> None:
    """Check that every matrix of such a model is there.

    Raises:
        DataError: one is missing.
    """
    parts = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "input_layernorm",
        "post_attention_layernorm",
    )
    wanted = {"model.embed_tokens.weight", "model.norm.weight", HEAD} - (
        {HEAD} if config.get("tie_word_embeddings") else set()
    )
    wanted |= {f"model.layers.{layer}.{part}.weight" for layer in range(config["num_hidden_layers"]) for part in parts}
    if missing := wanted - names:
        raise DataError(
            f"{min(missing)} and {len(missing) - 1} further weights are missing", fix="save the merged model"
        )


def _tensors(folder: Path, *, read: bool) -> Iterator[tuple[str, tuple[int, ...], Array]]:
    """Yield name, shape and, if they are read, float32 values, in a fixed order."""
    safetensors: Any = require("safetensors", "export")
    nothing = np.zeros(0, np.float32)
    for path in _weight_files(folder):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    values = file.get_tensor(name).float().numpy() if read else nothing
                    yield name, tuple(file.get_slice(name).get_shape()), values
        except (OSError, safetensors.SafetensorError) as error:
            raise DataError(f"{path} cannot be read: {error}", fix="save the model again") from error


def _reorder_rows(values: Array, name: str, config: dict[str, Any]) -> Array:
    """Reorder rows of queries and keys for llama.cpp: row i of a head's half beside row i of the other half."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config.get("num_key_value_heads")}
    for part, count in heads.items():
        if f".{part}." in name:
            count = count or config["num_attention_heads"]
            return (
                values.reshape(count, 2, len(values) // count // 2, *values.shape[1:])
                .swapaxes(1, 2)
                .reshape(values.shape)
            )
    return values
