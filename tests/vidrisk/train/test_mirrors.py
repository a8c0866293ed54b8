"""Tests of mirroring: labels of a direction change with the picture.

A label of a direction without a counterpart prevents mirroring.
"""

from __future__ import annotations

import pytest
import torch

from vidrisk.data.directions import mirror_label, mirror_labels
from vidrisk.models.config import Augmentation, TrainConfig
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.train.mirrors import Mirrors, settle_mirroring

LABELS = ("jump", "turn left", "turn right")


@pytest.mark.parametrize(
    ("label", "labels", "mirrored"),
    [
        ("turn left", LABELS, "turn right"),
        ("jump", LABELS, "jump"),
        ("Turn Left", ("Turn Left", "Turn Right"), "Turn Right"),
        ("pull from left to right", ("pull from left to right", "pull from right to left"), "pull from right to left"),
        ("左转", ("左转", "右转"), "右转"),
        ("顺时针", ("顺时针", "逆时针"), "逆时针"),
        ("clockwise", ("clockwise", "anticlockwise"), "anticlockwise"),
        ("anticlockwise", ("clockwise", "anticlockwise"), "clockwise"),
        ("clockwise", ("clockwise", "counter-clockwise"), "counter-clockwise"),
        ("left", ("left", "up"), None),
        ("leftover", ("leftover", "copyright"), "leftover"),
        ("copyright", ("leftover", "copyright"), "copyright"),
        ("turn-left", ("turn-left", "turn-right"), "turn-right"),
        ("turn_left", ("turn_left", "turn_right"), "turn_right"),
        ("TurnLeft", ("TurnLeft", "TurnRight"), "TurnRight"),
        ("leftHand", ("leftHand", "rightHand"), "rightHand"),
        ("lift-left", ("lift-left",), None),
        ("ccw", ("cw", "ccw"), "cw"),
        ("CounterClockwise", ("Clockwise", "CounterClockwise"), "Clockwise"),
        ("Bright", ("Bright", "Upright"), "Bright"),
    ],
)
def test_what_a_label_is_called_in_a_mirrored_picture(
    label: str, labels: tuple[str, ...], mirrored: str | None
) -> None:
    assert mirror_label(label, labels) == mirrored


def test_all_labels_or_none_are_mirrored() -> None:
    assert mirror_labels(LABELS) == [0, 2, 1] and mirror_labels(("left", "up")) is None


def test_truth_turns_where_the_picture_does() -> None:
    one, many = Target(name="action", labels=LABELS), Target(name="defect", labels=LABELS, multi_label=True)
    truth = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1], [-1, -1, -1, -1]])
    turned = Mirrors((one, many)).turn(truth, torch.tensor([False, True, True, True]))
    assert turned.tolist() == [[1, 1, 1, 0], [2, 1, 0, 1], [0, 0, 1, 0], [-1, -1, -1, -1]]
    plain = Mirrors((Target(name="action", labels=("a", "b")),))
    assert plain.are_plain and plain.turn(truth, torch.ones(4, dtype=torch.bool)) is truth


@pytest.mark.parametrize(
    ("kind", "labels", "fits"),
    [
        ("dihedral", ("turn left", "turn right"), False),
        ("dihedral", ("move up", "move down"), False),
        ("dihedral", ("clockwise", "anticlockwise"), True),
        ("dihedral", ("clockwise", "still"), False),
        ("dihedral", ("crack", "spalling"), True),
        ("updown", ("turn left", "turn right"), True),
        ("updown", ("clockwise", "anticlockwise"), False),
        ("updown", ("MoveUp", "MoveDown"), False),
        ("updown", ("upper", "downtown"), True),
    ],
)
def test_rotations_that_make_a_label_untrue_are_refused(
    kind: Augmentation, labels: tuple[str, ...], fits: bool
) -> None:
    target, config = Target(name="action", labels=labels), TrainConfig(augment=(kind, "light"))
    assert settle_mirroring(config, None, (target,)).augment == ((kind, "light") if fits else ("light",))
    if not fits:
        with pytest.raises(SettingsError, match=rf"augment {kind}: .* is not true of|augment {kind}: .* not among"):
            settle_mirroring(config, (kind, "light"), (target,))


def test_mirroring_is_left_out_or_refused_where_a_label_has_no_counterpart(caplog: pytest.LogCaptureFixture) -> None:
    lonely, paired = (Target(name="action", labels=labels) for labels in (("left", "up"), LABELS))
    config = TrainConfig(augment=("flip", "light"))
    assert settle_mirroring(config, None, (paired,)) is config
    assert (
        settle_mirroring(config, None, (lonely,)).augment == ("light",) and "the mirror image of 'left'" in caplog.text
    )
    with pytest.raises(
        SettingsError, match=r"augment flip: the mirror image of 'left' is not among the labels; allowed: labels in"
    ):
        settle_mirroring(config, ("flip", "light"), (lonely,))
