"""A fused text graph on ONNX Runtime, with the keys and values of several sequences in buffers that it reads and writes in place.

    inputs_embeds float32 [batch, new, width]     attention_mask int64 [batch, total]: as many ones as a sequence has tokens
    logits_at int64 [rows, 2]                     sequence and place of the tokens whose logits are wanted
    past_key_values.<layer>.key, .value           float32 [batch, kv_heads, past, head_size]; ``present`` is the same memory
    logits float32 [rows, vocabulary]

That is what ``export.text`` makes of ONNX Runtime GenAI's builder: GroupQueryAttention finds the position of a token by itself.
With more than one new token behind a past it takes one sequence at a time, so a step is one of two: one sequence gets any
number of tokens, or every sequence gets one.

ONNX Runtime multiplies one row by 4-bit weights in another way than several rows, and rounds in other places. So that an answer
does not depend on its neighbours, a session for several sequences never runs one row alone: a last one has a copy beside it.
"""

from __future__ import annotations

import json
import re
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import BundleError, RuntimeFailure, SettingsError, require
from vidrisk.runtimes.memory import available_bytes
from vidrisk.runtimes.ort import UNSAFE_OPTIMIZERS
from vidrisk.runtimes.text.requests import Embeddings, Ids

Logits = npt.NDArray[np.float32]
CHUNK_TOKENS = 512  # of a long prompt at once: activations grow with them
METADATA = "vidrisk.text"  # key of the graph's metadata: JSON
AGAIN = "export the text graph again"


@dataclass(frozen=True)
class TextShape:
    """Sizes of a text graph.

    Attributes:
        width: of an embedding.
        vocabulary: number of logits.
        positions: most tokens of a sequence that the model knows positions for.
    """

    layers: int
    kv_heads: int
    head_size: int
    width: int
    vocabulary: int
    positions: int

    @property
    def token_bytes(self) -> int:
        """Of the keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_size * 4


class TextSession:
    """Runs a text graph for several sequences; those at work are the first ones, side by side.

    Args:
        graph: the ONNX file.
        embeddings: ``.npy`` file of the embeddings of all tokens, ``(vocabulary, width)``, float32 or float16; mapped, not read.
        sequences, tokens: most sequences at a time, and most tokens of each, prompt and answer. The KV cache has room for all of
            them: ``cache_bytes``.
        threads: intra-op threads; None lets ONNX Runtime take the physical cores.

    Raises:
        SettingsError: more tokens than the model has positions, or a cache that does not fit into memory.
        BundleError: a file that is none, or not of this kind, or embeddings of another model.
        RuntimeFailure: ONNX Runtime refuses the graph.
    """

    def __init__(self, graph: Path, embeddings: Path, *, sequences: int = 8, tokens: int = 1024,
                 threads: int | None = None) -> None:
        self._ort: Any = require("onnxruntime", "cpu")
        self._ort.disable_telemetry_events()
        self._session = self._opened(graph, threads)
        self.shape = _shape_of(self._session, graph.name)
        self.embeddings = _read_embeddings(embeddings, self.shape)
        self.sequences, self.tokens = sequences, tokens
        self.cache_bytes = sequences * tokens * self.shape.token_bytes
        self._check_sizes()
        shape = self.shape
        self._cache = np.zeros((2 * shape.layers, sequences, shape.kv_heads, tokens, shape.head_size), np.float32)
        self._logits: Logits = np.empty((sequences, shape.vocabulary), np.float32)
        self._lengths = [0] * sequences
        self._bindings: dict[tuple[int, int], Any] = {}

    def _opened(self, path: Path, threads: int | None) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            return self._ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0,
                                              disabled_optimizers=UNSAFE_OPTIMIZERS)
        except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
            raise RuntimeFailure(f"ONNX Runtime cannot load {path.name}: {error}", fix=AGAIN) from error

    def _check_sizes(self) -> None:
        if self.sequences < 1 or not 2 <= self.tokens <= self.shape.positions:
            raise SettingsError(f"{self.sequences} sequences of {self.tokens} tokens",
                                allowed=f"1 sequence or more, of 2 to {self.shape.positions} tokens")
        free = available_bytes()
        if free is not None and self.cache_bytes > free:
            fitting = free // (self.tokens * self.shape.token_bytes)
            raise SettingsError(f"the KV cache of {self.sequences} sequences of {self.tokens} tokens takes "
                                f"{self.cache_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
                                allowed=f"at most {fitting} sequences of so many tokens" if fitting else "fewer tokens")

    def length(self, slot: int) -> int:
        """Tokens of a sequence in the cache."""
        return self._lengths[slot]

    def embed(self, ids: Ids) -> Embeddings:
        """Embeddings of tokens, ``(n, width)``."""
        found: Embeddings = self.embeddings[ids].astype(np.float32, copy=False)
        return found

    def extend(self, slot: int, new: Embeddings, rows: int = 1) -> Logits:
        """Put tokens behind a sequence.

        Args:
            new: embeddings ``(n, width)``, n at least 1.
            rows: how many of the last tokens' logits are wanted, at least 1.

        Returns:
            ``(rows, vocabulary)``; overwritten by the next call.

        Raises:
            RuntimeFailure: the cache is full, or ONNX Runtime failed.
        """
        self._check_room(slot, len(new))
        least = len(new) - rows
        logits = np.empty((rows, self.shape.vocabulary), np.float32) if rows > self.sequences else self._logits[:rows]
        for start in range(0, len(new), CHUNK_TOKENS):
            part = new[start:start + CHUNK_TOKENS]
            places = range(max(least - start, 0), len(part))  # empty in a chunk in front of those that are wanted
            at = np.array([(0, place) for place in places], np.int64).reshape(-1, 2)
            first = max(start - least, 0)
            self._lengths[slot] += len(part)
            self._run(slot, slot + 1, part[None], at, logits[first:first + len(places)])
        return logits

    def step(self, new: Embeddings) -> Logits:
        """Put one token behind each of the first sequences. Those behind them are in no use, and may be overwritten.

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
        logits = self._logits[:len(new)]
        at = np.stack([np.arange(len(new)), np.zeros(len(new), np.int64)], axis=1)
        self._run(0, len(new), new[:, None], at, logits)
        return logits[:count]

    def _check_room(self, slot: int, count: int) -> None:
        if self._session is None:
            raise RuntimeFailure("the text session is closed", fix="open it again")
        if self._lengths[slot] + count > self.tokens:
            raise RuntimeFailure(f"sequence {slot} has {self._lengths[slot]} tokens, and {count} more do not fit",
                                 allowed=f"{self.tokens} tokens", fix="open the session for longer sequences")

    def _run(self, start: int, stop: int, new: Embeddings, at: Ids, logits: Logits) -> None:
        totals = self._lengths[start:stop]
        mask = (np.arange(max(totals)) < np.array(totals)[:, None]).astype(np.int64)
        new = np.ascontiguousarray(new, np.float32)
        binding = self._binding(start, stop)
        for name, values in (("inputs_embeds", new), ("attention_mask", mask), ("logits_at", at)):
            binding.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise RuntimeFailure(f"ONNX Runtime failed: {error}") from error

    def _binding(self, start: int, stop: int) -> Any:
        """Binding with the cache of some neighbouring sequences, as past and as present."""
        if (start, stop) not in self._bindings:
            binding = self._bindings[start, stop] = self._session.io_binding()
            for number in range(2 * self.shape.layers):
                name = f"{number // 2}.{('key', 'value')[number % 2]}"
                part = self._cache[number, start:stop]
                binding.bind_input(f"past_key_values.{name}", "cpu", 0, np.float32, part.shape, part.ctypes.data)
                binding.bind_output(f"present.{name}", "cpu", 0, np.float32, part.shape, part.ctypes.data)
        return self._bindings[start, stop]

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens of a sequence from some place on; a sequence of 0 tokens is a new one."""
        self._lengths[slot] = min(self._lengths[slot], length)

    def move(self, source: int, target: int) -> None:
        """Put one sequence in the place of another, which is forgotten."""
        if source != target:
            length = self._lengths[source]
            self._cache[:, target, :, :length] = self._cache[:, source, :, :length]
            self._lengths[target], self._lengths[source] = length, 0

    def copy_out(self, slot: int) -> npt.NDArray[np.float32]:
        """Keys and values of a sequence, to be put in front of others."""
        return self._cache[:, slot, :, :self._lengths[slot]].copy()

    def copy_in(self, slot: int, kept: npt.NDArray[np.float32]) -> None:
        """Begin a sequence with what ``copy_out`` gave."""
        self._lengths[slot] = kept.shape[2]
        self._cache[:, slot, :, :kept.shape[2]] = kept

    def close(self) -> None:
        """Release graph and cache. Safe to call twice."""
        self._session = None
        self._bindings = {}
        self._cache = np.zeros((0, 0, 0, 0, 0), np.float32)

    def __repr__(self) -> str:
        return f"TextSession({self.shape}; {self.sequences} sequences of {self.tokens} tokens, {self.cache_bytes / 1e6:.0f} MB)"


def _shape_of(session: Any, name: str) -> TextShape:
    inputs = {each.name: (each.type, each.shape) for each in session.get_inputs()}
    outputs = {each.name: each.shape for each in session.get_outputs()}
    layers = sum(bool(re.fullmatch(r"past_key_values\.\d+\.key", each)) for each in inputs)
    halves = [f"{layer}.{half}" for layer in range(layers) for half in ("key", "value")]
    wanted = {"inputs_embeds", "attention_mask", "logits_at", *(f"past_key_values.{half}" for half in halves)}
    if not layers or set(inputs) != wanted or set(outputs) != {"logits", *(f"present.{half}" for half in halves)}:
        odd = sorted(set(inputs) ^ wanted)[:3]
        raise BundleError(f"{name} is no text graph: it differs by {', '.join(odd) or 'its outputs'}", fix=AGAIN)
    kind, past = inputs["past_key_values.0.key"]
    if {kind, inputs["inputs_embeds"][0]} != {"tensor(float)"}:
        raise BundleError(f"{name} has a cache of {kind}", allowed="float32", fix=AGAIN)
    try:
        described = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        shape = TextShape(layers, *(int(size) for size in (past[1], past[3], inputs["inputs_embeds"][1][2], outputs["logits"][-1],
                                                           described["positions"])))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{name} does not say how large it is: {error}", fix=AGAIN) from error
    if min(astuple(shape)) < 1:
        raise BundleError(f"{name} says that it has sizes below 1: {shape}", fix=AGAIN)
    return shape


def _read_embeddings(path: Path, shape: TextShape) -> npt.NDArray[Any]:
    try:
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path.name} holds no embeddings: {error}", fix=AGAIN) from error
    is_right = found.ndim == 2 and found.shape[1] == shape.width and len(found) >= shape.vocabulary
    if not is_right or found.dtype not in (np.float32, np.float16):
        raise BundleError(f"{path.name} is {found.dtype}{list(found.shape)}",
                          allowed=f"float32 or float16 [{shape.vocabulary}, {shape.width}]",
                          fix="take graph and embeddings of the same export")
    return found
