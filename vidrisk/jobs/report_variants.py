"""Choice of the variant with fewer bits that ships with a model that writes reports.

It is the first that the gate admits and whose fields are those of floating point, else the closest of those admitted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidrisk.export.gate.report import GateReport, Verdict
from vidrisk.export.gate.selection import agreement_aim
from vidrisk.export.gate.text_report import VariantTrial
from vidrisk.export.text.gate_options import GraphVariant
from vidrisk.export.text.packing import INT8, TextRecipe, pack_text
from vidrisk.export.text.recipe_search import RecipeChoice
from vidrisk.export.text.report_bundle import ReportVariant
from vidrisk.export.text.samples import Visual
from vidrisk.export.text.text_gate import TextGate
from vidrisk.export.trained import ExportOptions
from vidrisk.runtimes.contract.bundle import VariantName
from vidrisk.runtimes.contract.errors import GateRefused
from vidrisk.runtimes.contract.manifest import TEXT, Precision

log = logging.getLogger(__name__)

VISION = "vision"
NAME: VariantName = "int8"


@dataclass(frozen=True, eq=False)
class NarrowVision:
    """The vision stage in INT8.

    Attributes:
        visual: tokens that it computes for the samples that judge.
        float_blocks: its blocks that stay in floating point.
    """

    path: Path
    visual: Visual
    float_blocks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"vision in INT8{f', {len(self.float_blocks)} blocks of it in float32' if self.float_blocks else ''}"

    @property
    def precision(self) -> Precision:
        return "mixed" if self.float_blocks else "int8"


@dataclass(frozen=True)
class Candidate:
    """A variant to offer to the gate.

    Attributes:
        recipe: of the text; None leaves it in floating point.
        vision: None leaves it in floating point.
    """

    recipe: TextRecipe | None
    vision: NarrowVision | None

    def __str__(self) -> str:
        return f"{self.recipe or 'text in float32'}{f', {self.vision}' if self.vision else ''}"


def choose_variant(
    gate: TextGate,
    exact: ReportVariant,
    choice: RecipeChoice,
    narrow: Iterable[NarrowVision],
    work: Path,
    options: ExportOptions,
) -> tuple[GateReport, list[ReportVariant]]:
    """Offer variants to the gate, those with most in few bits first.

    Args:
        gate: that judges.
        exact: the variant in floating point.
        choice: how the text's weights may be packed.
        narrow: vision stages with the fewest blocks in floating point first, each made on demand.
        work: folder for packed graphs.
        options: of the export.

    Returns:
        The gate's report, and the variant: the first whose fields agree with those of floating point
            (``agreement_aim``, or in all answers but one), else the one of those admitted that agrees in most answers.
            If any drop is allowed, the first that is admitted is taken. Once a variant is admitted, the search stops
            after ``options.search_s``. There is no variant if the gate admits none: then the report has the reasons.

    Raises:
        GateRefused: no variant is admitted and the options require one, or an exact hop is refused.
    """
    gate.judge_exact()
    return _Choice(gate, exact, choice, _Kept(narrow), work, options).run()


class _Kept:
    """Cache of the items of an iterable, so that several loops make each item once."""

    def __init__(self, source: Iterable[NarrowVision]) -> None:
        self._source, self._made = iter(source), list[NarrowVision]()

    def __iter__(self) -> Iterator[NarrowVision]:
        place = 0
        while True:
            if place == len(self._made):
                following = next(self._source, None)
                if following is None:
                    return
                self._made.append(following)
            yield self._made[place]
            place += 1


@dataclass
class _Choice:
    gate: TextGate
    exact: ReportVariant
    choice: RecipeChoice
    narrow: _Kept
    work: Path
    options: ExportOptions
    trials: list[VariantTrial] = field(default_factory=list)
    best: tuple[Candidate, GateReport] | None = None
    refused: list[TextRecipe | NarrowVision] = field(default_factory=list)  # halves refused on their own

    def run(self) -> tuple[GateReport, list[ReportVariant]]:
        self.search(time.monotonic() + self.options.search_s)
        if self.best is not None:
            chosen, report = self.best
            trials = [replace(trial, chosen=trial.what == str(chosen)) for trial in self.trials]
            return replace(report, text_variants=trials), [self.variant(chosen)]
        refusals = [f"{trial.what}: {trial.reason}" for trial in self.trials]
        if self.options.only == NAME:
            raise GateRefused(
                f"the gate refused every variant with fewer bits, no bundle was written: {refusals[-1]}"
                if refusals
                else "no part of the model can be packed",
                fix="ship floating point, or allow the drop",
            )
        report = replace(self.gate.judge([]), text_variants=self.trials)
        report.verdicts.append(
            Verdict(NAME, shipped=False, reason="; ".join(refusals) or "no recipe is inside the limits")
        )
        return report, []

    def search(self, end: float) -> None:
        best = 0.0
        for candidate in self.candidates():
            if self.best is not None and time.monotonic() > end:
                log.info("the search for a variant that changes fewer fields ran out of time")
                return
            report = self.judge_candidate(candidate)
            if report is None:
                continue
            agreement, answers = _agreement_in(report)
            # A difference of one answer is not significant.
            if self.best is None or (agreement is not None and agreement > best + 1.5 / answers):
                self.best, best = (candidate, report), agreement or 0.0
            if agreement is None or self.options.allow_drop or _is_enough(agreement, answers, self.options.max_drop):
                return

    def candidates(self) -> Iterator[Candidate]:
        """Yield candidates with most in few bits first.

        The text in floating point follows if no packed one was admitted.
        """
        for recipe in dict.fromkeys((self.choice.recipe, INT8) if self.choice.recipe is not None else ()):
            for vision in self.narrow:
                if vision not in self.refused and recipe not in self.refused:
                    yield Candidate(recipe, vision)
            if recipe not in self.refused:
                yield Candidate(recipe, None)
        if self.best is None:
            yield from (Candidate(None, vision) for vision in self.narrow if vision not in self.refused)

    def judge_candidate(self, candidate: Candidate) -> GateReport | None:
        """Let the gate judge a candidate; return None if it refuses."""
        float_blocks = candidate.vision.float_blocks if candidate.vision is not None else ()
        visual = None if candidate.vision is None else candidate.vision.visual
        try:
            report = self.gate.judge([GraphVariant(NAME, self.graph(candidate), visual)])
        except GateRefused as refusal:
            hop = refusal.report.text_hops[-1] if refusal.report is not None else None
            if hop is None or hop.variant != NAME or (self.options.strict and self.best is None):
                raise
            for half, kind in ((candidate.recipe, "text →"), (candidate.vision, "vision →")):
                if half is not None and hop.name.startswith(kind):
                    self.refused.append(half)
            self.trials.append(VariantTrial(str(candidate), float_blocks, None, hop.reason))
            log.warning("the gate refuses %s: %s", candidate, hop.reason)
            return None
        agreement, _ = _agreement_in(report)
        self.trials.append(VariantTrial(str(candidate), float_blocks, agreement, ""))
        if agreement is not None:
            log.info("%s: fields agree in %.1f %% of the answers", candidate, 100 * agreement)
        return report

    def graph(self, candidate: Candidate) -> Path:
        """Return the graph of the text, packing it if that was not done before."""
        if candidate.recipe is None:
            return self.exact.text
        path = self.work / f"{TEXT}.{self.precision(candidate)}.onnx"
        if not path.exists():
            pack_text(self.exact.text, path, candidate.recipe)
        return path

    def precision(self, candidate: Candidate) -> Precision:
        if candidate.recipe is None:
            return "fp32"
        return self.choice.precision if candidate.recipe == self.choice.recipe else "int8-weight-only"

    def variant(self, candidate: Candidate) -> ReportVariant:
        vision = candidate.vision
        precision: dict[str, Precision] = {
            VISION: vision.precision if vision is not None else "fp32",
            TEXT: self.precision(candidate),
        }
        files = self.exact.stages if vision is None else {VISION: vision.path}
        return ReportVariant(NAME, files, self.graph(candidate), precision)


def _agreement_in(report: GateReport) -> tuple[float | None, int]:
    """Return the agreement of fields with floating point, and the number of answers.

    The agreement is the share of answers in which the field that changes most is unchanged; None if nothing was
    compared.
    """
    fields = report.text_hops[-1].fields
    shares: Sequence[float] = (
        () if fields is None else [share for share in fields.agreement.values() if share == share]
    )  # no NaN
    return (min(shares), fields.samples) if shares and fields is not None else (None, 0)


def _is_enough(agreement: float, answers: int, max_drop: float) -> bool:
    return (1 - agreement) * answers < max(1.5, (1 - agreement_aim(max_drop)) * answers + 1e-9)
