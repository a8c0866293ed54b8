"""Truth of mirrored samples: labels that say left or right are swapped."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from vidrisk.data.directions import mirror_label, mirror_labels
from vidrisk.data.targets import NOT_LABELLED
from vidrisk.models.config import TrainConfig
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.train.objective import columns_of_targets

log = logging.getLogger(__name__)

MIRRORING = ("flip", "dihedral")


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


def settle_mirroring(config: TrainConfig, asked: Sequence[str] | None, targets: Sequence[Target]) -> TrainConfig:
    """Remove mirroring if a label says left or right, and its mirrored counterpart is not a label.

    Args:
        config: resolved configuration.
        asked: augmentations that the user requested; None if there was no request.
        targets: the targets with their labels.

    Raises:
        SettingsError: mirroring was requested, but does not fit the labels.
    """
    kinds = [kind for kind in config.augment or () if kind in MIRRORING]
    lonely = [label for target in targets for label in target.labels if mirror_label(label, target.labels) is None]
    if not kinds or not lonely:
        return config
    what = f"the mirror image of {lonely[0]!r} is not among the labels"
    if asked is not None:
        raise SettingsError(
            f"augment {kinds[0]}: {what}",
            allowed="labels in pairs, such as left and right; or no mirroring",
            fix=f"leave {kinds[0]} out of augment",
        )
    log.warning("samples are not mirrored: %s", what)
    return config.model_copy(update={"augment": tuple(kind for kind in config.augment or () if kind not in MIRRORING)})
