"""Conversion of a byte-level ``tokenizer.json`` to the tokenizer fields of a GGUF file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidrisk.runtimes.contract.errors import SettingsError

NORMAL, UNUSED, CONTROL, USER = 1, 5, 3, 4  # token types of GGUF
MOST_BYTES = 2**27
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How a text is split before its bytes are merged → the name of the split in llama.cpp.
SPLITS = {
    ("digits", "words"): "smollm",
    ("words",): "gpt-2",
    (_WORDS % "", "bytes"): "qwen2",
    (_WORDS % "{1,3}", "bytes"): "llama-bpe",
}
Split = tuple[str, ...]


@dataclass(frozen=True, repr=False)
class GgufTokenizer:
    """Tokens by id, their types, merges, the name of the split, and special tokens by their names in GGUF."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    split: str
    special: dict[str, int]
    template: str | None

    def add_to(self, writer: Any) -> None:
        """Write it with a ``GGUFWriter``."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(False)  # templates have theirs
        if self.template:
            writer.add_chat_template(self.template)


def read_tokenizer(folder: Path, config: dict[str, Any]) -> GgufTokenizer:
    """Read the tokenizer of a model.

    Args:
        folder: of the model.
        config: of the model: ``vocab_size``, and the tokens that begin, end and pad a text. ``generation_config.json``
            beside it may name up to three that end one.

    Raises:
        SettingsError: there is no tokenizer, or llama.cpp would read it differently.
    """
    path = folder / "tokenizer.json"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        model = content["model"]
        if model["type"] != "BPE" or model.get("byte_fallback"):
            raise ValueError(f"its model is {model['type']}, and not BPE of bytes")
        if (normalizer := content.get("normalizer")) and normalizer["type"] != "NFC":  # which changes no id of ours
            raise ValueError(f"it changes text by {normalizer['type']}")
        split = SPLITS.get(_split(content["pre_tokenizer"]))
        tokens, types = _tokens(model["vocab"], content.get("added_tokens") or [], int(config["vocab_size"]))
        merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
        if not merges:
            raise ValueError("it merges nothing")
        special = _special(folder, config)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise SettingsError(
            f"{path} is not a tokenizer that llama.cpp reads: {error}", allowed="byte-level BPE"
        ) from error
    if split is None:
        raise SettingsError(
            f"{path} splits text in a way that has no name in llama.cpp",
            allowed=f"as {', '.join(SPLITS.values())} do",
            fix="serve the merged model by vLLM",
        )
    return GgufTokenizer(tokens, types, merges, split, special, _template(folder))


def _split(described: Any) -> Split:
    """Return the relevant settings of a pre-tokenizer, or nothing if one is unsupported."""
    steps = described["pretokenizers"] if described["type"] == "Sequence" else [described]
    found = []
    for step in steps:
        if step["type"] == "Digits" and step["individual_digits"]:
            found.append("digits")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            found.append(str(step["pattern"]["Regex"]))
        elif step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            found.append("words" if step.get("use_regex", True) else "bytes")
        else:
            return ()
    return tuple(found)


def _tokens(
    vocabulary: dict[str, int], added: list[dict[str, Any]], size: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    tokens = [f"[PAD{place}]" for place in range(size)]
    types = [UNUSED] * size
    for token, place in vocabulary.items():
        tokens[place], types[place] = token, NORMAL
    for each in added:
        tokens[each["id"]], types[each["id"]] = each["content"], CONTROL if each["special"] else USER
    return tuple(tokens), tuple(types)


def _special(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    path = folder / "generation_config.json"
    generation = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = ends if isinstance(ends, list) else [ends]
    if ends == [None] or len(ends) > 3:
        raise ValueError(f"{0 if ends == [None] else len(ends)} tokens end a text; there may be 1 to 3")
    named = dict(zip(("eos", "eot", "eom"), ends, strict=False))
    named |= {name: config.get(f"{name}_token_id") for name in ("bos", "pad")}
    return {name: int(token) for name, token in named.items() if token is not None}


def _template(folder: Path) -> str | None:
    """Return the chat template, from where ``save_pretrained`` stores it today, or used to."""
    path, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.is_file() else None
    return found if isinstance(found, str) else None
