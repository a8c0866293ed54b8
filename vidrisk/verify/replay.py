"""Replay of a bundle's golden samples on every runtime and variant that works here, one after the other."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from vidrisk.inference.model import Classifier, classifier_from_bundle
from vidrisk.inference.open_stages import refuse_reports
from vidrisk.runtimes.contract.bundle import Bundle, VariantName
from vidrisk.runtimes.contract.errors import Interrupted, MissingExtra, RuntimeFailure, SettingsError, VidriskError
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.golden import Golden, read_golden
from vidrisk.runtimes.registry import engine_version, exact_runtimes, pairs_for
from vidrisk.verify.faults import faults_of
from vidrisk.verify.judge import ASKED, answers_of, compare_answers, tolerance_of
from vidrisk.verify.result import Row, Verification

WHY_NONE = {
    None: "exported by a version without them",
    False: "left out when it was exported",
    True: "taken out after the export",
}


def verify_bundle(
    path: Path, *, runtime: str | None = None, variant: str | None = None, on_progress: OnProgress = ignore_progress
) -> Verification:
    """Replay the golden samples of a bundle.

    Args:
        path: of the bundle.
        runtime: this one only; None takes all that are installed.
        variant: this one only; None takes all that passed the gate.
        on_progress: reports what is computed, and engines that have to be built first.

    Raises:
        BundleError: no bundle, a damaged bundle, invalid golden samples, or no such variant.
        AnswersDiffer: golden samples of another contract.
        SettingsError: no such runtime.
        MissingExtra, RuntimeFailure: nothing runs here.
        Interrupted: Ctrl-C while an engine is built.
    """
    bundle = Bundle.open(path)
    refuse_reports(bundle)
    runtimes = exact_runtimes() if runtime is None else (runtime,)
    if not runtimes:
        raise MissingExtra("onnxruntime", "cpu")
    pairs = pairs_for(bundle, runtimes, bundle.passed if variant is None else variant)
    golden = read_golden(bundle)
    if golden is None:
        return without_golden(bundle)
    rows = []
    for done, (each, name) in enumerate(pairs):
        on_progress(f"asking {each} {name}", done, len(pairs))
        rows.append(_row(bundle, golden, each, name, on_progress))
    if all(row.problem for row in rows):
        raise RuntimeFailure(
            f"nothing runs {bundle.root.name} here: {'; '.join(f'{row}: {row.problem}' for row in rows)}",
            fix="vidrisk doctor",
        )
    return verification_of(bundle, golden, rows)


def verify_classifier(bundle: Bundle, classifier: Classifier) -> Verification:
    """Verify a classifier that is already open.

    Raises:
        As ``verify_bundle``.
    """
    golden = read_golden(bundle)
    if golden is None:
        return without_golden(bundle)
    ((_, variant),) = pairs_for(bundle, [classifier.runtime], classifier.variant)
    return verification_of(bundle, golden, [row_of(bundle, golden, classifier, variant)])


def without_golden(bundle: Bundle) -> Verification:
    return Verification(
        bundle.root.resolve(),
        bundle.digest,
        0,
        "",
        without=f"it has no golden samples: {WHY_NONE[bundle.manifest.golden]}",
    )


def verification_of(bundle: Bundle, golden: Golden, rows: list[Row]) -> Verification:
    told = golden.told
    return Verification(
        bundle.root.resolve(),
        bundle.digest,
        told.samples,
        f"{told.runtime} {told.engine}",
        tuple(rows),
        faults_of(bundle, golden, rows),
    )


def _row(bundle: Bundle, golden: Golden, runtime: str, variant: VariantName, on_progress: OnProgress) -> Row:
    begin = time.perf_counter()
    try:
        with classifier_from_bundle(bundle, runtime=runtime, variant=variant, on_progress=on_progress) as classifier:
            row = row_of(bundle, golden, classifier, variant)
    except (SettingsError, Interrupted):
        raise
    except VidriskError as error:
        row = Row(runtime, variant, engine_version(runtime) or "", problem=str(error))
    return replace(row, seconds=round(time.perf_counter() - begin, 3))


def row_of(bundle: Bundle, golden: Golden, classifier: Classifier, variant: VariantName) -> Row:
    """Verify one classifier.

    Raises:
        RuntimeFailure: the engine fails.
    """
    answers = answers_of(classifier, golden)
    found = compare_answers(answers, golden, variant, bundle.manifest.variants[variant], bundle.contract.targets)
    counts, unproved = answers.layers.counts, answers.layers.unproved
    precision = bundle.manifest.variants[variant].lowest_precision
    asked = ASKED[precision]
    note = "" if unproved or asked in counts else f"made for {asked}, but no layer runs in it here"
    return Row(
        classifier.runtime,
        variant,
        engine_version(classifier.runtime) or "",
        agreement=found.agreement,
        largest=float(found.shift.max()),
        mean=found.mean,
        largest_logit_error=float(found.logit_errors.max()),
        tolerance=tolerance_of(precision, golden.told.variants[variant]).largest,
        wrong=int(found.wrong.sum()),
        unanswered=int(found.unanswered.sum()),
        layers=counts,
        unproved=unproved,
        note=note,
        engine_files=classifier.engine_files,
    )
