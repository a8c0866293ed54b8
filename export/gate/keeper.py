"""The gatekeeper of one export, which runs stages on the validation samples, judges hops, and records the results."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from vidrisk.calibration.temperature import fit_temperature
from vidrisk.export.gate.confidence import match_temperatures
from vidrisk.export.gate.hops import FloatType, few_samples_note, float_hop, lossy_hop
from vidrisk.export.gate.judge import Files, StageJudge
from vidrisk.export.gate.outputs import Outputs
from vidrisk.export.gate.page import gate_page
from vidrisk.export.gate.race import race, slowness_in_words, speed_refusal
from vidrisk.export.gate.report import GateReport, Hop, Verdict
from vidrisk.export.gate.selection import Parts, separate_samples
from vidrisk.export.plans import is_quantized
from vidrisk.export.trained import ExportOptions
from vidrisk.runtimes.contract.bundle import VariantName
from vidrisk.runtimes.contract.errors import GateRefused, MissingExtra, RuntimeFailure
from vidrisk.runtimes.contract.manifest import Engines
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.processor import saturates_int8
from vidrisk.runtimes.registry import GPU_RUNTIMES, file_runtimes

log = logging.getLogger(__name__)

# Remedies for a refusal, by the variant of the hop.
FAULT = "this is a fault of the export, not of the data: please report it with the versions in use"
FIXES = {
    "trained": "compare labels.json and config.yaml with what was trained",
    "fp16": "ship another variant, or allow the drop",
}
QUANTIZED_FIX = (
    "calibrate on more or other samples, fine-tune with the rounding (qat_steps), raise the budget that it exceeds, "
    "or allow the drop"
)


def _judges(runtime: str, target: str) -> bool:
    """Return whether a runtime judges a bundle for this target.

    OpenVINO has no exact kernels for FP16-typed INT8 without VNNI.
    """
    if target == "cpu":
        return runtime not in GPU_RUNTIMES
    return target == "any" or runtime != "openvino" or not saturates_int8()


class Gatekeeper:
    """The gate of one export.

    Attributes:
        report: filled in as the export proceeds.
        best: description of the search result for a quantised variant, for the message of a refusal.
        weighty: stages that do nearly all the work; only they are timed.
        runtimes: that judge. A GPU does not judge a bundle for CPUs, and a runtime that fails here judges nothing.
        parts: which samples choose the precision of the blocks, and which judge the result.
        temperature: of floating point, by target.
    """

    def __init__(self, judge: StageJudge, options: ExportOptions, on_progress: OnProgress) -> None:
        self.judge, self.options, self.on_progress = judge, options, on_progress
        count = len(judge.validation.names)
        self.parts: Parts = separate_samples(judge.validation)
        judging = len(self.parts.judging) if options.int8 else count
        self.report = GateReport(
            options.max_drop,
            count,
            note=few_samples_note(judging, options.max_drop),
            target=options.target,
            max_confidence_drop=options.max_confidence_drop,
        )
        self.best = ""
        self.weighty = tuple(stage.name for stage in judge.stages)
        self.runtimes = tuple(name for name in file_runtimes() if _judges(name, options.target))
        self.temperature: dict[str, float] = {}
        self._proven: set[str] = set()

    def calibrate(self, exact: Outputs) -> None:
        """Fit the temperature of floating point to the samples' truth."""
        truth = self.judge.validation.truth
        self.temperature = {target: fit_temperature(logits, truth[target]) for target, logits in exact.logits.items()}
        self._exact = exact
        self.report.temperature = {"fp32": self.temperature}

    def match(self, variant: str, outputs: Outputs) -> None:
        """Find the temperature that brings a variant's probabilities nearest to those of floating point.

        The variant ships with it, and is judged with it on every runtime.
        """
        found = match_temperatures(self.judge.contract.targets, self._exact.logits, outputs.logits, self.temperature)
        self.report.temperature = {**self.report.temperature, variant: found}

    def runtimes_for(self, engines: Engines) -> tuple[str, ...]:
        """Return the runtimes that judge graphs for a kind of engine."""
        target = {"processor": "cpu", "tensorrt": "gpu", "any": self.options.target}[engines]
        return tuple(name for name in self.runtimes if _judges(name, target))

    def page(self, title: str) -> str:
        return gate_page(self.report, self.judge.contract, self.judge.validation.frames, title)

    def outputs(self, what: str, files: Files, runtimes: Iterable[str]) -> dict[str, Outputs]:
        """Return the outputs of files, by runtime.

        A GPU runtime that fails on the first files, for example with an incomplete CUDA, is left out from then on.

        Raises:
            MissingExtra, RuntimeFailure: another one fails.
        """
        names, outputs = list(runtimes), {}
        for done, runtime in enumerate(names):
            self.on_progress(f"judging {what}", done, len(names))
            try:
                outputs[runtime] = self.judge.onnx(runtime, files)
            except (MissingExtra, RuntimeFailure) as error:
                if runtime not in GPU_RUNTIMES or runtime in self._proven:
                    raise
                log.warning("%s does not work here and is not used for judging: %s", runtime, error)
                self.runtimes = tuple(name for name in self.runtimes if name != runtime)
            self._proven.add(runtime)
        return outputs

    def exact(
        self, name: str, variant: str, runtime: str, before: Outputs, after: Outputs, held_in: FloatType = "fp32"
    ) -> Hop:
        return float_hop(
            name,
            variant,
            runtime,
            before,
            after,
            self.judge.validation,
            self.judge.contract,
            self.judge.stages,
            self.temperature,
            held_in,
        )

    def lossy(
        self, name: str, variant: str, runtime: str, before: Outputs, after: Outputs, *, min_cosine: float = -1.0
    ) -> Hop:
        """Compare with floating point; a result of a search is judged by the samples that did not choose it."""
        validation, rows = self.judge.validation, self.parts.judging
        is_chosen = is_quantized(variant) and self.parts.is_separate
        if is_chosen:
            validation, before, after = validation.at(rows), before.at(rows), after.at(rows)
        hop = lossy_hop(
            name,
            variant,
            runtime,
            before,
            after,
            validation,
            self.judge.contract,
            self.judge.stages,
            max_drop=self.options.max_drop,
            max_confidence_drop=self.options.max_confidence_drop,
            temperature=self.temperature,
            allow_drop=self.options.allow_drop,
            min_cosine=min_cosine,
            matched=self.report.temperature.get(variant),
        )
        if not is_chosen:
            return hop
        return replace(hop, flips=tuple(replace(flip, index=int(rows[flip.index])) for flip in hop.flips))

    def admit(self, hops: Sequence[Hop]) -> None:
        """Add hops to the report, and stop the export at the first refused one.

        Raises:
            GateRefused: there is one.
        """
        self.report.hops.extend(hops)
        for hop in hops:
            if not hop.passed:
                fix = QUANTIZED_FIX if is_quantized(hop.variant) else FIXES.get(hop.variant, FAULT)
                self.refuse(hop.variant, f"{hop.name} ({hop.runtime})", hop.reason, fix)

    def refuse(self, variant: str, where: str, reason: str, fix: str) -> NoReturn:
        """Record a refusal, and raise it.

        Raises:
            GateRefused: always.
        """
        best = f"; the best point found: {self.best}" if self.best and is_quantized(variant) else ""
        self.report.verdicts.append(Verdict(variant, shipped=False, reason=f"{reason}{best}"))
        raise GateRefused(
            f"the gate refused {where}, no bundle was written: {reason}{best}", fix=fix, report=self.report
        )

    def race(self, files: Mapping[VariantName, Files], engines: Mapping[VariantName, Engines]) -> list[VariantName]:
        """Time every variant on every runtime in turns; return the quantised ones that are not worth their loss.

        These are not faster than floating point, and their drop was not explicitly allowed.

        Raises:
            GateRefused: there is one, and the options are strict.
        """
        self.on_progress("timing", 0, 1)
        self.report.laps, self.report.speeds = race(
            self.judge, files, engines, self.weighty, self._exact, self.runtimes, self.options.target
        )
        slow: list[VariantName] = []
        for name in files:
            reason = speed_refusal(self.report, name)
            if not reason or self.options.allow_drop:
                self._warn_if_slower(name)
                continue
            if self.options.strict:
                self.refuse(name, "speed", reason, "ship floating point for this target")
            self.report.verdicts.append(Verdict(name, shipped=False, reason=reason))
            log.warning("%s; the bundle ships floating point", reason)
            slow.append(name)
        return slow

    def _warn_if_slower(self, name: VariantName) -> None:
        speed = self.report.speed_of(name)
        if speed is not None and speed.is_slower:
            log.warning("%s", slowness_in_words(self.report, speed))
