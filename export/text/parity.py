"""Comparison of a text graph with its torch model: alone, padded in a batch, and after a past."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.runtimes.contract.errors import GateRefused, require
from vidrisk.runtimes.text.sampling import log_probabilities
from vidrisk.runtimes.text.session import TextRuntime, TextSession

LENGTHS = (7, 64, 33, 1)  # of the sequences that are compared in one batch
STEPS = 3  # tokens that all of them write together
MOST_APART = 1e-3  # of log-probabilities, in nats; float32 deviates by about 1e-4
# A few positions of a trained model are ill-conditioned: at one of 117, torch in float32 was 8e-4 from itself in
# float64, ten times as far as elsewhere, and the graph as far to the other side.
OUTLIERS = 0.02  # share of the positions that may be further apart, by a factor of 10 at most
FURTHER = 10


@dataclass(frozen=True)
class Parity:
    """Distance of a graph from torch.

    Attributes:
        tokens: number of positions where all log-probabilities were compared.
        apart: the largest difference of a log-probability, in nats, apart from the share ``OUTLIERS`` of the positions.
        most: the largest of all.
        top1: share of positions where the same token is the most probable.
    """

    tokens: int
    apart: float
    top1: float
    most: float


def check_parity(
    graph: Path,
    embeddings: Path,
    reference: Any,
    *,
    most_apart: float = MOST_APART,
    runtime: TextRuntime = "onnxruntime",
) -> Parity:
    """Compare a graph with the model that it was made from.

    Args:
        graph: the text graph.
        embeddings: the embedding table.
        reference: causal language model of transformers, in float32.
        most_apart: allowed distance, in nats.
        runtime: engine that the graph is for.

    Raises:
        GateRefused: they are further apart, or not finite.
    """
    rng = np.random.default_rng(0)
    vocabulary = reference.get_input_embeddings().weight.shape[0]
    sequences = [rng.integers(0, vocabulary, length + STEPS) for length in LENGTHS]
    with_graph, with_torch = _by_graph(graph, embeddings, sequences, runtime), _by_torch(reference, sequences)
    by_place = np.sort(
        np.concatenate([np.abs(a - b).max(axis=-1) for a, b in zip(with_graph, with_torch, strict=True)])
    )
    apart, most = float(by_place[-1 - int(OUTLIERS * len(by_place))]), float(by_place[-1])  # NaN is sorted to the end
    equal = np.concatenate([a.argmax(-1) == b.argmax(-1) for a, b in zip(with_graph, with_torch, strict=True)])
    parity = Parity(len(equal), apart, float(equal.mean()), most)
    if not (apart <= most_apart and most <= FURTHER * most_apart):
        raise GateRefused(
            f"the text graph's log-probabilities are {most:.2g} nats from torch's, and {apart:.2g} at most of "
            f"{parity.tokens} positions",
            fix="do not use it: the builder does not support this model",
            report=parity,
        )
    return parity


def _by_graph(
    graph: Path, embeddings: Path, sequences: list[npt.NDArray[np.int64]], runtime: TextRuntime
) -> list[npt.NDArray[np.float32]]:
    """Return log-probabilities of the graph.

    It reads the first half of each sequence at once, the second half after it, then one token of all sequences at a
    time.
    """
    session = TextSession(graph, embeddings, sequences=len(sequences), tokens=max(map(len, sequences)), runtime=runtime)
    found: list[list[npt.NDArray[np.float32]]] = [[] for _ in sequences]
    for slot, ids in enumerate(sequences):
        length = len(ids) - STEPS
        half = (length + 1) // 2
        for part in (ids[:half], ids[half:length]):
            if len(part):
                found[slot].append(session.extend(slot, session.embed(part), rows=len(part)).copy())
    for step in range(-STEPS, 0):
        logits = session.step(session.embed(np.array([ids[step] for ids in sequences])))
        for slot, row in enumerate(logits):
            found[slot].append(row[None].copy())
    session.close()
    return [log_probabilities(np.concatenate(parts)) for parts in found]


def _by_torch(reference: Any, sequences: list[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.float32]]:
    torch: Any = require("torch", "export")
    with torch.inference_mode():
        return [
            log_probabilities(reference(input_ids=torch.from_numpy(ids)[None]).logits[0].float().numpy())
            for ids in sequences
        ]
