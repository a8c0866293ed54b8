"""The check before a watch begins: whether the bundle answers here as it did where it was exported."""

from __future__ import annotations

import logging
from pathlib import Path

from vidrisk.inference.model import Classifier
from vidrisk.runtimes.contract.bundle import MANIFEST, Bundle
from vidrisk.runtimes.contract.errors import AnswersDiffer
from vidrisk.verify.kept import keep, last_result
from vidrisk.verify.replay import verify_classifier

log = logging.getLogger(__name__)


def ensure_same_answers(path: Path, classifier: Classifier) -> None:
    """Verify a bundle with the engine about to be used, unless nothing changed since it was found good.

    A training run has no answers to compare with and is not verified; a bundle without golden samples is used
    nevertheless, with a warning.

    Raises:
        AnswersDiffer: its answers differ.
        BundleError, RuntimeFailure: invalid golden samples, or an engine that fails.
    """
    if not (path / MANIFEST).is_file():
        return
    digest, asked = classifier.provenance["digest"], f"{classifier.runtime} {classifier.variant}"
    known = last_result(digest, classifier.runtime, classifier.variant)
    if known and known.is_good and known.engine_files == classifier.engine_files:
        log.info("%s answers on %s as it did where it was exported: verified on %s", path.name, asked, known.when)
        return
    found = verify_classifier(Bundle.open(path), classifier)
    if found.without:
        log.warning("%s is not verified: %s", path.name, found.without)
        return
    keep(found)
    faults = [fault for fault in found.faults if fault.is_of(found.rows[0])]  # other variants do not matter here
    if faults:
        raise AnswersDiffer(
            f"{path.name} does not answer here as it did where it was exported: "
            f"{'; '.join(fault.said for fault in faults)}",
            report=found,
        )
    log.info("%s answers on %s as it did where it was exported: %d golden samples", path.name, asked, found.samples)
