"""One export: merge, convert, quantise, pass the gate, write the bundle; a refusal ships nothing.

    trained ─► merged ─► ONNX fp32 ─► (migrated) ─► INT8 or mixed     every arrow is a hop of the gate, on every runtime
                               └────► FP16 ◄────────────┘             for GPUs; what INT8 leaves becomes FP16, too

A model is a list of stages. The stages that do nearly all the work are quantised one after the other. Each is
calibrated on the inputs that the preceding float stages compute from the calibration samples, and judged with the
preceding stages already quantised.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from vidrisk.calibration.files import SHARED, graph_files, load_graph, save_graph
from vidrisk.export.convert.formats import openvino_files, program_files
from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.convert.macs import macs_from_onnx
from vidrisk.export.convert.merge import has_adapter, merge_trained
from vidrisk.export.gate.coverage import fit_coverage, fit_decision
from vidrisk.export.gate.golden import golden_files
from vidrisk.export.gate.hops import FloatType, training_hop
from vidrisk.export.gate.judge import Files, StageJudge, weighty_stages
from vidrisk.export.gate.keeper import Gatekeeper
from vidrisk.export.gate.outputs import Outputs, Validation
from vidrisk.export.gate.race import speed_refusal
from vidrisk.export.gate.refused import page_of_refusal
from vidrisk.export.gate.report import GateReport, Verdict
from vidrisk.export.pack import bundle_from_variants, waiver_of
from vidrisk.export.plans import choose_shipped
from vidrisk.export.quantize.feeds import CalibrationFrames, StageFeeds, ValidationFrames, feeds_of_stages
from vidrisk.export.quantize.half import CHECK_FRAMES, check_stages_in_half, judge_for_gpu, variant_in_half
from vidrisk.export.quantize.int8 import coverage_refusal, layer_ranges
from vidrisk.export.quantize.qat import QatOptions, fine_tune_by_qat
from vidrisk.export.quantize.variant import VariantQuantizer
from vidrisk.export.trained import ExportOptions, Trained, TrainedStage
from vidrisk.runtimes.chain import frames_of
from vidrisk.runtimes.contract.bundle import Bundle, Precision, VariantName, check_vacant
from vidrisk.runtimes.contract.errors import DataError, MissingExtra, SettingsError
from vidrisk.runtimes.contract.manifest import Engines
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.folders import cache_folder
from vidrisk.runtimes.registry import file_runtimes


def export_bundle(
    trained: Trained,
    out: Path,
    validation: Validation,
    calibration: CalibrationFrames | None,
    options: ExportOptions,
    on_progress: OnProgress = ignore_progress,
) -> tuple[Bundle, GateReport]:
    """Export a trained model and write its bundle.

    Args:
        trained: the stages and their contract.
        out: folder to create; it must not exist.
        validation: labelled samples for the gate.
        calibration: samples for the INT8 ranges, disjoint from the validation samples; None without ``int8``, or if no
            stage is quantised by integers. FP16 is also checked on them, or else on validation samples, since it learns
            nothing from their labels.
        options: what to make, and its limits.
        on_progress: called at each step.

    Returns:
        The verified bundle and the gate's measurements.

    Raises:
        GateRefused: a hop lost more than allowed. No bundle is written; the measurements are beside it in
            ``<out>.refused.html``.
        BundleError: ``out`` exists.
        DataError: calibration frames are missing, too few or of another size.
    """
    check_vacant(out)
    if not file_runtimes():
        raise MissingExtra("onnxruntime", "cpu")
    if options.int8 and calibration is None and all(each.quantization == "integers" for each in trained.stages):
        raise _no_frames()
    with tempfile.TemporaryDirectory(prefix="vidrisk-export-") as scratch:
        export = _Export(trained, validation, calibration, options, Path(scratch), on_progress)
        with page_of_refusal(out, lambda _: (export.gate.page(out.name), export.gate.report)):
            return export.run(out), export.gate.report


def _no_frames() -> DataError:
    return DataError("no calibration frames", fix="supply some: INT8 needs them")


class _Export:
    """One model's passage through the gate.

    Attributes:
        precision: by variant and stage.
        engines: kind of engine that a quantised variant is made for.
    """

    def __init__(
        self,
        trained: Trained,
        validation: Validation,
        calibration: CalibrationFrames | None,
        options: ExportOptions,
        work: Path,
        on_progress: OnProgress,
    ) -> None:
        self.trained, self.validation, self.calibration, self.options = trained, validation, calibration, options
        self.work, self.on_progress = work, on_progress
        self.contract = trained.contract
        self.judge = StageJudge(self.contract, trained.specs, validation, trained.constants)
        self.gate = Gatekeeper(self.judge, options, on_progress)
        self.gate.report.source = options.source
        self.precision: dict[VariantName, dict[str, Precision]] = {}
        self.engines: dict[VariantName, Engines] = {}
        unknown = (options.quantize or frozenset()) - {stage.name for stage in trained.specs}
        if unknown:
            raise SettingsError(
                f"stage {min(unknown)!r} is to be quantised", allowed=", ".join(stage.name for stage in trained.specs)
            )

    def run(self, out: Path) -> Bundle:
        merged, exact = self._merge()
        fp32 = self._onnx(merged, "fp32")
        floats = self._floats("merged → onnx fp32", exact, fp32)
        self._weigh(fp32)
        quantizer = self._quantizer() if self.options.int8 else None
        plans = quantizer.plans() if quantizer else []
        files: dict[VariantName, Files] = {"fp32": fp32}
        outputs: dict[VariantName, Outputs] = {"fp32": next(iter(floats.values()))}
        if quantizer and self.calibration is not None and "integers" in quantizer.stages.values():
            self._covers(self.calibration)
        halves = check_stages_in_half(self.gate, self._feeds(fp32, self._in_half)) if self.options.needs_half else {}
        if self.options.makes_fp16 or (quantizer and quantizer.leaves_out(plans) and self.options.only is None):
            files["fp16"], outputs["fp16"] = variant_in_half(
                self.gate, "onnx fp32 → fp16", "fp16", fp32, floats, halves
            )
            self.precision["fp16"] = {**self.precision["fp32"], **dict.fromkeys(halves, "fp16")}
        if quantizer:
            source, computed = fp32, floats
            if self.options.qat_steps:
                source, computed = self._fine_tune(merged, fp32)
            for plan in plans:
                judged = {runtime: floats[runtime] for runtime in self.gate.runtimes_for(plan.engines)}
                made = quantizer.quantize(plan, source, computed, judged)
                name, files[made.name], outputs[made.name] = made.name, made.files, made.outputs
                self.precision[name], self.engines[name] = {**self.precision["fp32"], **made.precision}, plan.engines
                if plan.has_half:
                    hop = f"onnx fp32 → {name}, rest in fp16"
                    files[name], outputs[name] = variant_in_half(self.gate, hop, name, files[name], judged, halves)
                    self.precision[name] |= {stage: "fp16" for stage in halves if self.precision[name][stage] == "fp32"}
        if self.options.target != "cpu":
            judge_for_gpu(
                self.gate, {name: made for name, made in files.items() if self.engines.get(name) != "processor"}, floats
            )
        report = self.gate.report
        report.precision = {name: dict(self.precision[name]) for name in files}
        slow = self.gate.race(files, self.engines)
        report.temperature = {name: report.temperature[name] for name in files}  # without discarded variants
        report.coverage = fit_coverage(
            outputs, report.temperature, self.validation, self.contract, self.options.coverage
        )
        report.decision = fit_decision(outputs, report.temperature, self.validation, self.contract)
        slower = {
            speed.variant for speed in report.speeds if speed.is_slower and not speed_refusal(report, speed.variant)
        }
        shipped = choose_shipped(files, self.options.only, slow, slower)
        beside: list[Path] = []
        if "openvino" in self.options.also:
            here = {name: made for name, made in shipped.items() if self.engines.get(name) != "tensorrt"}
            beside += openvino_files(self.gate, here)
        if "torch" in self.options.also:
            beside += program_files(self.gate, merged, exact, self.work)
        if self.options.golden:
            beside += golden_files(self.gate, shipped, self.engines, outputs["fp32"].logits, self.work)
        return self._pack(out, shipped, beside)

    def _merge(self) -> tuple[tuple[TrainedStage, ...], Outputs]:
        """Return the stages as plain layers, and their outputs, after the gate has admitted both hops."""
        self.on_progress("merging the adapter", 0, 1)
        trained = self.trained
        before = self.judge.sources(trained.sources)
        self.gate.calibrate(before)
        if trained.recorded:
            same = trained.recorded_on == len(self.validation.names)
            self.gate.admit([training_hop(before, self.validation, self.contract, trained.recorded, same_samples=same)])
        merged = tuple(
            each if isinstance(each.source, Path) else replace(each, source=merge_trained(each.source))
            for each in trained.stages
        )
        modules = [each.source for each in trained.stages if isinstance(each.source, nn.Module)]
        if not modules:
            return merged, before
        outputs = self.judge.sources({each.stage.name: each.source for each in merged})
        name = "adapter → merged" if any(map(has_adapter, modules)) else "frozen → folded"
        self.gate.admit([self.gate.exact(name, "merged", "torch", before, outputs, self._held_in)])
        return merged, outputs

    @property
    def _held_in(self) -> FloatType:
        """The type that modules store their weights in, which sets the tolerances."""
        modules = [each.source for each in self.trained.stages if isinstance(each.source, nn.Module)]
        is_half = any(
            parameter.is_floating_point() and parameter.element_size() == 2
            for module in modules
            for parameter in module.parameters()
        )
        return "fp16" if is_half else "fp32"

    def _fine_tune(self, merged: Sequence[TrainedStage], fp32: Files) -> tuple[Files, dict[str, Outputs]]:
        """Fine-tune with quantisation awareness; return the float files, and their outputs by runtime.

        The model is only better than before after rounding.

        Raises:
            SettingsError: the model is not a frame encoder followed by a head.
        """
        sources = [each.source for each in merged]
        by_integers = tuple(
            each.stage.name for each in merged[:1] if each.stage.per == "frame" and each.quantization == "integers"
        )
        if (
            len(merged) != 2
            or not by_integers
            or self._quantized_stages != by_integers
            or not all(isinstance(source, nn.Module) for source in sources)
        ):
            raise SettingsError(
                "quantisation-aware fine-tuning of this model",
                fix="leave out qat_steps",
                allowed="two torch modules, of which the first runs per frame and is the one to quantise",
            )
        if self.trained.clips is None:
            raise DataError("no training samples for quantisation-aware fine-tuning", fix="leave out qat_steps")
        profile, (encoder, head) = self.options.profile, merged
        feeds = self._feeds(fp32, (encoder.stage.name,))[encoder.stage.name]
        model = load_graph(fp32[encoder.stage.name], self.work / SHARED)
        ranges = layer_ranges(model, feeds, profile, self._cache, self.on_progress)
        several = tuple(place for place, target in enumerate(self.contract.targets) if target.multi_label)
        finished = fine_tune_by_qat(
            encoder.source,  # type: ignore[arg-type]
            head.source,  # type: ignore[arg-type]
            ranges,
            profile,
            (),
            self.trained.clips,
            QatOptions(self.options.qat_steps, multi_label=several),
            self.on_progress,
        )
        stages = [replace(each, source=source) for each, source in zip(merged, finished, strict=True)]
        files = self._onnx(stages, "finished")
        exact = self.judge.sources({each.stage.name: each.source for each in stages})
        return files, self._floats("finished → onnx", exact, files, "finished")

    def _onnx(self, stages: Sequence[TrainedStage], what: str) -> Files:
        """Write float ONNX files: modules are converted, files are copied."""
        files: Files = {}
        for done, each in enumerate(stages):
            self.on_progress("exporting to ONNX", done, len(stages))
            stage, path = each.stage, self.work / f"{each.stage.name}.{what}.onnx"
            if isinstance(each.source, Path):
                save_graph(load_graph(each.source), path)
            else:
                export_onnx(each.source, each.inputs(2), stage.inputs, stage.outputs, path)
            files[stage.name] = path
        return files

    def _floats(self, hop: str, exact: Outputs, files: Files, variant: str = "fp32") -> dict[str, Outputs]:
        """Return the outputs of float ONNX files, by runtime."""
        floats = self.gate.outputs(hop, files, self.gate.runtimes)
        self.gate.admit(
            [
                self.gate.exact(hop, variant, runtime, exact, outputs, self._held_in)
                for runtime, outputs in floats.items()
            ]
        )
        return floats

    def _weigh(self, fp32: Files) -> None:
        """Measure how much each stage computes, and find those that do nearly all of the work."""
        frames = self.contract.frames
        counted = {name: macs_from_onnx(load_graph(path)) for name, path in fp32.items()}
        known = {name: macs for name, macs in counted.items() if macs is not None}
        # If shapes are unknown, the size of the weights stands for the work.
        work = (
            known
            if len(known) == len(counted)
            else {name: sum(file.stat().st_size for file in graph_files(path)) for name, path in fp32.items()}
        )
        stages = tuple(stage.model_copy(update={"macs": counted[stage.name]}) for stage in self.judge.stages)
        self.gate.weighty = weighty_stages(stages, work, frames)
        self.judge = self.gate.judge = replace(self.judge, stages=stages)
        of_window = {stage.name: work[stage.name] * (frames // frames_of(stage, frames)) for stage in stages}
        self.gate.report.stages = [
            {
                "name": stage.name,
                "per": stage.per,
                "group": stage.group,
                "macs": stage.macs,
                "share": of_window[stage.name] / max(1, sum(of_window.values())),
            }
            for stage in stages
        ]
        self.precision["fp32"] = dict.fromkeys(fp32, "fp32")

    @property
    def _quantized_stages(self) -> tuple[str, ...]:
        """Their names, in the order of the model."""
        chosen = self.options.quantize or self.gate.weighty
        return tuple(stage.name for stage in self.judge.stages if stage.name in chosen)

    def _quantizer(self) -> VariantQuantizer:
        """Return the maker of quantised variants.

        Raises:
            DataError: a stage needs calibration frames, and there are none.
        """
        how = {each.stage.name: each.quantization for each in self.trained.stages}
        stages = {name: how[name] for name in self._quantized_stages}
        if self.calibration is None and "integers" in stages.values():
            raise _no_frames()
        return VariantQuantizer(
            self.gate, self.options, stages, self.calibration, self.work, self._cache, self.on_progress
        )

    @property
    def _in_half(self) -> tuple[str, ...]:
        """Stages that compute in FP16 in an FP16 variant, apart from their quantised parts."""
        chosen = {*self.gate.weighty, *(self._quantized_stages if self.options.int8 else ())}
        return tuple(stage.name for stage in self.judge.stages if stage.name in chosen)

    def _feeds(self, files: Files, stages: Collection[str]) -> dict[str, StageFeeds]:
        """Return the inputs of stages for the calibration samples, or else for validation samples."""
        samples = ValidationFrames(self.validation, CHECK_FRAMES) if self.calibration is None else self.calibration
        return feeds_of_stages(self.judge, files, stages, samples)

    def _covers(self, calibration: CalibrationFrames) -> None:
        """Reject calibration frames that do not resemble the validation frames."""
        reason = coverage_refusal(calibration, self.validation)
        if reason:
            self.gate.refuse(
                "int8", "onnx fp32 → int8 (calibration)", reason, "calibrate on samples such as the model will see"
            )

    def _pack(self, out: Path, files: Mapping[VariantName, Files], further: Sequence[Path]) -> Bundle:
        self.on_progress("writing the bundle", 0, 1)
        report = self.gate.report
        report.verdicts += [Verdict(name, shipped=True, reason=waiver_of(report, name)) for name in files]
        beside = {path.name: path for path in (self.work / "gate.json", self.work / "gate.html", *further)}
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        beside["gate.json"].write_text(text + "\n", encoding="utf-8")
        beside["gate.html"].write_text(self.gate.page(out.name), encoding="utf-8")
        return bundle_from_variants(
            out, self.judge, files, self.precision, self.engines, report, beside, self.options.source
        )

    @property
    def _cache(self) -> Path:
        return cache_folder() / "calibration"
