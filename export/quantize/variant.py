"""Quantized variants: the blocks of each stage searched, the result admitted on every runtime, all of it noted in the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vidrisk.calibration.files import save_graph
from vidrisk.calibration.points import Budget
from vidrisk.export.gate.judge import Files, SearchJudge
from vidrisk.export.gate.keeper import Gatekeeper
from vidrisk.export.gate.outputs import Outputs
from vidrisk.export.gate.report import Selection
from vidrisk.export.gate.selection import agreement_aim, estimate_optimism
from vidrisk.export.plans import Plan
from vidrisk.export.quantize.feeds import CalibrationFrames, feeds_of_stages
from vidrisk.export.quantize.int8 import Quantized, quantize_stage
from vidrisk.export.trained import ExportOptions
from vidrisk.runtimes.contract.bundle import Precision, VariantName
from vidrisk.runtimes.contract.progress import OnProgress

MOST_REFUSALS = 2  # of points by the samples that judge, before the export is refused: each further try is one more chance for luck


@dataclass(frozen=True)
class QuantizedVariant:
    """What one plan came to.

    Attributes:
        outputs: on the runtime that was searched on.
        precision: of the stages that were quantized.
    """

    name: VariantName
    files: Files
    outputs: Outputs
    precision: Mapping[str, Precision]


@dataclass(frozen=True)
class VariantQuantizer:
    """Quantizes the stages of float files that do nearly all the work, for one plan after the other.

    Attributes:
        stages: names of those to quantize, in their order.
        work, cache: folders for files of this export, and for what further ones may use.
    """

    gate: Gatekeeper
    options: ExportOptions
    stages: tuple[str, ...]
    calibration: CalibrationFrames
    work: Path
    cache: Path
    on_progress: OnProgress

    def quantize(self, plan: Plan, source: Files, computed: Mapping[str, Outputs],
                 floats: Mapping[str, Outputs]) -> QuantizedVariant:
        """Search a variant that the gate admits on every runtime.

        Args:
            source: the float files to quantize; ``computed`` is what they compute, by runtime.
            floats: what the result is compared with.

        Raises:
            GateRefused: there is none.
        """
        refused: dict[str, dict[tuple[str, ...], str]] = {name: {} for name in self.stages}
        while True:
            # What the choosing samples cannot show, the judging ones may; from then on figures count as they are.
            tries = sum(map(len, refused.values()))
            budget = Budget(self.options.max_drop, agreement_aim(self.options.max_drop), self.options.search_s,
                            self.options.max_confidence_drop, is_strict=bool(tries))
            found, files = self._search(plan, source, floats, budget, refused)
            name = plan.name(is_mixed=any(each.search.best.float_blocks for each in found.values()))
            for stage, each in found.items():
                files[stage] = self.work / f"{stage}.{name}.onnx"
                save_graph(each.model, files[stage])
            after = self.gate.outputs(f"onnx fp32 → {name}", files, floats)
            last = [*found.values()][-1]
            self.gate.match(name, after[last.runtime])
            hops = [self.gate.lossy(f"onnx fp32 → {name}", name, r, floats[r], outputs) for r, outputs in after.items()]
            reason = next((hop.reason for hop in hops if hop.reason), "")
            culprit = min(found, key=lambda stage: found[stage].sqnr_db)
            best = found[culprit].search.best.float_blocks
            if not reason or best in refused[culprit] or tries == MOST_REFUSALS:
                break
            refused[culprit][best] = reason
        self._describe(plan, found, budget, refused)
        for stage, each in found.items():
            if each.migrated is not None:
                path = self.work / f"{stage}.migrated.onnx"
                save_graph(each.migrated, path)
                same = self.gate.judge.onnx(each.runtime, {**source, stage: path})
                self.gate.admit([self.gate.exact("onnx fp32 → migrated", "migrated", each.runtime, computed[each.runtime], same)])
        self.gate.admit(hops)
        precision: dict[str, Precision] = {stage: "mixed" if each.search.best.float_blocks else "int8"
                                           for stage, each in found.items()}
        return QuantizedVariant(name, files, after[last.runtime], precision)

    def _search(self, plan: Plan, source: Files, floats: Mapping[str, Outputs], budget: Budget,
                refused: Mapping[str, Mapping[tuple[str, ...], str]]) -> tuple[dict[str, Quantized], Files]:
        """Quantise one stage after the other; what was found, by stage, and the files."""
        choosing = self.gate.parts.choosing
        stages = replace(self.gate.judge, validation=self.gate.judge.validation.at(choosing))
        references = {runtime: outputs.at(choosing) for runtime, outputs in floats.items()}
        files, found = dict(source), dict[str, Quantized]()
        for name, feeds in feeds_of_stages(self.gate.judge, source, self.stages, self.calibration).items():
            given = {runtime: stages.onnx(runtime, files) for runtime in references} if found else references
            judges = {runtime: SearchJudge(stages, runtime, name, dict(files), reference, given[runtime], self.gate.temperature)
                      for runtime, reference in references.items()}
            found[name] = quantize_stage(source[name], feeds, plan.profile, judges, budget, self.cache, self.on_progress,
                                         refused[name])
            files[name] = self.work / f"{name}.searched.onnx"
            save_graph(found[name].model, files[name])
        return found, files

    def _describe(self, plan: Plan, found: Mapping[str, Quantized], budget: Budget,
                  refused: Mapping[str, Mapping[tuple[str, ...], str]]) -> None:
        report, parts = self.gate.report, self.gate.parts
        report.calibration |= {"frames": self.calibration.count, f"profile{plan.suffix}": plan.profile.name}
        reasons, set_aside, optimism, best = [], [], [], []
        for stage, each in found.items():
            search, prefix = each.search, plan.suffix.removeprefix("-") + " " if plan.suffix else ""
            prefix += f"{stage}: " if len(found) > 1 else ""
            report.calibration[f"{prefix}recipe"] = next(str(trial.recipe) for trial in each.trials if trial.chosen)
            report.recipe += [{"name": f"{prefix}{trial.recipe}", "sqnr_db": trial.sqnr_db, "chosen": trial.chosen}
                              for trial in each.trials]
            report.search += [{**vars(row), "block": f"{prefix}{row.block}"} for row in search.rows]
            for point in search.points:
                chosen = search.reason if point == search.best else ""
                report.points.append({**point.to_row(chosen, refused[stage].get(point.float_blocks, "")), "stage": stage})
            reasons.append(f"{prefix}{search.reason}")
            set_aside += [f"{prefix}{len(blocks)} blocks in floating point: {reason}" for blocks, reason in refused[stage].items()]
            estimate = None if parts.is_separate else estimate_optimism(search.points, budget)
            optimism += [] if estimate is None else [estimate]
            outcome = search.best.outcome
            best.append(f"{prefix}{len(search.best.float_blocks)} blocks in floating point, {outcome.agreement:.1%} agreement, "
                        f"{outcome.drop_points:.2f} points of drop on the {len(parts.choosing)} samples that chose it")
        report.selection = Selection(len(parts.choosing), len(parts.judging), parts.is_separate, "; ".join(reasons),
                                     "; ".join(set_aside), max(optimism, default=None))
        self.gate.best = "; ".join(best)
