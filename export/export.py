"""One export: merge, convert, quantise, pass the gate, write the bundle. A refusal ships nothing.

    trained ─► merged ─► ONNX fp32 ─► (migrated) ─► INT8 or mixed     every arrow is a hop of the gate, on every runtime here
                               └────► FP16 ◄────────────┘             for GPUs, with what INT8 leaves in FP16, too
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from vidrisk.calibration.files import save_graph
from vidrisk.calibration.search import Budget
from vidrisk.calibration.temperature import fitted_temperature
from vidrisk.export.formats import openvino_files, program_files
from vidrisk.export.gate import recorded_hop
from vidrisk.export.graphs import export_onnx
from vidrisk.export.half import CHECK_FRAMES, checked_halves, judge_for_gpu, variant_in_half
from vidrisk.export.judge import Files, SearchJudge, StageJudge, graphs_from_contract
from vidrisk.export.keeper import QUANTISED, Gatekeeper
from vidrisk.export.merge import has_adapter, merged_from_trained
from vidrisk.export.outputs import Outputs, Validation
from vidrisk.export.pack import bundle_from_variants, waived_of
from vidrisk.export.qat import QatOptions, finished_by_qat
from vidrisk.export.quantise import CalibrationFrames, Quantised, coverage_refusal, layer_ranges, quantised_encoder
from vidrisk.export.registry import exporter_config
from vidrisk.export.report import GateReport, Verdict
from vidrisk.export.trained import ExportOptions, Trained
from vidrisk.runtimes.bundle import Bundle, VariantName, check_vacant
from vidrisk.runtimes.errors import DataError, GateRefused, MissingExtra
from vidrisk.runtimes.folders import cache_folder
from vidrisk.runtimes.registry import file_runtimes

log = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]
AGREEMENT_AIM = 0.985  # of quantised predictions with floating-point ones; the search goes for it, the gate judges the drop


def export_bundle(trained: Trained, out: Path, validation: Validation, calibration: CalibrationFrames | None,
                  options: ExportOptions,
                  on_progress: OnProgress = lambda what, done, total: None) -> tuple[Bundle, GateReport]:
    """Export a trained model and write its bundle.

    Args:
        out: folder to make; it must not exist.
        validation: labelled samples for the gate.
        calibration: frames for the INT8 ranges, disjoint from the validation samples; None without ``int8``. FP16 is checked on
            them, too, and without them on frames of the validation samples: it learns nothing from their labels.

    Returns:
        The verified bundle and what the gate measured.

    Raises:
        GateRefused: a hop lost more than it may. No bundle is written; what was measured lies beside it in
            ``<out>.refused.html``.
        BundleError: ``out`` exists.
        DataError: calibration frames missing, too few or of another size.
    """
    check_vacant(out)
    if not file_runtimes():
        raise MissingExtra("onnxruntime", "cpu")
    if options.int8 and calibration is None:
        raise DataError("no calibration frames", fix="INT8 needs some")
    with tempfile.TemporaryDirectory(prefix="vidrisk-export-") as scratch:
        export = _Export(trained, validation, calibration, options, Path(scratch), on_progress)
        page = out.with_name(f"{out.name}.refused.html")
        page.unlink(missing_ok=True)  # of an earlier try
        try:
            return export.run(out), export.gate.report
        except GateRefused as refusal:
            where = ""
            try:
                page.parent.mkdir(parents=True, exist_ok=True)
                page.write_text(export.gate.page(out.name), encoding="utf-8")
                where = f" (see {page.name})"
            except OSError as error:
                log.warning("%s cannot be written: %s", page, error)
            raise GateRefused(f"{refusal.what}{where}", fix=refusal.fix, report=export.gate.report) from refusal


class _Export:
    """The way of one model through the gate."""

    def __init__(self, trained: Trained, validation: Validation, calibration: CalibrationFrames | None, options: ExportOptions,
                 work: Path, on_progress: OnProgress) -> None:
        self.trained, self.validation, self.calibration, self.options = trained, validation, calibration, options
        self.work, self.on_progress = work, on_progress
        self.contract = trained.contract
        self.judge = StageJudge(self.contract, graphs_from_contract(self.contract, trained.width), validation)
        self.gate = Gatekeeper(self.judge, options, on_progress)

    def run(self, out: Path) -> Bundle:
        merged, exact = self._merged()
        fp32 = self._onnx(merged, self.trained.head, "fp32")
        floats = self._floats("merged → onnx fp32", exact, fp32)
        files: dict[VariantName, Files] = {"fp32": fp32}
        outputs: dict[VariantName, Outputs] = {"fp32": next(iter(floats.values()))}
        if self.options.int8 and self.calibration is not None:
            self._covers(self.calibration)
        halves = checked_halves(self.gate, fp32["encoder"], self._checked_frames()) if self.options.needs_half else None
        if self.options.fp16 and halves is not None:
            files["fp16"], outputs["fp16"] = variant_in_half(self.gate, "onnx fp32 → fp16", "fp16", fp32, floats, halves)
        if self.options.int8 and self.calibration is not None:
            source, computed = fp32, floats
            if self.options.qat_steps:
                source, computed = self._finished(merged, fp32, self.calibration)
            name, files[name], outputs[name] = self._quantised(source, computed, floats, self.calibration)
            if halves is not None:
                hop = f"onnx fp32 → {name}, rest in fp16"
                files[name], outputs[name] = variant_in_half(self.gate, hop, name, files[name], floats, halves)
        if self.options.target != "cpu":
            judge_for_gpu(self.gate, files, floats)
        self.gate.race(files)
        self.gate.report.temperature = {
            name: {target: fitted_temperature(logits, self.validation.truth[target]) for target, logits in found.logits.items()}
            for name, found in outputs.items()}
        shipped = self._shipped(files)
        beside: list[Path] = []
        if "openvino" in self.options.also:
            beside += openvino_files(self.gate, shipped)
        if "torch" in self.options.also:
            modules = {"encoder": merged, "head": self.trained.head}
            beside += program_files(self.gate, modules, self._examples(), exact, self.work)
        return self._packed(out, shipped, beside)

    def _merged(self) -> tuple[nn.Module, Outputs]:
        """The encoder in plain layers, and its outputs, once the gate has admitted both hops."""
        self.on_progress("merging the adapter", 0, 1)
        trained = self.trained
        before = self.judge.torch(trained.encoder, trained.head)
        if trained.recorded:
            same = trained.recorded_on == len(self.validation.names)
            self.gate.admit([recorded_hop(before, self.validation, self.contract, trained.recorded, same_samples=same)])
        merged = merged_from_trained(trained.encoder)
        outputs = self.judge.torch(merged, trained.head)
        name = "adapter → merged" if has_adapter(trained.encoder) else "frozen → folded"
        self.gate.admit([self.gate.exact(name, "merged", "torch", before, outputs)])
        return merged, outputs

    def _finished(self, merged: nn.Module, fp32: Files, calibration: CalibrationFrames) -> tuple[Files, dict[str, Outputs]]:
        """The model after a quantisation-aware finish, in floating point, and what it computes by runtime: better than before once
        it is rounded, and only then."""
        if self.trained.clips is None:
            raise DataError("no training samples for the quantisation-aware finish", fix="do without qat_steps")
        profile = self.options.profile
        ranges = layer_ranges(onnx.load(str(fp32["encoder"])), calibration, profile, self._cache, self.on_progress)
        encoder, head = finished_by_qat(merged, self.trained.head, ranges, profile, (), self.trained.clips,
                                        QatOptions(self.options.qat_steps), self.on_progress)
        files = self._onnx(encoder, head, "finished")
        return files, self._floats("finished → onnx", self.judge.torch(encoder, head), files, "finished")

    def _onnx(self, encoder: nn.Module, head: nn.Module, stage: str) -> Files:
        self.on_progress("exporting to ONNX", 0, 1)
        graphs, examples = self.judge.graphs, self._examples()
        files: Files = {name: self.work / f"{name}.{stage}.onnx" for name in graphs}
        export_onnx(encoder, examples["encoder"], graphs["encoder"].inputs, graphs["encoder"].outputs, files["encoder"])
        export_onnx(head, examples["head"], graphs["head"].inputs, graphs["head"].outputs, files["head"])
        return files

    def _examples(self) -> dict[str, torch.Tensor]:
        """An input of each graph, with a batch of 2."""
        pixel = self.contract.pixel
        config = exporter_config(self.trained.family, self.trained.backbone_config)
        frames = config.generate_dummy_inputs(batch_size=2, height=pixel.height, width=pixel.width)["frames"]
        return {"encoder": frames, "head": torch.zeros((2, self.contract.frames, self.trained.width))}

    def _floats(self, hop: str, exact: Outputs, files: Files, variant: str = "fp32") -> dict[str, Outputs]:
        """What float ONNX files compute, by runtime."""
        floats = self.gate.outputs(hop, files, file_runtimes())
        self.gate.admit([self.gate.exact(hop, variant, runtime, exact, outputs) for runtime, outputs in floats.items()])
        return floats

    def _quantised(self, source: Files, computed: Mapping[str, Outputs], floats: Mapping[str, Outputs],
                   calibration: CalibrationFrames) -> tuple[VariantName, Files, Outputs]:
        """The quantised variant, admitted on every runtime, and its outputs on the one that was searched on. The head stays in
        fp32: it is a thousandth of the work.

        Args:
            source: the float files to quantise; ``computed`` is what they compute, by runtime.
            floats: what the result is compared with.
        """
        judges = {runtime: SearchJudge(self.judge, runtime, source["head"], outputs) for runtime, outputs in floats.items()}
        budget = Budget(self.options.max_drop, AGREEMENT_AIM, self.options.search_s)
        found = quantised_encoder(onnx.load(str(source["encoder"])), calibration, self.options.profile, judges, budget, self._cache,
                                  self.on_progress)
        self._describe(found, calibration)
        if found.migrated is not None:
            same = self.judge.onnx(found.runtime, self._with_encoder(source, found.migrated, "migrated"))
            self.gate.admit([self.gate.exact("onnx fp32 → migrated", "migrated", found.runtime, computed[found.runtime], same)])
        name: VariantName = "mixed" if found.search.best.float_blocks else "int8"
        files = self._with_encoder(source, found.model, name)
        after = self.gate.outputs(f"onnx fp32 → {name}", files, floats)
        self.gate.admit([self.gate.lossy(f"onnx fp32 → {name}", name, r, floats[r], outputs) for r, outputs in after.items()])
        return name, files, after[found.runtime]

    def _checked_frames(self) -> Iterable[npt.NDArray[np.uint8]]:
        """What FP16 is checked on."""
        return self.validation.some_frames(CHECK_FRAMES) if self.calibration is None else self.calibration

    def _covers(self, calibration: CalibrationFrames) -> None:
        """Refuse calibration frames that are nothing like the validation frames."""
        reason = coverage_refusal(calibration, self.validation)
        if reason:
            self.gate.refuse("int8", "onnx fp32 → int8 (calibration)", reason, "calibrate on samples such as the model will see")

    def _with_encoder(self, files: Files, model: onnx.ModelProto, name: str) -> Files:
        path = self.work / f"encoder.{name}.onnx"
        save_graph(model, path)
        return {**files, "encoder": path}

    def _describe(self, found: Quantised, calibration: CalibrationFrames) -> None:
        report, best = self.gate.report, found.search.best
        recipe = next(str(trial.recipe) for trial in found.trials if trial.chosen)
        report.calibration = {"frames": calibration.count, "profile": self.options.profile.name, "recipe": recipe}
        report.recipe = [{"name": str(trial.recipe), "sqnr_db": trial.sqnr_db, "chosen": trial.chosen} for trial in found.trials]
        report.search = [vars(row) for row in found.search.rows]
        report.points = [vars(point) for point in found.search.points]
        self.gate.best = (f"{len(best.float_blocks)} blocks in floating point, {best.agreement:.1%} agreement, "
                          f"{best.drop_points:.2f} points of drop")

    def _shipped(self, files: Mapping[VariantName, Files]) -> Mapping[VariantName, Files]:
        """The variants that the bundle will hold."""
        if self.options.only is None:
            return files
        return {name: made for name, made in files.items() if ("int8" if name in QUANTISED else name) == self.options.only}

    def _packed(self, out: Path, files: Mapping[VariantName, Files], further: Sequence[Path]) -> Bundle:
        self.on_progress("writing the bundle", 0, 1)
        report = self.gate.report
        report.verdicts += [Verdict(name, shipped=True, reason=waived_of(report, name)) for name in files]
        beside = {path.name: path for path in (self.work / "gate.json", self.work / "gate.html", *further)}
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        beside["gate.json"].write_text(text + "\n", encoding="utf-8")
        beside["gate.html"].write_text(self.gate.page(out.name), encoding="utf-8")
        return bundle_from_variants(out, self.judge, files, report, beside, self.options.source)

    @property
    def _cache(self) -> Path:
        return cache_folder() / "calibration"
