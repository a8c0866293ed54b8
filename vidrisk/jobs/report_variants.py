"""Which variant with fewer bits ships with a model that writes reports: the one with most in few bits that the gate admits."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidrisk.export.gate.report import GateReport, Verdict
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
AGREEMENT = 0.98  # of each level and choice with floating point: enough to look no further
NAME: VariantName = "int8"


@dataclass(frozen=True)
class NarrowVision:
    """The vision stage in INT8.

    Attributes:
        visual: tokens that it makes of the samples that judge.
        float_blocks: of it, that stay in floating point.
    """

    path: Path
    visual: Visual
    float_blocks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"vision in INT8{f', {len(self.float_blocks)} blocks of it in float32' if self.float_blocks else ''}"

    @property
    def precision(self) -> Precision:
        return "mixed" if self.float_blocks else "int8"


def choose_variant(gate: TextGate, exact: ReportVariant, choice: RecipeChoice, narrow: Sequence[NarrowVision], work: Path,
                   options: ExportOptions) -> tuple[GateReport, list[ReportVariant]]:
    """Offer variants to the gate, those with most in few bits first, until one writes the fields that floating point writes.

    Args:
        exact: the variant in floating point.
        choice: how the text's weights may be packed.
        narrow: those with fewest blocks in floating point first.
        work: folder for packed graphs.

    Returns:
        The gate's report; the first variant that agrees in ``AGREEMENT`` of the answers, else the one of those that the gate admits
        that agrees in most, or none where it admits none: then the report has the reasons. ``options.search_s`` after it began, and
        where any drop is allowed, the first that is admitted is taken.

    Raises:
        GateRefused: none, and the options want one; or a hop that is exact.
    """
    refusals: list[str] = []
    best: tuple[float, GateReport, ReportVariant] | None = None
    end = time.monotonic() + options.search_s
    for recipe, vision in _candidates(choice, narrow):
        if best is not None and (best[0] >= AGREEMENT or options.allow_drop or time.monotonic() > end):
            break
        text, precision = exact.text, _precision_of(choice, recipe)
        if recipe is not None:
            text = work / f"{TEXT}.{precision}.onnx"
            if not text.exists():
                pack_text(exact.text, text, recipe)
        said = f"{recipe or 'text in float32'}{f', {vision}' if vision else ''}"
        try:
            report = gate.judge([GraphVariant(NAME, text, None if vision is None else vision.visual)])
        except GateRefused as refusal:
            hop = refusal.report.text_hops[-1] if refusal.report is not None else None
            if hop is None or hop.variant != NAME or options.strict:
                raise
            refusals.append(f"{said}: {hop.reason}")
            log.warning("the gate refuses %s", refusals[-1])
            continue
        agreement = _agreement_in(report)
        log.info("%s: fields agree in %.1f %% of the answers", said, 100 * agreement)
        if best is None or agreement > best[0]:
            files = exact.stages if vision is None else {VISION: vision.path}
            precisions: dict[str, Precision] = {VISION: vision.precision if vision else "fp32", TEXT: precision}
            best = agreement, report, ReportVariant(NAME, files, text, precisions)
    if best is not None:
        return best[1], [best[2]]
    if options.only == NAME:
        raise GateRefused(f"the gate refused every variant with fewer bits, no bundle was written: {refusals[-1]}" if refusals
                          else "nothing of the model can be packed", fix="ship floating point, or allow the drop")
    report = gate.judge([])
    report.verdicts.append(Verdict(NAME, shipped=False, reason="; ".join(refusals) or "no recipe is inside the limits"))
    return report, []


def _agreement_in(report: GateReport) -> float:
    """Share of the answers in which the field that changes most is what floating point writes; 1 where there are no fields."""
    fields = report.text_hops[-1].fields
    return min(fields.agreement.values(), default=1.0) if fields is not None else 1.0


def _candidates(choice: RecipeChoice,
                narrow: Sequence[NarrowVision]) -> Iterator[tuple[TextRecipe | None, NarrowVision | None]]:
    """Recipes of the text, and the vision stage, those with most in few bits first."""
    for recipe in dict.fromkeys((choice.recipe, INT8) if choice.recipe is not None else ()):
        yield from ((recipe, vision) for vision in (*narrow, None))
    yield from ((None, vision) for vision in narrow)


def _precision_of(choice: RecipeChoice, recipe: TextRecipe | None) -> Precision:
    if recipe is None:
        return "fp32"
    return choice.precision if recipe == choice.recipe else "int8-weight-only"
