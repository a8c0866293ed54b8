"""Plain text graph on OpenVINO, with past keys and values as inputs and new ones as outputs.

``export.text.plain_text`` writes such graphs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import RuntimeFailure
from vidrisk.runtimes.openvino import load_core
from vidrisk.runtimes.text.requests import Embeddings, Ids
from vidrisk.runtimes.text.text_shape import AGAIN, METADATA, PLAIN_INPUTS, shape_from_graph

Floats = npt.NDArray[np.float32]
PAST_STEP = 64  # granularity of past lengths: OpenVINO recompiles for every new shape
UNSEEN = np.float32(-1e30)


class PlainGraph:
    """Runner of a plain text graph in float32.

    Args:
        path: the ONNX file.
        threads: inference threads; None lets OpenVINO use all cores.

    Raises:
        BundleError: it is not such a graph.
        MissingExtra: OpenVINO is not installed.
        RuntimeFailure: OpenVINO refuses the graph.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        core = load_core()
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        try:
            model = core.read_model(str(path))
            inputs, outputs = (
                {port.get_any_name(): _sizes(port) for port in ports} for ports in (model.inputs, model.outputs)
            )
            metadata = ["framework", METADATA]
            described = model.get_rt_info(metadata).astype(str) if model.has_rt_info(metadata) else None
        except Exception as error:  # openvino raises RuntimeError and its own types alike
            raise RuntimeFailure(f"OpenVINO cannot load {path.name}: {error}", fix=AGAIN) from error
        self.shape = shape_from_graph(inputs, outputs, described, path.name, PLAIN_INPUTS)
        try:
            compiled = core.compile_model(
                model, "CPU", config | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
            )
            self._request = compiled.create_infer_request()
        except Exception as error:
            raise RuntimeFailure(f"OpenVINO cannot compile {path.name}: {error}", fix=AGAIN) from error

    def run(self, cache: Floats, start: int, lengths: list[int], new: Embeddings, at: Ids, logits: Floats) -> None:
        """Append tokens to some adjacent sequences, like ``FusedGraph.run``.

        Raises:
            RuntimeFailure: OpenVINO failed.
        """
        count, tokens = len(lengths), new.shape[1]
        befores = np.array(lengths) - tokens
        past = min(max(1, -(-int(befores.max()) // PAST_STEP)) * PAST_STEP, cache.shape[3])
        bias = np.full((count, 1, tokens, past + tokens), UNSEEN, np.float32)
        bias[:, :, :, :past][
            np.broadcast_to(np.arange(past) < befores[:, None, None, None], (count, 1, tokens, past))
        ] = 0
        bias[:, :, :, past:] = np.triu(np.full((tokens, tokens), UNSEEN, np.float32), 1)
        feed = {
            "inputs_embeds": np.ascontiguousarray(new, np.float32),
            "logits_at": at,
            "attention_bias": bias,
            "positions": befores[:, None] + np.arange(tokens),
        }
        pasts = np.ascontiguousarray(cache[:, start : start + count, :, :past])
        feed |= {f"past_key_values.{name}": part for name, part in zip(self.shape.halves, pasts, strict=True)}
        try:
            self._request.infer(feed, share_inputs=True)
            logits[:] = self._request.get_tensor("logits").data
            for number, name in enumerate(self.shape.halves):
                present = self._request.get_tensor(f"present.{name}").data
                for place, before in enumerate(befores):
                    cache[number, start + place, :, before : before + tokens] = present[place]
        except Exception as error:
            raise RuntimeFailure(f"OpenVINO failed: {error}") from error


def _sizes(port: Any) -> list[int | None]:
    return [None if axis.is_dynamic else axis.get_length() for axis in port.get_partial_shape()]
