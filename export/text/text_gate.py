"""The gate of a language model, which compares every hop with the previous one, from the adapter to packed weights.

    template → prompts      adapter ─► merged ─► text graph fp32 ─► packed in 8, 4 or both
                                       vision ─► vision fp32 ─────► vision int8

Prompts must be equal; exact hops must compute the same; rounded hops may move probabilities a little (``limits``), and
must write the same fields. Free text is never compared word by word.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from vidrisk.calibration.files import graph_files
from vidrisk.export.gate.hops import few_samples_note
from vidrisk.export.gate.report import GateReport, Verdict
from vidrisk.export.gate.text_report import FieldFigures, RecipeTrial, TextHop
from vidrisk.export.text.field_figures import Answers, at_places, compare_answers, write_answers
from vidrisk.export.text.gate_options import GraphVariant, TextGateOptions
from vidrisk.export.text.level_confidence import fit_level_thresholds, fit_temperatures
from vidrisk.export.text.limits import EXACT_GRAPH, EXACT_MERGE, EXACT_VISION, LEAST_COSINE
from vidrisk.export.text.packed_weights import compare_weights
from vidrisk.export.text.references import GraphReference, TextReference
from vidrisk.export.text.samples import GateSample, Visual, spread
from vidrisk.export.text.text_hops import compare_visual, exact_hop, prompt_hop, rounding_hop
from vidrisk.export.text.token_figures import KeptProbabilities, compare_tokens, keep_probabilities
from vidrisk.runtimes.contract.bundle import VariantName
from vidrisk.runtimes.contract.errors import GateRefused, SettingsError
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.text.graph_engine import GraphEngine
from vidrisk.runtimes.text.session import TextSession

FLOAT: VariantName = "fp32"
FIXES = {
    "prompts": "take tokenizer and chat template of the checkpoint that was trained",
    "merged": "merge the adapter once, into the weights that it was trained on",
    "graph": "take graph and embeddings of one export of the merged model",
    "vision": "export the vision stage with the pixels that it was trained on: size, mean, standard deviation, "
    "channel order",
    "rounded": "pack fewer kinds of layers in 4 bits, ship floating point, or allow the drop",
}


def gate_reports(
    reference: TextReference,
    graphs: Sequence[GraphVariant],
    samples: Sequence[GateSample],
    options: TextGateOptions,
    on_progress: OnProgress = ignore_progress,
    *,
    adapter: TextReference | None = None,
    recipes: Sequence[RecipeTrial] = (),
) -> GateReport:
    """Judge a language model hop by hop.

    Args:
        reference: the merged model.
        graphs: variants, ``fp32`` first.
        samples: that judge; they should not have chosen the recipe.
        options: of the gate.
        on_progress: called at each step.
        adapter: the model before merging. It is run on all samples before ``reference`` is run on any, so both may be
            the same model, merged in between.
        recipes: trials of the recipe search, for the report.

    Returns:
        Hops, verdicts, temperatures and thresholds of the level.

    Raises:
        GateRefused: a hop loses more than allowed; ``report`` has the measurements so far.
        SettingsError: no sample, graphs without floating point in front, or prompts longer than the graph's positions.
        DataError: visual tokens or logits have other shapes.
    """
    if not graphs:
        raise _no_samples(samples, graphs)
    with TextGate(reference, graphs[0], samples, options, on_progress, adapter=adapter, recipes=recipes) as gate:
        return gate.judge(graphs[1:])


def _no_samples(samples: Sequence[GateSample], graphs: Sequence[GraphVariant]) -> SettingsError:
    return SettingsError(
        f"{len(samples)} samples and the variants {', '.join(each.name for each in graphs) or 'none'}",
        allowed=f"one sample or more, {FLOAT} and then other variants, each once",
    )


class TextGate:
    """A gate for several sets of variants, one after the other; the exact hops are judged once.

    Args:
        exact: the variant in floating point.
        others: as in ``gate_reports``.
    """

    def __init__(
        self,
        reference: TextReference,
        exact: GraphVariant,
        samples: Sequence[GateSample],
        options: TextGateOptions,
        on_progress: OnProgress = ignore_progress,
        *,
        adapter: TextReference | None = None,
        recipes: Sequence[RecipeTrial] = (),
    ) -> None:
        if not samples or exact.name != FLOAT:
            raise _no_samples(samples, [exact])
        self.reference, self.adapter, self.exact, self.samples, self.options = (
            reference,
            adapter,
            exact,
            samples,
            options,
        )
        self.on_progress = on_progress
        self.places = spread(samples, options.token_samples), spread(samples, options.field_samples)
        """Indices of the samples whose tokens are compared, and of those whose answers are written."""
        self.tokens = options.tokens(samples)
        self.answers: dict[str, Answers] = {}
        """Answers of the variants, by name."""
        # Rounded text, or vision, with the other one in floating point.
        self._halves: list[tuple[GraphVariant, TextHop]] = []
        self._folders = 0
        self.report = GateReport(options.max_drop, len(samples), text_recipes=list(recipes))
        if options.form is not None:
            self.report.note = few_samples_note(len(self.places[1]), options.max_drop)
        self._exact_hops: tuple[TextHop, ...] = ()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="vidrisk-text-gate-")
        self.work = Path(self._folder.name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._folder.cleanup()

    def judge(self, variants: Sequence[GraphVariant]) -> GateReport:
        """Judge floating point and these variants.

        Returns, Raises:
            As ``gate_reports``.
        """
        if len({FLOAT, *(each.name for each in variants)}) != len(variants) + 1:
            raise _no_samples(self.samples, [self.exact, *variants])
        self.judge_exact()
        self.report = replace(self.report, text_hops=list(self._exact_hops), verdicts=[])
        for variant in variants:
            self.judge_rounded(variant)
        self.conclude([self.exact, *variants])
        return self.report

    def judge_exact(self) -> None:
        """Judge the hops that must change nothing, once.

        Raises:
            GateRefused: a hop changes more than rounding does.
        """
        if not self._exact_hops:
            self.judge_prompts()
            self.judge_floats(self.adapter)
            self._exact_hops = tuple(self.report.text_hops)

    def judge_prompts(self) -> None:
        """Compare prompts with those of the reference."""
        self._admit(prompt_hop(self.samples, self.options.vocabulary, self.options.form), "prompts")

    def judge_floats(self, adapter: TextReference | None) -> None:
        """Compare adapter, merged model and graphs in floating point, which must all compute the same."""
        few = self._select(None, self.places[0])
        before = None if adapter is None else self._keep(adapter, few, "adapter")
        merged = self._keep(self.reference, few, "merged")
        if before is not None:
            self._admit(
                exact_hop("adapter → merged", "merged", compare_tokens(before, merged, few), EXACT_MERGE), "merged"
            )
            before.forget()
        self._floats = self._of_graph(self.exact.graph, None, "fp32")
        hop = exact_hop("merged → onnx fp32", FLOAT, compare_tokens(merged, self._floats, few), EXACT_GRAPH)
        self._admit(replace(hop, bytes=_bytes_of(self.exact.graph)), "graph")
        merged.forget()
        if self.exact.visual is not None:
            seen = self._of_graph(self.exact.graph, self.exact.visual, "vision fp32")
            figures = compare_visual([sample.visual for sample in self.samples], self.exact.visual)
            self._admit(
                exact_hop(
                    "vision → onnx fp32",
                    FLOAT,
                    compare_tokens(self._floats, seen, few),
                    EXACT_VISION,
                    figures,
                    LEAST_COSINE,
                ),
                "vision",
            )
            self._floats = seen
        if self.options.form is not None:
            hops = self.report.text_hops
            hops[-1] = replace(
                hops[-1], fields=self._compare_fields(self.exact)
            )  # with itself, for its completeness and accuracy

    def judge_rounded(self, variant: GraphVariant) -> None:
        """Compare a variant with floating point: text and vision separately if both are rounded, then as it ships."""
        name, exact = variant.name, self.exact
        visual = exact.visual if variant.visual is None else variant.visual
        has_both = variant.graph != exact.graph and visual is not exact.visual
        if has_both:
            self._admit(self._half(f"text → {name}", replace(variant, visual=exact.visual)))
            self._admit(self._half(f"vision → {name}", replace(variant, graph=exact.graph, visual=visual)))
        self._admit(self._rounding_hop(f"onnx fp32 → {name}", replace(variant, visual=visual), is_whole=True))

    def conclude(self, variants: Sequence[GraphVariant]) -> None:
        """Admit all variants, and fit temperature and thresholds of their level."""
        form, report = self.options.form, self.report
        answers: dict[str, Answers] = {
            each.name: self.answers[each.name] for each in variants if each.name in self.answers
        }
        for variant in variants:
            waived = [hop.reason for hop in report.text_hops if hop.variant == variant.name and hop.waived]
            report.verdicts.append(Verdict(variant.name, shipped=True, reason="; ".join(dict.fromkeys(waived))))
        if form is not None:
            written = [self.samples[place] for place in self.places[1]]
            report.temperature = fit_temperatures(answers, written, form)
            report.coverage = fit_level_thresholds(answers, report.temperature, written, form, self.options.coverage)

    def _rounding_hop(self, name: str, variant: GraphVariant, *, is_whole: bool) -> TextHop:
        options, few = self.options, self._select(None, self.places[0])
        found = self._of_graph(variant.graph, variant.visual, name)
        tokens = compare_tokens(self._floats, found, few)
        found.forget()
        visual = None
        if variant.visual is not None and variant.visual is not self.exact.visual:
            visual = compare_visual(self._visual_of(self.exact), variant.visual)
        weights = compare_weights(self.exact.graph, variant.graph) if variant.graph != self.exact.graph else None
        fields = (
            self._compare_fields(variant)
            if is_whole and options.form is not None and math.isfinite(tokens.apart)
            else None
        )
        hop = rounding_hop(
            name,
            variant.name,
            tokens,
            options.rounded,
            fields=fields,
            field_limits=options.fields,
            max_drop=options.max_drop,
            visual=visual,
            weights=weights,
            allow_drop=options.allow_drop,
        )
        return replace(hop, bytes=_bytes_of(variant.graph))

    def _half(self, name: str, variant: GraphVariant) -> TextHop:
        """Judge one rounded half of a variant, once: other variants may share it."""
        for known, hop in self._halves:
            if known.graph == variant.graph and known.visual is variant.visual:
                return replace(hop, name=name, variant=variant.name)
        self._halves.append((variant, self._rounding_hop(name, variant, is_whole=False)))
        return self._halves[-1][1]

    def _compare_fields(self, variant: GraphVariant) -> FieldFigures:
        form, places = self.options.form, self.places[1]
        assert form is not None
        self._write(variant)
        found = compare_answers(
            self.answers[FLOAT], self.answers[variant.name], [self.samples[place] for place in places], form
        )
        return at_places(found, places)

    def _write(self, variant: GraphVariant) -> None:
        """Make a variant write its answers."""
        options = self.options
        if options.form is not None:
            session = TextSession(
                variant.graph,
                options.embeddings,
                sequences=options.sequences,
                tokens=self.tokens,
                threads=options.threads,
            )
            with GraphEngine(session, options.vocabulary) as engine:
                self.answers[variant.name] = write_answers(
                    engine,
                    self._select(variant.visual, self.places[1]),
                    options.form,
                    options.answer_tokens,
                    f"answers of {variant.name}",
                    self.on_progress,
                )

    def _of_graph(self, graph: Path, visual: Visual | None, what: str) -> KeptProbabilities:
        options = self.options
        with GraphReference(graph, options.embeddings, tokens=self.tokens, threads=options.threads) as reference:
            return self._keep(reference, self._select(visual, self.places[0]), what)

    def _keep(self, reference: TextReference, samples: Sequence[GateSample], what: str) -> KeptProbabilities:
        self._folders += 1
        return keep_probabilities(
            reference, samples, self.work / str(self._folders), f"judging {what}", self.on_progress
        )

    def _visual_of(self, variant: GraphVariant) -> Visual:
        """Return the visual tokens of all samples for a variant."""
        return [sample.visual for sample in self.samples] if variant.visual is None else variant.visual

    def _select(self, visual: Visual | None, places: Sequence[int]) -> list[GateSample]:
        """Return some of the samples, with visual tokens of a vision stage."""
        return [
            self.samples[place] if visual is None else self.samples[place].with_visual(visual[place])
            for place in places
        ]

    def _admit(self, hop: TextHop, fix: str = "rounded") -> None:
        """Add a hop to the report.

        Raises:
            GateRefused: it loses more than allowed.
        """
        self.report.text_hops.append(hop)
        if not hop.passed:
            self.report.verdicts.append(Verdict(hop.variant, shipped=False, reason=hop.reason))
            raise GateRefused(
                f"the gate refused {hop.name}, no bundle was written: {hop.reason}", fix=FIXES[fix], report=self.report
            )


def _bytes_of(graph: Path) -> int:
    return sum(file.stat().st_size for file in graph_files(graph))
