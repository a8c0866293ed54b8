"""Quantised variants: searched block by block, admitted on every runtime, and recorded in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidrisk.calibration.files import SHARED, load_graph, save_graph
from vidrisk.calibration.points import Budget
from vidrisk.calibration.weight_only import WeightPacker
from vidrisk.export.gate.judge import Files, SearchJudge
from vidrisk.export.gate.keeper import Gatekeeper
from vidrisk.export.gate.outputs import Outputs
from vidrisk.export.gate.report import Selection, Verdict
from vidrisk.export.gate.selection import agreement_aim, estimate_optimism
from vidrisk.export.plans import Plan, plans_of
from vidrisk.export.quantize.feeds import CalibrationFrames, feeds_of_stages
from vidrisk.export.quantize.int8 import quantize_stage
from vidrisk.export.quantize.quantized import Quantized
from vidrisk.export.quantize.weight_bits import pack_stage
from vidrisk.export.trained import ExportOptions
from vidrisk.runtimes.contract.bundle import Precision, VariantName
from vidrisk.runtimes.contract.choices import Quantization
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.progress import OnProgress

Refused = dict[str, dict[tuple[str, ...], str]]  # refusal reasons on the judging samples, by stage and ``Point.choice``
PACKED_FOR_PROCESSORS = "not quantised: packed weights are for processors, and FP16 is for GPUs"
# Points that the judging samples may refuse before the export is refused: each further try is another chance for luck.
MOST_REFUSALS = 2


@dataclass(frozen=True)
class QuantizedVariant:
    """Result of one plan.

    Attributes:
        outputs: on the runtime that the search ran on.
        precision: of the quantised stages.
    """

    name: VariantName
    files: Files
    outputs: Outputs
    precision: Mapping[str, Precision]


@dataclass(frozen=True)
class VariantQuantizer:
    """Quantiser of the stages of float files that do nearly all the work, one plan after the other.

    Attributes:
        stages: how each stage is quantised, by name, in order.
        calibration: None if no stage is quantised by integers.
        work, cache: folders for files of this export, and for files that later ones may reuse.
    """

    gate: Gatekeeper
    options: ExportOptions
    stages: Mapping[str, Quantization]
    calibration: CalibrationFrames | None
    work: Path
    cache: Path
    on_progress: OnProgress
    _packers: dict[Path, WeightPacker] = field(default_factory=dict, init=False, repr=False)

    def stages_for(self, plan: Plan) -> tuple[str, ...]:
        """Return the names of the stages that a plan quantises, in order.

        Kernels for packed weights are only for CPUs.
        """
        return tuple(name for name, how in self.stages.items() if how == "integers" or plan.engines == "processor")

    def plans(self) -> list[Plan]:
        """Return the plans of the target that have stages to quantise.

        Stages that are not quantised for TensorRT are noted in the report.

        Raises:
            SettingsError: only INT8 is requested, and there is none for this target, or none for one of its engines.
        """
        report, packed = self.gate.report, [name for name, how in self.stages.items() if how == "weights"]
        every = plans_of(self.options.target)
        wanted = [plan for plan in every if self.stages_for(plan)]
        if len(wanted) < len(every) and self.options.only == "int8":
            raise SettingsError(
                f"int8 alone for the target {self.options.target}, of a model whose weights are to be packed: "
                "TensorRT would have no variant",
                allowed="int8 alone for the target cpu",
                fix="ship fp16, or every variant",
            )
        for plan in every:
            left = set(packed).difference(self.stages_for(plan))
            report.calibration |= {f"{name} for TensorRT": PACKED_FOR_PROCESSORS for name in packed if name in left}
            if plan not in wanted:
                report.verdicts.append(Verdict(plan.name(is_mixed=False), shipped=False, reason=PACKED_FOR_PROCESSORS))
        return wanted

    def leaves_out(self, plans: Sequence[Plan]) -> bool:
        """Return whether a plan of the target is left out; FP16 takes its place."""
        return len(plans) < len(plans_of(self.options.target))

    def quantize(
        self, plan: Plan, source: Files, computed: Mapping[str, Outputs], floats: Mapping[str, Outputs]
    ) -> QuantizedVariant:
        """Search a variant that the gate admits on every runtime.

        Args:
            plan: how to quantise.
            source: the float files to quantise.
            computed: outputs of ``source``, by runtime.
            floats: outputs to compare the result with.

        Raises:
            GateRefused: there is none.
        """
        refused: Refused = {name: {} for name in self.stages_for(plan)}
        aside: list[str] = []
        while True:
            # The judging samples may show what the choosing samples cannot; from then on, figures count at face value.
            tries = sum(map(len, refused.values()))
            budget = Budget(
                self.options.max_drop,
                agreement_aim(self.options.max_drop),
                self.options.search_s,
                self.options.max_confidence_drop,
                is_strict=bool(tries),
            )
            found, files = self._search(plan, source, floats, budget, refused)
            name = plan.name(is_mixed=any(each.is_mixed for each in found.values()))
            for stage, each in found.items():
                files[stage] = self.work / f"{stage}.{name}.onnx"
                save_graph(each.model, files[stage])
            after = self.gate.outputs(f"onnx fp32 → {name}", files, floats)
            last = [*found.values()][-1]
            self.gate.match(name, after[last.runtime])
            hops = [self.gate.lossy(f"onnx fp32 → {name}", name, r, floats[r], outputs) for r, outputs in after.items()]
            reason = next((hop.reason for hop in hops if hop.reason), "")
            culprit = min(found, key=lambda stage: found[stage].sqnr_db)
            best = found[culprit].search.best
            if not reason or best.choice in refused[culprit] or tries == MOST_REFUSALS:
                break
            refused[culprit][best.choice] = reason
            aside.append(f"{self._prefix(plan, culprit, found)}{best.in_words}: {reason}")
        self._describe(plan, found, budget, refused, aside)
        for stage, each in found.items():
            if each.migrated is not None:
                path = self.work / f"{stage}.migrated.onnx"
                save_graph(each.migrated, path)
                same = self.gate.judge.onnx(each.runtime, {**source, stage: path})
                self.gate.admit(
                    [self.gate.exact("onnx fp32 → migrated", "migrated", each.runtime, computed[each.runtime], same)]
                )
        self.gate.admit(hops)
        precision: dict[str, Precision] = {stage: each.precision for stage, each in found.items()}
        return QuantizedVariant(name, files, after[last.runtime], precision)

    def _search(
        self, plan: Plan, source: Files, floats: Mapping[str, Outputs], budget: Budget, refused: Refused
    ) -> tuple[dict[str, Quantized], Files]:
        """Quantise one stage after the other; return the results by stage, and the files."""
        choosing = self.gate.parts.choosing
        stages = replace(self.gate.judge, validation=self.gate.judge.validation.at(choosing))
        references = {runtime: outputs.at(choosing) for runtime, outputs in floats.items()}
        files, found = dict(source), dict[str, Quantized]()
        for name in self.stages_for(plan):
            given = {runtime: stages.onnx(runtime, files) for runtime in references} if found else references
            judges = {
                runtime: SearchJudge(
                    stages, runtime, name, dict(files), reference, given[runtime], self.gate.temperature
                )
                for runtime, reference in references.items()
            }
            found[name] = self._quantize_stage(plan, name, source, judges, budget, refused[name])
            files[name] = self.work / f"{name}.searched.onnx"
            save_graph(found[name].model, files[name])
        return found, files

    def _quantize_stage(
        self,
        plan: Plan,
        name: str,
        source: Files,
        judges: Mapping[str, SearchJudge],
        budget: Budget,
        refused: Mapping[tuple[str, ...], str],
    ) -> Quantized:
        path = source[name]
        if self.stages[name] == "weights":
            if path not in self._packers:
                folder = path.parent / SHARED
                self._packers[path] = WeightPacker(load_graph(path, folder), folder)
            return pack_stage(path, self._packers[path], judges, budget, self.cache, self.on_progress, refused)
        assert self.calibration is not None, "integers without calibration samples"
        feeds = feeds_of_stages(self.gate.judge, source, [name], self.calibration)[name]
        return quantize_stage(path, feeds, plan.profile, judges, budget, self.cache, self.on_progress, refused)

    @staticmethod
    def _prefix(plan: Plan, stage: str, found: Mapping[str, Quantized]) -> str:
        """Return the subject of a line in the report, if there are several plans or stages."""
        return (plan.suffix.removeprefix("-") + " " if plan.suffix else "") + (f"{stage}: " if len(found) > 1 else "")

    def _describe(
        self, plan: Plan, found: Mapping[str, Quantized], budget: Budget, refused: Refused, aside: Sequence[str]
    ) -> None:
        report, parts = self.gate.report, self.gate.parts
        if self.calibration is not None and any(self.stages[stage] == "integers" for stage in found):
            report.calibration |= {"frames": self.calibration.count, f"profile{plan.suffix}": plan.profile.name}
        reasons, optimism, best = [], [], []
        for stage, each in found.items():
            search, prefix = each.search, self._prefix(plan, stage, found)
            report.calibration[f"{prefix}recipe"] = next(str(trial.recipe) for trial in each.trials if trial.chosen)
            report.recipe += [
                {"name": f"{prefix}{trial.recipe}", "sqnr_db": trial.sqnr_db, "chosen": trial.chosen}
                for trial in each.trials
            ]
            report.search += [{**vars(row), "block": f"{prefix}{row.block}"} for row in search.rows]
            for point in search.points:
                chosen = search.reason if point == search.best else ""
                report.points.append({**point.to_row(chosen, refused[stage].get(point.choice, "")), "stage": stage})
            if self.stages[stage] == "weights" and search.best.float_blocks:
                report.calibration[f"{prefix}in float32"] = ", ".join(search.best.float_blocks)
            reasons.append(f"{prefix}{search.reason}")
            estimate = None if parts.is_separate else estimate_optimism(search.points, budget)
            optimism += [] if estimate is None else [estimate]
            outcome = search.best.outcome
            best.append(
                f"{prefix}{search.best.in_words}, {outcome.agreement:.1%} agreement, "
                f"{outcome.drop_points:.2f} points of drop on the {len(parts.choosing)} selection samples"
            )
        report.selection = Selection(
            len(parts.choosing),
            len(parts.judging),
            parts.is_separate,
            "; ".join(reasons),
            "; ".join(aside),
            max(optimism, default=None),
        )
        self.gate.best = "; ".join(best)
