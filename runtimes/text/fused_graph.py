"""Fused text graph on ONNX Runtime, which reads and writes keys and values in place.

    inputs_embeds                         float32 [batch, new, width]
    attention_mask                        int64 [batch, total]: as many ones as a sequence has tokens
    logits_at                             int64 [rows, 2]: sequence and place of the tokens whose logits to return
    past_key_values.<layer>.key, .value   float32 [batch, kv_heads, past, head_size]; ``present`` is the same memory
    logits                                float32 [rows, vocabulary]

``export.text`` creates such graphs with ONNX Runtime GenAI's builder: GroupQueryAttention derives the position of a
token itself. With more than one new token after a past it accepts one sequence at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import BundleError, RuntimeFailure, require
from vidrisk.runtimes.ort import UNSAFE_OPTIMIZERS
from vidrisk.runtimes.text.requests import Embeddings, Ids
from vidrisk.runtimes.text.text_shape import AGAIN, FUSED_INPUTS, METADATA, shape_from_graph

Floats = npt.NDArray[np.float32]


class FusedGraph:
    """Runner of a fused text graph.

    Args:
        path: the ONNX file.
        threads: intra-op threads; None lets ONNX Runtime use the physical cores.

    Raises:
        BundleError: it is not such a graph.
        RuntimeFailure: ONNX Runtime refuses it.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        ort: Any = require("onnxruntime", "cpu")
        ort.disable_telemetry_events()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(path),
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
                disabled_optimizers=UNSAFE_OPTIMIZERS,
            )
        except Exception as error:  # onnxruntime raises a dozen types of its own, without a common base
            raise RuntimeFailure(f"ONNX Runtime cannot load {path.name}: {error}", fix=AGAIN) from error
        inputs = self._session.get_inputs()
        self.shape = shape_from_graph(
            {each.name: each.shape for each in inputs},
            {each.name: each.shape for each in self._session.get_outputs()},
            self._session.get_modelmeta().custom_metadata_map.get(METADATA),
            path.name,
            FUSED_INPUTS,
        )
        kinds = {each.name: each.type for each in inputs}
        if {kinds["past_key_values.0.key"], kinds["inputs_embeds"]} != {"tensor(float)"}:
            raise BundleError(
                f"{path.name} has a cache of {kinds['past_key_values.0.key']}", allowed="float32", fix=AGAIN
            )
        self._bindings: dict[tuple[int, int], Any] = {}

    def run(self, cache: Floats, start: int, lengths: list[int], new: Embeddings, at: Ids, logits: Floats) -> None:
        """Append tokens to some adjacent sequences.

        Args:
            cache: cache of all sequences, ``[2 * layers, sequences, kv_heads, tokens, head_size]``; always the same
                array.
            start: index of the first of these sequences.
            lengths: lengths of the sequences, including the new tokens.
            new: embeddings ``[len(lengths), new, width]``; one token each if there are several sequences.
            at: which logits to return, ``[rows, 2]``.
            logits: output array for them.

        Raises:
            RuntimeFailure: ONNX Runtime failed.
        """
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        new = np.ascontiguousarray(new, np.float32)
        binding = self._binding(cache, start, start + len(lengths))
        for name, values in (("inputs_embeds", new), ("attention_mask", mask), ("logits_at", at)):
            binding.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise RuntimeFailure(f"ONNX Runtime failed: {error}") from error

    def _binding(self, cache: Floats, start: int, stop: int) -> Any:
        """Return an I/O binding with the cache of some adjacent sequences as past and as present."""
        if (start, stop) not in self._bindings:
            binding = self._bindings[start, stop] = self._session.io_binding()
            for number, name in enumerate(self.shape.halves):
                part = cache[number, start:stop]
                binding.bind_input(f"past_key_values.{name}", "cpu", 0, np.float32, part.shape, part.ctypes.data)
                binding.bind_output(f"present.{name}", "cpu", 0, np.float32, part.shape, part.ctypes.data)
        return self._bindings[start, stop]
