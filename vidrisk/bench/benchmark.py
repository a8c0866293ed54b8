"""A benchmark of all candidates: which run here, their speed, memory, distance from the limits, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from vidrisk.bench.alone import BATCH, Candidate, Footprint, footprint_of
from vidrisk.bench.conditions import Peak, describe_machine, measure_peaks
from vidrisk.bench.data import BenchData, accuracies, data_from_path, end_to_end
from vidrisk.bench.measurements import Bench, DataResult, Row
from vidrisk.bench.speed import clip_latencies, frame_latencies, throughputs
from vidrisk.decode.pool import usable_cores
from vidrisk.inference.model import Classifier, open_classifier
from vidrisk.inference.open_stages import refuse_reports
from vidrisk.inference.plan import plan_from_stages
from vidrisk.runtimes.chain import frames_of
from vidrisk.runtimes.contract.bundle import Bundle, Precision, VariantName
from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.registry import ENGINE_KINDS, GPU_RUNTIMES, pairs_for, possible_runtimes
from vidrisk.runtimes.tensorrt.build.engines import ensure_engines

PEAK_OF = {"fp32": "fp32", "int8": "int8", "mixed": "int8"}  # precision → the peak that it is compared with
LIMIT = 64  # files, unless the caller says otherwise

Rows = dict[Candidate, Row]
Classifiers = dict[Candidate, Classifier]


def run_bench(
    path: Path,
    data: Path | None = None,
    *,
    runtime: str | None = None,
    variant: str | None = None,
    threads: int | None = None,
    limit: int = LIMIT,
    encoding: str | None = None,
    sheet: str | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Bench:
    """Measure every runtime and variant of a bundle that works here.

    Args:
        path: of the bundle.
        data: clips or photos, labelled or not; if given, the whole way from file to prediction is measured, too.
        runtime: this one only.
        variant: this one only.
        threads: of the engines and of the peaks; None leaves it to the engines, and uses all cores for the peaks.
        limit: maximum number of files of ``data``.
        encoding: of a manifest, as for ``load_table``.
        sheet: of a manifest, as for ``load_table``.
        on_progress: reports what is measured.

    Raises:
        BundleError, DataError, SettingsError: no bundle, no data, no such runtime or variant.
        RuntimeFailure: no candidate runs here.
    """
    bundle = Bundle.open(path)
    refuse_reports(bundle)
    macs = _macs_per_frame(bundle)
    candidates = _candidates(bundle, runtime, variant)
    cores = threads or usable_cores()
    files, result = None, None
    if data:
        on_progress("reading the files", 0, 1)
        files = data_from_path(data, bundle.contract, limit, encoding=encoding, sheet=sheet)
    on_progress("matrix products", 0, 1)
    peaks = measure_peaks(cores)
    rows, footprints = _alone(bundle, candidates, threads, on_progress)
    with ExitStack() as stack:
        classifiers = {
            c: stack.enter_context(open_classifier(path, runtime=c.runtime, variant=c.variant, threads=threads))
            for c in footprints
        }
        rows |= _with_speed(rows, classifiers, footprints, on_progress)
        if files:
            rows, result = _with_data(rows, classifiers, files, on_progress)
    on_progress("matrix products", 0, 1)
    again = measure_peaks(cores)
    peaks = {name: max(peaks[name], again[name], key=lambda peak: peak.gmac_per_s or 0.0) for name in peaks}
    held = tuple(
        _against_peak(row, macs, peaks, _heaviest_precision(bundle, candidate.variant))
        for candidate, row in rows.items()
    )
    return Bench(
        path.resolve().name,
        bundle.digest,
        describe_machine(),
        threads,
        bundle.contract.frames,
        macs,
        BATCH,
        peaks,
        result,
        held,
    )


def _candidates(bundle: Bundle, runtime: str | None, variant: str | None) -> list[Candidate]:
    runtimes = possible_runtimes() if runtime is None else (runtime,)
    variants = tuple(bundle.manifest.variants) if variant is None else variant
    return [Candidate(*pair) for pair in pairs_for(bundle, runtimes, variants)]


def _alone(
    bundle: Bundle, candidates: list[Candidate], threads: int | None, on_progress: OnProgress
) -> tuple[Rows, dict[Candidate, Footprint]]:
    """Return a row for every candidate, and the footprint of those that run here."""
    rows: Rows = {}
    footprints = {}
    for done, candidate in enumerate(candidates):
        on_progress("memory of each candidate", done, len(candidates))
        row = Row(candidate.runtime, candidate.variant)
        try:
            if candidate.runtime in ENGINE_KINDS:  # built here, with progress and without a time limit
                ensure_engines(bundle, ENGINE_KINDS[candidate.runtime], [candidate.variant], on_progress)
            footprints[candidate] = footprint_of(bundle.root, candidate, threads)
            rows[candidate] = replace(row, memory_mb=round(footprints[candidate].peak_bytes / 1e6, 1))
        except (RuntimeFailure, MissingExtra) as error:
            rows[candidate] = replace(row, problem=str(error))
    if not footprints:
        problems = "; ".join(f"{candidate}: {row.problem}" for candidate, row in rows.items())
        raise RuntimeFailure(f"nothing can run {bundle.root.name} here: {problems}", fix="vidrisk doctor")
    return rows, footprints


def _with_speed(
    rows: Rows, classifiers: Classifiers, footprints: Mapping[Candidate, Footprint], on_progress: OnProgress
) -> Rows:
    on_progress("latency of a frame", 0, 1)
    frame = frame_latencies(classifiers)
    on_progress("latency of a clip", 0, 1)
    clip = clip_latencies(classifiers)
    throughput = throughputs(classifiers, footprints, on_progress)
    return {c: replace(rows[c], frame=frame.get(c), clip=clip[c], throughput=throughput[c]) for c in classifiers}


def _with_data(
    rows: Rows, classifiers: Classifiers, files: BenchData, on_progress: OnProgress
) -> tuple[Rows, DataResult]:
    best = {candidate: row.throughput.best_frames_per_s for candidate, row in rows.items() if row.throughput}
    decode, results = end_to_end(classifiers, files, best, on_progress)
    accuracy = accuracies(classifiers, files.table, on_progress) if files.table else {}
    measured = {c: replace(rows[c], end_to_end=results[c], accuracy=accuracy.get(c, {})) for c in classifiers}
    return rows | measured, DataResult(files.found, len(files.inputs.paths), files.unlabelled, decode)


def _macs_per_frame(bundle: Bundle) -> int | None:
    """Return the multiply-accumulates per frame of the work whose throughput is measured.

    That is the stages that run per frame, or all stages of a window.
    """
    plan, frames = plan_from_stages(bundle.stages), bundle.contract.frames
    timed = bundle.stages if plan.batches_windows else plan.frame
    counts = [stage.macs * (frames // frames_of(stage, frames)) for stage in timed if stage.macs is not None]
    return round(sum(counts) / frames) if len(counts) == len(timed) else None


def _heaviest_precision(bundle: Bundle, variant: VariantName) -> Precision:
    """Return the precision of the stage with the most multiplications in a window.

    If the multiplications are not known, it is the lowest precision.
    """
    described, frames = bundle.manifest.variants[variant], bundle.contract.frames
    if any(stage.macs is None for stage in bundle.stages):
        return described.lowest_precision
    heaviest = max(bundle.stages, key=lambda stage: (stage.macs or 0) * (frames // frames_of(stage, frames)))
    return described.precision[heaviest.name]


def _against_peak(row: Row, macs: int | None, peaks: Mapping[str, Peak], precision: Precision) -> Row:
    if macs is None or row.throughput is None:
        return row
    rate = macs * row.throughput.best_frames_per_s / 1e9
    is_held = precision in PEAK_OF and row.runtime not in GPU_RUNTIMES  # the peaks are those of the processor
    peak = peaks[PEAK_OF[precision]].gmac_per_s if is_held else None
    return replace(row, gmac_per_s=round(rate, 2), of_peak=round(rate / peak, 4) if peak else None)
