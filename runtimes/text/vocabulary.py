"""Tokenizer: encoding, decoding, and the tokens that end a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from typing_extensions import Self

from vidrisk.runtimes.contract.errors import BundleError, require
from vidrisk.runtimes.text.requests import Ids
from vidrisk.runtimes.text.schema import Constrainer

MOST_BYTES = 2**27
AGAIN = "copy the tokenizer of the model again"


class Vocabulary:
    """Tokenizer from Hugging Face's ``tokenizers``.

    Args:
        path: ``tokenizer.json``.
        ends: ids of the tokens that end a text.

    Raises:
        BundleError: the file is missing or not a tokenizer, or it does not have an end token.
        MissingExtra: tokenizers is not installed.
    """

    def __init__(self, path: Path, ends: Sequence[int]) -> None:
        try:
            size = path.stat().st_size
            if size > MOST_BYTES:
                raise BundleError(
                    f"{path.name} has {size} bytes", allowed=f"a tokenizer of at most {MOST_BYTES}", fix=AGAIN
                )
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{path.name} is not a tokenizer: {error}", fix=AGAIN) from error
        self._open(text, path.name, ends)

    @classmethod
    def from_text(cls, text: str, ends: Sequence[int]) -> Self:
        """Create a tokenizer from the content of a ``tokenizer.json``."""
        made = cls.__new__(cls)
        made._open(text, "tokenizer.json", ends)
        return made

    def _open(self, text: str, name: str, ends: Sequence[int]) -> None:
        tokenizers: Any = require("tokenizers", "text")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises Exception itself
            raise BundleError(f"{name} is not a tokenizer: {error}", fix=AGAIN) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._lock = Lock()
        self.ends = tuple(ends)
        self.size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        foreign = [end for end in self.ends if self._tokenizer.id_to_token(end) is None]
        if foreign or not self.ends:
            raise BundleError(f"{name} has no token {min(foreign, default='that ends a text')}", fix=AGAIN)

    def encode(self, text: str, *, special: bool = False) -> Ids:
        """Return the token ids of a text.

        With ``special``, text such as ``<|im_end|>`` becomes a special token: for templates, never for user input.
        """
        with self._lock:
            self._tokenizer.encode_special_tokens = not special
            return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special tokens."""
        text: str = self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True)
        return text

    def token(self, text: str) -> int | None:
        """Return the id of a token by its name, or None."""
        found: int | None = self._tokenizer.token_to_id(text)
        return found

    def constrainer(self, logits: int) -> Constrainer:
        """Return the factory of schema constraints for a model with this many logits.

        It is created once, which takes about half a second.
        """
        if logits not in self._constrainers:
            self._constrainers[logits] = Constrainer(self._tokenizer.to_str(), logits, self.ends)
        return self._constrainers[logits]

    @cached_property
    def _constrainers(self) -> dict[int, Constrainer]:
        return {}

    def __repr__(self) -> str:
        return f"Vocabulary({self.size} tokens, ends {', '.join(map(str, self.ends))})"
