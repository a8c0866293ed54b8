"""References that compute the logits of an answer, by a torch model or a text graph, with one interface."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from vidrisk.export.text.samples import Parts
from vidrisk.runtimes.contract.errors import require
from vidrisk.runtimes.text.requests import Embeddings, Ids
from vidrisk.runtimes.text.session import TextSession

Logits = npt.NDArray[np.float32]


class TextReference(Protocol):
    """A model that a text graph is compared with."""

    def logits(self, parts: Parts, answer_ids: Ids) -> Logits:
        """Return the logits that each token of an answer is chosen by, ``(len(answer_ids), vocabulary)``.

        Args:
            parts: of the prompt, as ``GateSample.parts``.
            answer_ids: token ids of the answer.
        """
        ...


class TorchReference:
    """A causal language model of transformers in float32, with or without an adapter.

    Tokens are numbered consecutively: a model that numbers visual tokens differently needs its own reference.
    """

    def __init__(self, model: Any) -> None:
        self._torch: Any = require("torch", "export")
        self.model = model.eval()

    def logits(self, parts: Parts, answer_ids: Ids) -> Logits:
        torch = self._torch
        embed = self.model.get_input_embeddings()
        with torch.inference_mode():
            read = [torch.from_numpy(part) for part in (*parts, answer_ids[:-1])]
            every = [embed(part) if part.ndim == 1 else part for part in read]
            found = self.model(
                inputs_embeds=torch.cat(every)[None], use_cache=False, logits_to_keep=len(answer_ids)
            ).logits[0]
            logits: Logits = found.float().cpu().numpy()
        return logits


class GraphReference:
    """A text graph on ONNX Runtime, one sequence at a time; a common beginning of samples is computed once.

    Args:
        graph: the text graph.
        embeddings: the embedding table.
        tokens: longest sequence, prompt plus answer.
        threads: of the engine; None leaves it the choice.
    """

    def __init__(self, graph: Path, embeddings: Path, *, tokens: int, threads: int | None = None) -> None:
        self._session = TextSession(graph, embeddings, sequences=1, tokens=tokens, threads=threads)
        self._first: npt.NDArray[Any] = np.empty(0, np.int64)  # part that the cache begins with

    def logits(self, parts: Parts, answer_ids: Ids) -> Logits:
        session, (first, *others) = self._session, parts
        is_known = len(others) > 0 and len(first) > 0 and np.array_equal(first, self._first)
        new = [self._embed(part) for part in (*([] if is_known else [first]), *others, answer_ids[:-1])]
        session.truncate(0, len(first) if is_known else 0)
        self._first = np.empty(0, np.int64)  # until the call succeeds
        found = session.extend(0, np.concatenate(new), rows=len(answer_ids)).copy()
        self._first = first
        return found

    def _embed(self, part: npt.NDArray[Any]) -> Embeddings:
        return self._session.embed(part) if part.ndim == 1 else part

    def close(self) -> None:
        """Release the graph; calling it twice is safe."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
