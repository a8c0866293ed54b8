"""A test of whether a recipe's graph writes the same fields as floating point, for the recipe search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from vidrisk.export.text.field_figures import Answers, compare_answers, write_answers
from vidrisk.export.text.gate_options import TextGateOptions
from vidrisk.export.text.samples import GateSample, spread
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.text.graph_engine import GraphEngine
from vidrisk.runtimes.text.session import TextSession


class FieldJudge:
    """Judge of graphs by the fields of their answers; those of floating point are written once.

    Args:
        graph: in floating point.
        samples: to answer.
        options: of the gate.
        on_progress: called as answers are written.

    Raises:
        SettingsError: options without a form.
    """

    def __init__(
        self,
        graph: Path,
        samples: Sequence[GateSample],
        options: TextGateOptions,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        if options.form is None:
            raise SettingsError("fields of answers without a form", allowed="the form of a scheme")
        self._graph, self._options, self._form, self._on_progress = graph, options, options.form, on_progress
        self._samples = [samples[place] for place in spread(samples, options.field_samples)]

    def __call__(self, graph: Path) -> str:
        """Return why a graph is refused, or an empty string if it is not."""
        found = compare_answers(self._exact, self._write(graph), self._samples, self._form)
        return self._options.fields.reason(found, self._options.max_drop)

    @cached_property
    def _exact(self) -> Answers:
        return self._write(self._graph)

    def _write(self, graph: Path) -> Answers:
        options = self._options
        session = TextSession(
            graph,
            options.embeddings,
            sequences=options.sequences,
            tokens=options.tokens(self._samples),
            threads=options.threads,
        )
        with GraphEngine(session, options.vocabulary) as engine:
            return write_answers(
                engine, self._samples, self._form, options.answer_tokens, f"answers of {graph.name}", self._on_progress
            )
