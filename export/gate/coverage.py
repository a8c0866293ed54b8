"""Uncertainty thresholds of every variant and target, and their description for the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidrisk.calibration.conformal import Fit, check_coverage, fit_thresholds
from vidrisk.calibration.decisions import fit_decisions
from vidrisk.export.gate.outputs import Outputs, Validation
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits

SEVERAL = "any number of its labels may hold, and each is decided alone"


def fit_coverage(
    outputs: Mapping[Any, Outputs],
    temperature: Mapping[str, Mapping[str, float]],
    validation: Validation,
    contract: Contract,
    coverage: float,
) -> dict[str, dict[str, Fit]]:
    """Fit thresholds by variant and target, on the variant's probabilities after its temperature.

    Raises:
        SettingsError: the coverage is not above 0 and below 1.
    """

    def fit(target: Target, found: Outputs, of_variant: Mapping[str, float]) -> Fit:
        truth = validation.truth[target.name]
        if target.multi_label:
            check_coverage(coverage)
            return Fit(coverage, len(truth), reason=SEVERAL)
        rows = truth >= 0
        return fit_thresholds(
            probabilities_from_logits(found.logits[target.name][rows], of_variant[target.name]),
            truth[rows],
            target.labels,
            coverage,
        )

    return {
        variant: {target.name: fit(target, found, temperature[variant]) for target in contract.targets}
        for variant, found in outputs.items()
    }


def fit_decision(
    outputs: Mapping[Any, Outputs],
    temperature: Mapping[str, Mapping[str, float]],
    validation: Validation,
    contract: Contract,
) -> dict[str, dict[str, dict[str, float]]]:
    """Fit, by variant and multi-label target, the probability from which each label holds."""
    return {
        variant: {
            target.name: dict(
                zip(
                    target.labels,
                    fit_decisions(
                        probabilities_from_logits(
                            found.logits[target.name], temperature[variant][target.name], multi_label=True
                        ),
                        validation.truth[target.name],
                    ).tolist(),
                    strict=True,
                )
            )
            for target in contract.targets
            if target.multi_label
        }
        for variant, found in outputs.items()
    }


def describe_thresholds(fits: Mapping[str, Fit]) -> dict[str, Any]:
    """Return the fields of ``runtimes.bundle.Variant`` on when its answers are uncertain.

    Args:
        fits: of the variant, by target.
    """
    fitted = {target: fit for target, fit in fits.items() if fit.groups}
    return {
        "threshold": {target: min(group.threshold for group in fit.groups) for target, fit in fitted.items()},
        "label_threshold": {
            target: {label: group.threshold for group in fit.groups for label in group.labels}
            for target, fit in fitted.items()
            if fit.is_per_class
        },
        "coverage": next((fit.coverage for fit in fitted.values()), None),
        "no_threshold": {target: fit.reason for target, fit in fits.items() if not fit.groups},
    }
