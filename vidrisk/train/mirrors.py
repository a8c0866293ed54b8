"""Truth of mirrored samples: labels that say left or right are swapped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from vidrisk.data.directions import mirror_label, mirror_labels, survives_rotation, survives_upside_down
from vidrisk.data.targets import NOT_LABELLED
from vidrisk.models.config import TrainConfig
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.train.objective import columns_of_targets

log = logging.getLogger(__name__)

Misfit: TypeAlias = Callable[[str, Sequence[str]], bool]


class Mirrors:
    """Mapping from the labels of targets to their labels in a mirrored picture.

    Args:
        targets: the targets; one with a direction that has no counterpart among its labels is left unchanged.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = tuple(targets)
        self._turned = [torch.tensor(mirror_labels(target.labels) or range(len(target.labels))) for target in targets]
        self.are_plain = all(torch.equal(each, torch.arange(len(each))) for each in self._turned)

    def turn(self, truth: Tensor, mirrored: Tensor) -> Tensor:
        """Return the truth ``(B, columns)`` with the labels of mirrored samples, ``bool (B,)``, swapped."""
        if self.are_plain or not mirrored.any():
            return truth
        result = truth.clone()
        for target, columns, turned in zip(self._targets, columns_of_targets(self._targets), self._turned, strict=True):
            of_target = truth[mirrored][:, columns]
            known = of_target[:, 0] != NOT_LABELLED
            if target.multi_label:
                changed = torch.empty_like(of_target)
                changed[:, turned] = of_target
            else:
                changed = turned[of_target.clamp_min(0)]
            result[mirrored, columns] = torch.where(known[:, None], changed, of_target)
        return result


def _has_no_counterpart(label: str, labels: Sequence[str]) -> bool:
    return mirror_label(label, labels) is None


def _is_lost_by_rotation(label: str, labels: Sequence[str]) -> bool:
    return not survives_rotation(label) or _has_no_counterpart(label, labels)


def _is_lost_upside_down(label: str, labels: Sequence[str]) -> bool:
    return not survives_upside_down(label)


_MISFITS: dict[str, tuple[Misfit, str]] = {
    "flip": (_has_no_counterpart, "the mirror image of {label!r} is not among the labels"),
    "updown": (_is_lost_upside_down, "{label!r} is not true of a picture upside down"),
    "dihedral": (_is_lost_by_rotation, "{label!r} is not true of a picture that is turned"),
}
"""Per augmentation: whether it makes a label untrue, and the reason to give."""


def settle_mirroring(config: TrainConfig, asked: Sequence[str] | None, targets: Sequence[Target]) -> TrainConfig:
    """Remove mirroring and rotation that would make a label untrue.

    Labels that say left or right are swapped in mirrored pictures, if both are labels; in rotated ones they cannot be.

    Args:
        config: resolved configuration.
        asked: augmentations that the user requested; None if there was no request.
        targets: the targets with their labels.

    Raises:
        SettingsError: an augmentation was requested that does not fit the labels.
    """
    left_out = find_misfits(config.augment or (), [target.labels for target in targets])
    if asked is not None:
        refuse_misfits(left_out)
    for what in left_out.values():
        log.warning("samples are not mirrored: %s", what)
    kept = tuple(kind for kind in config.augment or () if kind not in left_out)
    return config.model_copy(update={"augment": kept}) if left_out else config


def find_misfits(kinds: Sequence[str], labels: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the augmentations that make a label untrue, with the reason; ``labels`` has the labels of each target."""
    found = {}
    for kind in kinds:
        misfit, reason = _MISFITS.get(kind, (None, ""))
        lost = [label for each in labels for label in each if misfit and misfit(label, each)]
        if lost:
            found[kind] = reason.format(label=lost[0])
    return found


def refuse_misfits(misfits: Mapping[str, str]) -> None:
    """Refuse augmentations that make a label untrue, as ``find_misfits`` returns them.

    Raises:
        SettingsError: there is one.
    """
    for kind, what in misfits.items():
        raise SettingsError(
            f"augment {kind}: {what}",
            allowed="labels in pairs, such as left and right, for flip; or no mirroring",
            fix=f"leave {kind} out of augment",
        )
