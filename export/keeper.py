"""The gatekeeper of one export: runs stages on the validation samples, lets hops pass or stops, and writes all of it down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from vidrisk.calibration.files import graph_files
from vidrisk.export.gate import few_samples_note, float_hop, lossy_hop, speed_refusal
from vidrisk.export.judge import Files, StageJudge
from vidrisk.export.outputs import Outputs
from vidrisk.export.page import gate_page
from vidrisk.export.report import GateReport, Hop, Lap, Verdict
from vidrisk.export.trained import ExportOptions
from vidrisk.runtimes.bundle import VariantName
from vidrisk.runtimes.errors import GateRefused
from vidrisk.runtimes.registry import file_runtimes

OnProgress = Callable[[str, int, int], None]
QUANTISED = ("int8", "mixed")
RACE_ROUNDS = 11
FEW_ROUNDS = 3  # where speed judges nothing
# What can be done about a refusal, by the variant of the hop.
FAULT = "this is a fault of the export, not of the data: please report it with the versions in use"
FIXES = {"trained": "compare labels.json and config.yaml with what was trained",
         "fp16": "ship another variant, or allow the drop",
         **dict.fromkeys(QUANTISED,
                         "calibrate on more or other samples, fine-tune with the rounding (qat_steps), or allow the drop")}


class Gatekeeper:
    """Attributes:
        report: fills as the export goes.
        best: what the search for a quantised variant came to, in words; a refusal of one says it.
    """

    def __init__(self, judge: StageJudge, options: ExportOptions, on_progress: OnProgress) -> None:
        self.judge, self.options, self.on_progress = judge, options, on_progress
        count = len(judge.validation.names)
        self.report = GateReport(options.max_drop, count, note=few_samples_note(count, options.max_drop), target=options.target)
        self.best = ""

    def page(self, title: str) -> str:
        return gate_page(self.report, self.judge.contract, self.judge.validation.frames, title)

    def outputs(self, what: str, files: Files, runtimes: Iterable[str]) -> dict[str, Outputs]:
        """What files compute, by runtime."""
        names, outputs = list(runtimes), {}
        for done, runtime in enumerate(names):
            self.on_progress(f"judging {what}", done, len(names))
            outputs[runtime] = self.judge.onnx(runtime, files)
        return outputs

    def exact(self, name: str, variant: str, runtime: str, before: Outputs, after: Outputs) -> Hop:
        return float_hop(name, variant, runtime, before, after, self.judge.validation, self.judge.contract)

    def lossy(self, name: str, variant: str, runtime: str, before: Outputs, after: Outputs, *, min_cosine: float = -1.0) -> Hop:
        return lossy_hop(name, variant, runtime, before, after, self.judge.validation, self.judge.contract,
                         max_drop=self.options.max_drop, allow_drop=self.options.allow_drop, min_cosine=min_cosine)

    def admit(self, hops: Sequence[Hop]) -> None:
        """Take hops into the report, and stop the export at the first refused one.

        Raises:
            GateRefused: there is one.
        """
        self.report.hops.extend(hops)
        for hop in hops:
            if not hop.passed:
                self.refuse(hop.variant, f"{hop.name} ({hop.runtime})", hop.reason, FIXES.get(hop.variant, FAULT))

    def refuse(self, variant: str, where: str, reason: str, fix: str) -> None:
        """Raises:
            GateRefused: in any case.
        """
        best = f"; the best point found: {self.best}" if self.best and variant in QUANTISED else ""
        self.report.verdicts.append(Verdict(variant, shipped=False, reason=f"{reason}{best}"))
        raise GateRefused(f"the gate refused {where}, no bundle was written: {reason}{best}", fix=fix, report=self.report)

    def race(self, files: Mapping[VariantName, Files]) -> None:
        """Time every variant on every runtime side by side.

        Raises:
            GateRefused: one for processors is slower than floating point.
        """
        self.on_progress("timing", 0, 1)
        rounds = RACE_ROUNDS if self.options.target == "cpu" else FEW_ROUNDS
        sizes = {str(name): sum(file.stat().st_size for path in graphs.values() for file in graph_files(path))
                 for name, graphs in files.items()}
        encoders = {(str(name), runtime): files[name]["encoder"] for runtime in file_runtimes() for name in files}
        self.report.laps = [Lap(name, runtime, seconds * 1e3, 1 / seconds, sizes[name])
                            for (name, runtime), seconds in self.judge.seconds_per_frame(encoders, rounds).items()]
        for name in files:
            reason = speed_refusal(self.report, name)
            if reason and not self.options.allow_drop:
                self.refuse(name, "speed", reason, "ship floating point for this target")
