"""Recipe search: the fewest bits for the weights of a text graph that stay inside the gate's limits.

    int4 in groups of 32, output layer in 8 bits ─► inside: chosen
          │ not inside
    int8 everywhere ─► not inside: floating point
          │ inside
    int4, with the kinds of layers in 8 bits that cost most for their bytes, as few as suffice

The cost of a kind of layers is measured on a few samples, by a graph in which only this kind is packed.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from vidrisk.calibration.files import SHARED, load_graph, save_trial
from vidrisk.calibration.nbits import WeightGrid
from vidrisk.calibration.weight_only import Packing, WeightPacker
from vidrisk.export.gate.text_report import RecipeTrial, TokenFigures
from vidrisk.export.text.limits import ROUNDED, TokenLimits
from vidrisk.export.text.packing import INT4, INT8, TextRecipe
from vidrisk.export.text.references import GraphReference
from vidrisk.export.text.samples import GateSample, spread
from vidrisk.export.text.token_figures import KeptProbabilities, compare_tokens, keep_probabilities
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.manifest import Precision
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress

log = logging.getLogger(__name__)

PROBES = 4  # number of samples for measuring the cost of a kind of layers
Judge = Callable[[Path], str]


@dataclass(frozen=True)
class SearchOptions:
    """Options of the search.

    Attributes:
        seconds: no further recipe is tried after this time; int4 and int8 are tried in any case.
        samples: limit on the compared samples.
        limits: of the tokens.
        max_perplexity_rise: 0.03 allows the perplexity of the reference answers to rise by 3 %; None uses that of
            ``limits``.
    """

    seconds: float = 900
    samples: int = 16
    limits: TokenLimits = ROUNDED
    max_perplexity_rise: float | None = None
    threads: int | None = None

    @property
    def effective(self) -> TokenLimits:
        rise = self.max_perplexity_rise
        return self.limits if rise is None else replace(self.limits, perplexity_rise=rise)


@dataclass(frozen=True)
class RecipeChoice:
    """Result of the search.

    Attributes:
        recipe: None if nothing may be packed.
        precision: of the text in ``bundle.json``.
        tokens: effect of the recipe on the probabilities; None without a recipe.
        trials: everything that was tried, for the report.
    """

    recipe: TextRecipe | None
    precision: Precision
    tokens: TokenFigures | None
    trials: tuple[RecipeTrial, ...]


def choose_recipe(
    graph: Path,
    embeddings: Path,
    samples: Sequence[GateSample],
    options: SearchOptions | None = None,
    on_progress: OnProgress = ignore_progress,
    judge: Judge | None = None,
) -> RecipeChoice:
    """Choose how the weights of a text graph are packed.

    Args:
        graph: in float32, of ``export_text``.
        embeddings: the embedding table.
        samples: that choose; the result should be judged by others.
        options: of the search.
        on_progress: called at each step.
        judge: additional test of the graph of a recipe inside the limits, such as ``FieldJudge``: returns why it is
            refused, or ''.

    Raises:
        SettingsError: there is no sample.
        DataError: a weight is not finite.
    """
    if not samples:
        raise SettingsError("no sample to choose a recipe by", allowed="one or more")
    options = SearchOptions() if options is None else options
    with tempfile.TemporaryDirectory(prefix=f".{SHARED}-", dir=graph.parent) as work:
        return _Search(graph, embeddings, samples, options, Path(work), on_progress, judge).choice()


@dataclass
class _Search:
    graph: Path
    embeddings: Path
    samples: Sequence[GateSample]
    options: SearchOptions
    work: Path
    on_progress: OnProgress
    judge: Judge | None
    tried: dict[TextRecipe, RecipeTrial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.options.seconds
        self.samples = [self.samples[place] for place in spread(self.samples, self.options.samples)]
        self.tokens = max(sum(map(len, sample.parts)) + len(sample.answer) for sample in self.samples)
        self.packer = WeightPacker(load_graph(self.graph, self.work), self.work)
        self.exact = self._keep(self.packer.model, self.samples, "exact")

    def choice(self) -> RecipeChoice:
        """Try recipes until one is inside the limits."""
        if not self.packer.nodes:
            return self._make_choice(None)
        narrow = self._narrow()
        if self._is_inside(narrow):
            return self._make_choice(narrow)
        if not self._is_inside(INT8):
            return self._make_choice(None)
        return self._make_choice(self._widen(narrow))

    def _narrow(self) -> TextRecipe:
        """Return the initial recipe; a model's output layer may be tied to something that is not packed."""
        wide = tuple(kind for kind in INT4.packing.wide if kind in self.packer.kinds)
        return replace(INT4, packing=replace(INT4.packing, wide=wide))

    def _widen(self, narrow: TextRecipe) -> TextRecipe:
        """Search the fewest kinds of layers in 8 bits that suffice."""
        wide, grid = narrow.packing.wide, narrow.packing.grid
        kinds = [kind for kind in self.packer.kinds if kind not in wide]
        costs = {kind: cost for kind in kinds if (cost := self._cost(kind, grid)) is not None}
        if len(costs) < len(kinds):
            return INT8
        order = sorted(kinds, key=lambda kind: -costs[kind])
        too_few, enough, best = 0, len(order), INT8
        while enough - too_few > 1 and time.monotonic() < self.end:
            middle = (too_few + enough) // 2
            recipe = TextRecipe(Packing(grid, (*wide, *order[:middle])))
            if self._is_inside(recipe):
                enough, best = middle, recipe
            else:
                too_few = middle
        return best

    def _cost(self, kind: str, grid: WeightGrid) -> float | None:
        """Return the divergence per byte that 4 bits save in one kind of layers, or None if time is over."""
        if time.monotonic() >= self.end:
            return None
        few = self.samples[:PROBES]
        others = [name for name in self.packer.nodes if name not in self.packer.kinds[kind]]
        found = self._keep(self.packer.pack(Packing(grid), others), few, f"4 bits in {kind}")
        saved = self.packer.size_bytes(Packing(grid, (kind,))) - self.packer.size_bytes(Packing(grid))
        return compare_tokens(self.exact, found, few).kl / max(saved, 1)

    def _is_inside(self, recipe: TextRecipe) -> bool:
        path = self.work / "trial.onnx"
        packed = self.packer.pack(recipe.packing)
        found = self._keep(packed, self.samples, str(recipe))
        tokens = compare_tokens(self.exact, found, self.samples)
        reason = self.options.effective.reason(tokens)
        if not reason and self.judge is not None:
            reason = self.judge(path)
        self.tried[recipe] = RecipeTrial(str(recipe), self.packer.size_bytes(recipe.packing), tokens, reason)
        log.info("%s: %s", recipe, reason or "inside the limits")
        return not reason

    def _keep(self, model: onnx.ModelProto, samples: Sequence[GateSample], what: str) -> KeptProbabilities:
        path = self.work / "trial.onnx"
        save_trial(model, path)
        with GraphReference(path, self.embeddings, tokens=self.tokens, threads=self.options.threads) as reference:
            folder = self.work / ("exact" if what == "exact" else "trial")
            return keep_probabilities(reference, samples, folder, f"trying {what}", self.on_progress)

    def _make_choice(self, recipe: TextRecipe | None) -> RecipeChoice:
        trials = tuple(replace(trial, chosen=tried == recipe) for tried, trial in self.tried.items())
        if recipe is None:
            return RecipeChoice(None, "fp32", None, trials)
        precision: Precision = "int8-weight-only" if recipe == INT8 else "int4"
        return RecipeChoice(recipe, precision, self.tried[recipe].tokens, trials)
