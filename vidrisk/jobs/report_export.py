"""Export of a run that writes reports: vision stage and text graph exported, packed and judged by their answers.

The bundle is written completely or not at all.

    trained ─► merged ─► vision fp32 ─► vision INT8
                    └──► text fp32 ───► weights in 4 or 8 bits       every arrow is a hop of the gate
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vidrisk.calibration.files import save_graph
from vidrisk.data.choice import spread_evenly
from vidrisk.data.report_data import ReportData
from vidrisk.decode.pool import DecodePool, default_workers
from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.convert.merge import merge_trained
from vidrisk.export.gate.refused import page_of_refusal
from vidrisk.export.gate.report import GateReport
from vidrisk.export.gate.text_page import text_gate_page
from vidrisk.export.quantize.by_noise import quantize_by_noise
from vidrisk.export.quantize.feeds import MIN_CALIBRATION, StageFeeds
from vidrisk.export.text.field_judge import FieldJudge
from vidrisk.export.text.fused import export_text
from vidrisk.export.text.gate_options import GraphVariant, TextGateOptions
from vidrisk.export.text.gguf import export_gguf
from vidrisk.export.text.recipe_search import RecipeChoice, SearchOptions, choose_recipe
from vidrisk.export.text.report_bundle import ReportModel, ReportVariant, ReportWords, write_report_bundle
from vidrisk.export.text.samples import GateSample, Parts
from vidrisk.export.text.text_gate import TextGate
from vidrisk.export.text.visual_tokens import visual_tokens
from vidrisk.export.trained import ExportOptions
from vidrisk.jobs.report_samples import (
    ShownConversation,
    data_of_run,
    form_of,
    read_held_out_data,
    read_shown,
    samples_from_shown,
    split_or_all,
    visual_by_torch,
)
from vidrisk.jobs.report_variants import VISION, NarrowVision, choose_variant
from vidrisk.models.run import Run
from vidrisk.models.vlm.reporter import TOKENIZER, Reporter, vocabulary_of
from vidrisk.runtimes.contract.bundle import Bundle, check_vacant
from vidrisk.runtimes.contract.errors import GateRefused, SettingsError, require
from vidrisk.runtimes.contract.manifest import TEXT
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import BATCH, PIXELS, Stage
from vidrisk.runtimes.folders import cache_folder
from vidrisk.runtimes.text.requests import Ids

log = logging.getLogger(__name__)

VISUAL, GGUF = "visual", "language.gguf"
JUDGES = 128  # conversations that judge
CHOOSERS = 24  # conversations that choose how weights are packed
SQNR_DB = (10.0, 20.0, 30.0)  # of visual tokens, for the INT8 vision stages offered to the gate, most noise first
ROOM = 1.5  # factor for prompts that are longer than those of the data
LEAST_POSITIONS = 512
Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PhotoFrames:
    """Photos to calibrate on. Implements ``export.quantize.feeds.CalibrationFrames``."""

    photos: Sequence[Frames]
    digest: str

    @property
    def count(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[Frames]:
        return iter(self.photos)

    def windows(self) -> Iterator[Frames]:
        return (photo[None] for photo in self.photos)


class ReporterReference:
    """Logits of a model in torch. Implements ``export.text.references.TextReference``."""

    def __init__(self, model: Reporter) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def logits(self, parts: Parts, answer_ids: Ids) -> npt.NDArray[np.float32]:
        """Return the logits that each token of an answer is chosen by."""
        backbone = self.model.backbone
        read = [torch.from_numpy(part) for part in (*parts, answer_ids[:-1])]
        embedded = torch.cat([backbone.embed(part) if part.ndim == 1 else part for part in read])[None]
        states = backbone.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state[0, -len(answer_ids) :]
        found: npt.NDArray[np.float32] = backbone.score_tokens(states).float().numpy()
        return found


def export_reports(
    run_path: Path,
    out: Path,
    options: ExportOptions,
    *,
    calib: Path | None = None,
    val: Path | None = None,
    calib_samples: int = 128,
    gguf: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> tuple[Bundle, GateReport]:
    """Export a run that writes reports.

    Args:
        run_path: directory of the run.
        out: bundle to write.
        options: ``int8`` also packs the text's weights in 4 or 8 bits, by a recipe that the gate chooses.
        calib: data for ``load_report_data`` to use instead of the run's training split: their training split if they
            have one, else all.
        val: data for ``load_report_data`` to use instead of the run's validation split: their validation split if they
            have one, else all.
        calib_samples: photos that INT8 of the vision stage is calibrated on.
        gguf: file for the merged language model alone, in 8 bits, for llama.cpp; None writes none.
        on_progress: reports the steps.

    Raises:
        BundleError: ``out`` exists, or the run is damaged.
        SettingsError: options that make no sense here, or a language model that no text graph can be built for.
        DataError: no conversation for the gate can be read.
        GateRefused: a hop lost more than allowed; the measurements are in ``<out>.refused.html``.
    """
    check_vacant(out)
    if gguf is not None:
        require("gguf", "gguf")
        check_vacant(gguf)
    _check_options(options)
    run = Run.open(run_path)

    def render(refusal: GateRefused) -> tuple[str, GateReport] | None:
        report = refusal.report
        has_hops = isinstance(report, GateReport) and report.text_hops
        return (text_gate_page(report, out.name), report) if has_hops else None

    with tempfile.TemporaryDirectory(prefix="vidrisk-export-") as work, page_of_refusal(out, render):
        export = _ReportExport(run, options, Path(work), on_progress, has_gguf=gguf is not None)
        made = export.run_to(out, calib, val, calib_samples)
        if gguf is not None:
            shutil.move(Path(work) / GGUF, gguf)
        return made


def _check_options(options: ExportOptions) -> None:
    for name, is_asked in (
        ("a target other than cpu", options.target != "cpu"),
        ("steps of QAT", options.qat_steps > 0),
        ("files of OpenVINO or torch", bool(options.also)),
        ("stages to quantise", bool(options.quantize)),
    ):
        if is_asked:
            raise SettingsError(
                f"{name} of a model that writes reports", allowed="INT8 for processors", fix="leave it out"
            )


@dataclass
class _ReportExport:
    run: Run
    options: ExportOptions
    work: Path
    on_progress: OnProgress
    has_gguf: bool

    def run_to(self, out: Path, calib: Path | None, val: Path | None, calib_samples: int) -> tuple[Bundle, GateReport]:
        run = self.run
        data = data_of_run(run) if val is None or (calib is None and self.options.int8) else None
        judging, choosing = (data if given is None else read_held_out_data(run, given) for given in (val, calib))
        assert judging is not None
        model = run.load_reporter()
        _ = model.backbone.language_model  # raises an error before minutes of reading
        vocabulary = vocabulary_of(run.root)
        with DecodePool(default_workers()) as pool:
            judges = read_shown(
                spread_evenly(split_or_all(judging, "val"), JUDGES), run, pool, "validation", self.on_progress
            )
            photos: list[Frames] = []
            choosers: list[ShownConversation] = []
            if self.options.int8 and choosing is not None:
                known = {each.item.id for each in judges} if choosing is judging else set()
                others = [item for item in split_or_all(choosing, "train") if item.id not in known]
                read = read_shown(
                    spread_evenly(others, max(calib_samples, CHOOSERS)), run, pool, "calibration", self.on_progress
                )
                photos = [photo for each in read for photo in each.photos][:calib_samples]
                choosers = spread_evenly(read, CHOOSERS)
        merged = merge_trained(model)
        assert isinstance(merged, Reporter)
        stage = self._vision_stage(merged)
        self.on_progress("exporting the vision stage", 0, 1)
        vision = self.work / f"{VISION}.fp32.onnx"
        example = (torch.zeros((2, *run.contract.pixel.frame_shape), dtype=torch.uint8),)
        export_onnx(merged.backbone.vision_stage(), example, stage.inputs, stage.outputs, vision)
        self.on_progress("exporting the text graph", 0, 1)
        language = merged.backbone.language_model
        language.float().save_pretrained(self.work / "language")
        merged.backbone.tokenizer.save_pretrained(self.work / "language")  # the builder reads it
        if self.has_gguf:  # raises errors before the gate spends minutes
            export_gguf(self.work / "language", self.work / GGUF)
        text = export_text(self.work / "language", self.work, language)
        system = run.config.vlm.system
        seen = visual_by_torch(merged.backbone.vision_stage(), judges)
        samples = samples_from_shown(judges, seen, merged, vocabulary, judging, system)
        answer_tokens = run.config.report.answer_limit
        gate = TextGateOptions(
            vocabulary,
            text.embeddings,
            form_of(judging),
            max_drop=self.options.max_drop,
            allow_drop=self.options.allow_drop,
            answer_tokens=answer_tokens,
            coverage=self.options.coverage,
        )
        shown = [each.photos for each in judges]
        exact = GraphVariant("fp32", text.graph, visual_tokens(stage, vision, shown))
        variants: list[ReportVariant] = [
            ReportVariant("fp32", {VISION: vision}, text.graph, {VISION: "fp32", TEXT: "fp32"})
        ]
        choice = None
        if self.options.int8:
            choice = self._recipe(text.graph, choosers, merged, choosing or judging, gate)
        adapter = ReporterReference(model) if hasattr(model.backbone.model, "peft_config") else None
        with TextGate(
            ReporterReference(merged),
            exact,
            samples,
            gate,
            self.on_progress,
            adapter=adapter,
            recipes=choice.trials if choice else (),
        ) as judge:
            if choice is None:
                report = judge.judge([])
            else:
                narrow = self._narrow_visions(vision, stage, photos, shown)
                report, packed = choose_variant(judge, variants[0], choice, narrow, self.work, self.options)
                variants += packed
        if self.options.only is not None:
            variants = [
                variant for variant in variants if (variant.name == "fp32") == (self.options.only == "fp32")
            ] or variants
        positions = self._positions(samples, answer_tokens, language)
        words = ReportWords(
            run.root / TOKENIZER,
            text.embeddings,
            merged.chat.pieces,
            merged.chat.ends,
            positions,
            answer_tokens,
            scheme=None if run.scheme is None else run.scheme.to_json(),
            system=system,
        )
        source = {"run": run.root.resolve().name, "backbone": run.config.backbone, "digest": run.digest}
        described = ReportModel(run.contract, (stage,), words, source=source)
        return write_report_bundle(out, described, variants, report), report

    def _vision_stage(self, merged: Reporter) -> Stage:
        shape = self.run.contract.pixel.frame_shape
        with torch.inference_mode():
            found = merged.backbone.vision_stage().eval()(torch.zeros((1, *shape), dtype=torch.uint8))
        return Stage(
            name=VISION,
            per="frame",
            inputs=(TensorSpec(PIXELS, "uint8", (BATCH, *shape)),),
            outputs=(TensorSpec(VISUAL, "float32", (BATCH, *map(int, found.shape[1:]))),),
        )

    def _recipe(
        self,
        graph: Path,
        choosers: Sequence[ShownConversation],
        merged: Reporter,
        data: ReportData,
        gate: TextGateOptions,
    ) -> RecipeChoice:
        seen = visual_by_torch(merged.backbone.vision_stage(), choosers)
        samples = samples_from_shown(choosers, seen, merged, gate.vocabulary, data, self.run.config.vlm.system)
        judge = None
        if gate.form is not None:
            one = 100.0 / max(len(samples), 1)  # points: with so few samples, one level is not significant
            judge = FieldJudge(graph, samples, replace(gate, max_drop=max(gate.max_drop, one)), self.on_progress)
        return choose_recipe(
            graph, gate.embeddings, samples, SearchOptions(seconds=self.options.search_s), self.on_progress, judge
        )

    def _narrow_visions(
        self, vision: Path, stage: Stage, photos: Sequence[Frames], shown: Sequence[Sequence[Frames]]
    ) -> Iterator[NarrowVision]:
        """Yield INT8 vision stages, most noise first, each made on demand.

        None are yielded if there are too few photos, or if the whole stage would stay in float32.

        Args:
            vision: the fp32 graph.
            stage: its description.
            photos: to calibrate on.
            shown: photos of the conversations that judge.
        """
        if len(photos) < MIN_CALIBRATION:
            log.warning(
                "%d photos to calibrate the vision stage on, fewer than %d: it stays in float32",
                len(photos),
                MIN_CALIBRATION,
            )
            return
        digest = hashlib.sha256(b"".join(photo.tobytes() for photo in photos)).hexdigest()
        feeds = StageFeeds(self.run.contract, (stage,), stage, {VISION: vision}, {}, PhotoFrames(photos, digest))
        path = None
        for each in quantize_by_noise(
            vision,
            feeds,
            self.options.profile,
            cache_folder() / "calibration",
            self.on_progress,
            least_db=SQNR_DB,
            seconds=self.options.search_s,
        ):
            path = self.work / f"{len(each.float_blocks)}-blocks" / f"{VISION}.int8.onnx"
            path.parent.mkdir()
            save_graph(each.model, path)
            made = NarrowVision(path, visual_tokens(stage, path, shown), each.float_blocks)
            log.info("%s: %.1f dB", made, each.sqnr_db)
            yield made
        if path is None:
            log.warning(
                "with any block in INT8, the vision stage has an SNR below %.0f dB: it stays in float32", SQNR_DB[0]
            )

    def _positions(self, samples: Sequence[GateSample], answer_tokens: int, language: Any) -> int:
        longest = max(sum(map(len, sample.parts)) for sample in samples) + answer_tokens
        wanted = max(LEAST_POSITIONS, -(-int(longest * ROOM) // 64) * 64)
        return min(wanted, int(getattr(language.config, "max_position_embeddings", wanted)))
