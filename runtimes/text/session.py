"""Text graph with a KV cache of several sequences, which can be extended, copied and moved.

A step extends either one sequence by any number of tokens or every sequence by one. The graph is a fused one on ONNX
Runtime (``fused_graph``) or a plain one on OpenVINO (``plain_graph``).

Engines multiply a single row by weights differently from several rows, with different rounding. To make an answer
independent of the other sequences, a session for several sequences never runs a single row: it duplicates the last one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import BundleError, RuntimeFailure, SettingsError
from vidrisk.runtimes.memory import available_bytes
from vidrisk.runtimes.text.fused_graph import FusedGraph
from vidrisk.runtimes.text.plain_graph import PlainGraph
from vidrisk.runtimes.text.requests import Embeddings, Ids
from vidrisk.runtimes.text.text_shape import AGAIN, TextShape

Logits = npt.NDArray[np.float32]
TextRuntime = Literal["onnxruntime", "openvino"]
CHUNK_TOKENS = 512  # chunk size of a long prompt: activations grow with it


class TextSession:
    """Runner of a text graph for several sequences, of which the first ones are active.

    Args:
        graph: the ONNX file.
        embeddings: ``.npy`` file of the embeddings of all tokens, ``(vocabulary, width)``, float32 or float16;
            memory-mapped.
        sequences, tokens: maximum number of concurrent sequences, and of tokens of each, prompt and answer together.
            The KV cache is allocated for all of them: ``cache_bytes``.
        threads: None lets the engine choose.
        runtime: engine; OpenVINO needs a plain graph (``export.text.plain_text``), ONNX Runtime a fused one.

    Raises:
        SettingsError: there are more tokens than positions of the model, or the cache does not fit into memory.
        BundleError: a file is invalid or of the wrong kind, or the embeddings belong to another model.
        RuntimeFailure: the engine refuses the graph.
    """

    def __init__(
        self,
        graph: Path,
        embeddings: Path,
        *,
        sequences: int = 8,
        tokens: int = 1024,
        threads: int | None = None,
        runtime: TextRuntime = "onnxruntime",
    ) -> None:
        opened = (FusedGraph if runtime == "onnxruntime" else PlainGraph)(graph, threads)
        self._graph: FusedGraph | PlainGraph | None = opened
        self.runtime, self.shape = runtime, opened.shape
        self.embeddings = _read_embeddings(embeddings, self.shape)
        self.sequences, self.tokens = sequences, tokens
        self.cache_bytes = sequences * tokens * self.shape.token_bytes
        self._check_sizes()
        shape = self.shape
        self._cache = np.zeros((2 * shape.layers, sequences, shape.kv_heads, tokens, shape.head_size), np.float32)
        self._logits: Logits = np.empty((sequences, shape.vocabulary), np.float32)
        self._lengths = [0] * sequences

    def _check_sizes(self) -> None:
        if self.sequences < 1 or not 2 <= self.tokens <= self.shape.positions:
            raise SettingsError(
                f"{self.sequences} sequences of {self.tokens} tokens",
                allowed=f"1 sequence or more, of 2 to {self.shape.positions} tokens",
            )
        free = available_bytes()
        if free is not None and self.cache_bytes > free:
            fitting = free // (self.tokens * self.shape.token_bytes)
            raise SettingsError(
                f"the KV cache of {self.sequences} sequences of {self.tokens} tokens takes "
                f"{self.cache_bytes / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free",
                allowed=f"at most {fitting} sequences of this many tokens" if fitting else "fewer tokens",
            )

    def length(self, slot: int) -> int:
        """Return the number of tokens of a sequence in the cache."""
        return self._lengths[slot]

    def embed(self, ids: Ids) -> Embeddings:
        """Return the embeddings of tokens, ``(n, width)``."""
        found: Embeddings = self.embeddings[ids].astype(np.float32, copy=False)
        return found

    def extend(self, slot: int, new: Embeddings, rows: int = 1) -> Logits:
        """Append tokens to a sequence.

        Args:
            slot: index of the sequence.
            new: embeddings ``(n, width)``, n at least 1.
            rows: number of last tokens whose logits to return, at least 1.

        Returns:
            ``(rows, vocabulary)``; overwritten by the next call.

        Raises:
            RuntimeFailure: the cache is full, or the engine failed.
        """
        self._check_room(slot, len(new))
        least = len(new) - rows
        logits = np.empty((rows, self.shape.vocabulary), np.float32) if rows > self.sequences else self._logits[:rows]
        for start in range(0, len(new), CHUNK_TOKENS):
            part = new[start : start + CHUNK_TOKENS]
            places = range(max(least - start, 0), len(part))  # empty in chunks before the wanted tokens
            at = np.array([(0, place) for place in places], np.int64).reshape(-1, 2)
            first = max(start - least, 0)
            self._lengths[slot] += len(part)
            self._run(slot, slot + 1, part[None], at, logits[first : first + len(places)])
        return logits

    def step(self, new: Embeddings) -> Logits:
        """Append one token to each of the first sequences; the remaining ones are unused and may be overwritten.

        Args:
            new: embeddings ``(batch, width)``.

        Returns:
            ``(batch, vocabulary)``; overwritten by the next call.

        Raises:
            RuntimeFailure: as ``extend``.
        """
        count = len(new)
        for slot in range(count):
            self._check_room(slot, 1)
            self._lengths[slot] += 1
        if count == 1 < self.sequences:
            new = np.repeat(new, 2, axis=0)
            self._lengths[1] = 1
        logits = self._logits[: len(new)]
        at = np.stack([np.arange(len(new)), np.zeros(len(new), np.int64)], axis=1)
        self._run(0, len(new), new[:, None], at, logits)
        return logits[:count]

    def _check_room(self, slot: int, count: int) -> None:
        if self._graph is None:
            raise RuntimeFailure("the text session is closed", fix="open it again")
        if self._lengths[slot] + count > self.tokens:
            raise RuntimeFailure(
                f"sequence {slot} has {self._lengths[slot]} tokens; {count} more do not fit",
                allowed=f"{self.tokens} tokens",
                fix="open the session for longer sequences",
            )

    def _run(self, start: int, stop: int, new: Embeddings, at: Ids, logits: Logits) -> None:
        assert self._graph is not None
        self._graph.run(self._cache, start, self._lengths[start:stop], new, at, logits)

    def truncate(self, slot: int, length: int) -> None:
        """Truncate a sequence to ``length`` tokens; 0 starts a new sequence."""
        self._lengths[slot] = min(self._lengths[slot], length)

    def move(self, source: int, target: int) -> None:
        """Move a sequence to the slot of another, which is discarded."""
        if source != target:
            length = self._lengths[source]
            self._cache[:, target, :, :length] = self._cache[:, source, :, :length]
            self._lengths[target], self._lengths[source] = length, 0

    def copy_out(self, slot: int) -> npt.NDArray[np.float32]:
        """Return a copy of the keys and values of a sequence, to be used as a prefix of others."""
        return self._cache[:, slot, :, : self._lengths[slot]].copy()

    def copy_in(self, slot: int, kept: npt.NDArray[np.float32]) -> None:
        """Start a sequence with keys and values from ``copy_out``."""
        self._lengths[slot] = kept.shape[2]
        self._cache[:, slot, :, : kept.shape[2]] = kept

    def close(self) -> None:
        """Release graph and cache. Safe to call twice."""
        self._graph = None
        self._cache = np.zeros((0, 0, 0, 0, 0), np.float32)

    def __repr__(self) -> str:
        sizes = f"{self.sequences} sequences of {self.tokens} tokens, {self.cache_bytes / 1e6:.0f} MB"
        return f"TextSession({self.shape}; {sizes})"


def _read_embeddings(path: Path, shape: TextShape) -> npt.NDArray[Any]:
    try:
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path.name} cannot be read as embeddings: {error}", fix=AGAIN) from error
    is_right = found.ndim == 2 and found.shape[1] == shape.width and len(found) >= shape.vocabulary
    if not is_right or found.dtype not in (np.float32, np.float16):
        raise BundleError(
            f"{path.name} is {found.dtype}{list(found.shape)}",
            allowed=f"float32 or float16 [{shape.vocabulary}, {shape.width}]",
            fix="use the graph and the embeddings of the same export",
        )
    return found
