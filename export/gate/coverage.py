"""When an answer of a variant is uncertain: fits the thresholds of every variant and target, and words them for the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidrisk.calibration.conformal import Fit, fit_thresholds
from vidrisk.export.gate.outputs import Outputs, Validation
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits


def fit_coverage(outputs: Mapping[Any, Outputs], temperature: Mapping[str, Mapping[str, float]], validation: Validation,
                 contract: Contract, coverage: float) -> dict[str, dict[str, Fit]]:
    """Fit thresholds by variant and target, on the probabilities that the variant gives after its temperature.

    Raises:
        SettingsError: a coverage that is not above 0 and under 1.
    """
    return {variant: {target.name: fit_thresholds(
        probabilities_from_logits(found.logits[target.name], temperature[variant][target.name]),
        validation.truth[target.name], target.labels, coverage) for target in contract.targets}
        for variant, found in outputs.items()}


def described_thresholds(fits: Mapping[str, Fit]) -> dict[str, Any]:
    """Fields of ``runtimes.bundle.Variant`` that say when its answers are uncertain.

    Args:
        fits: of the variant, by target.
    """
    fitted = {target: fit for target, fit in fits.items() if fit.groups}
    return {"threshold": {target: min(group.threshold for group in fit.groups) for target, fit in fitted.items()},
            "label_threshold": {target: {label: group.threshold for group in fit.groups for label in group.labels}
                                for target, fit in fitted.items() if fit.is_per_class},
            "coverage": next((fit.coverage for fit in fitted.values()), None),
            "no_threshold": {target: fit.reason for target, fit in fits.items() if not fit.groups}}
