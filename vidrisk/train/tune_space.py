"""The settings that a search tries: the default ones, then random ones that differ in a few places."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidrisk.models.config import TrainConfig
from vidrisk.models.encoders import PAIR
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.train.mirrors import find_misfits

LEAST_TRIALS, MOST_TRIALS = 2, 200
MOST_CHANGES = 4  # maximum number of changed settings in a trial
BLOCKS, KIND, EPOCHS, RATE, AUGMENT = "lora.last_blocks", "head.kind", "optim.epochs", "optim.lora_lr", "augment"
PAIRS = "rgb_diff"  # for clips only
FRAMES, WEIGHTS = "frames", "optim.class_weights"  # never searched
KINDS_OF_CLIPS = ("motion", "segments", "linear", "transformer")
KINDS_OF_OTHERS = ("linear", "mlp")  # for photos, and encoders of whole windows
VALUES: dict[str, tuple[Any, ...]] = {
    BLOCKS: (0, 2, 5),
    RATE: (5e-5, 2e-4, 1e-3),
    EPOCHS: (5, 10, 20),
    "optim.mixup": (0.0, 0.2),
    "head.dropout": (0.1, 0.3, 0.5),
    "optim.label_smoothing": (0.0, 0.1),
}
# From the simplest head to the one with the most to train.
KINDS = ("auto", "linear", "motion", "segments", "mlp", "attention", "transformer")
ALL_BLOCKS = 10_000

Settings = Mapping[str, Any]
Space = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Tuning:
    """Extent of a search.

    Attributes:
        trials: settings to try, including the default ones.
        minutes: no fold starts that would not finish within this time; None for no limit.
        fixed: dotted names of settings that the user has chosen.

    Raises:
        SettingsError: trials or minutes are out of range.
    """

    trials: int
    minutes: float | None = None
    fixed: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if not _is_number(self.trials, int) or not LEAST_TRIALS <= self.trials <= MOST_TRIALS:
            raise SettingsError(f"tune={self.trials!r}", allowed=f"{LEAST_TRIALS} to {MOST_TRIALS} trials")
        if self.minutes is not None and not (_is_number(self.minutes, (int, float)) and 0 <= self.minutes < 1e6):
            raise SettingsError(f"tune_minutes={self.minutes!r}", allowed="a number from 0")


def _is_number(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def tuning_from_options(trials: int | None, minutes: float | None, fixed: Collection[str]) -> Tuning | None:
    """Return the extent of the search, or None if no trials are requested.

    Raises:
        SettingsError: minutes without trials, or out of range.
    """
    if trials is None:
        if minutes is not None:
            raise SettingsError("tune_minutes without tune", fix="add tune, or leave tune_minutes out")
        return None
    return Tuning(trials, minutes, frozenset(fixed))


@dataclass(frozen=True)
class Trial:
    """Settings to try. Trial 0 changes none."""

    number: int
    settings: Settings


def space_of(
    config: TrainConfig, targets: Sequence[Target], fixed: Collection[str], *, sees_order: bool
) -> dict[str, list[Any]]:
    """Return the values to try by setting, the default one first.

    Settings that are fixed or do not apply are left out. ``config`` is the default configuration, resolved, with a head
    chosen; ``sees_order`` says whether the head gets features per moment.

    Raises:
        SettingsError: nothing is left to search.
    """
    kinds = [
        kind
        for kind in (KINDS_OF_CLIPS if sees_order else KINDS_OF_OTHERS)
        if kind != "transformer" or config.head.hidden % config.head.heads == 0
    ]
    values: dict[str, Sequence[Any]] = {KIND: kinds, AUGMENT: _augmentations(config, targets), **VALUES}
    if sees_order and config.frames % PAIR == 0 and config.frames >= 2 * PAIR:
        values[PAIRS] = (False, True)
    if is_fixed(BLOCKS, fixed) and config.lora.last_blocks == 0:
        values.pop(RATE)
    space = {}
    for name, found in values.items():
        default = value_of(config, name)
        known = [default, *(value for value in found if value != default)]
        if len(known) > 1 and not is_fixed(name, fixed):
            space[name] = known
    if not space:
        raise SettingsError(
            "a search with every setting already chosen",
            allowed=f"one of {', '.join(values)} that is left open",
            fix="leave some of them out of the settings",
        )
    return space


def is_fixed(name: str, fixed: Collection[str]) -> bool:
    """Return whether a setting, or the section that it is in, was chosen."""
    return name in fixed or name.partition(".")[0] in fixed


def _augmentations(config: TrainConfig, targets: Sequence[Target]) -> list[tuple[str, ...]]:
    default = config.augment or ()
    can_flip = not find_misfits(("flip",), [target.labels for target in targets])
    more = tuple(kind for kind in ("erase", "colour") if kind not in default)
    return [*dict.fromkeys([default, (), *([("flip",)] if can_flip else []), (*default, *more)])]


def draw_trials(space: Space, count: int, seed: int) -> tuple[Trial, ...]:
    """Draw distinct trials, deterministic by seed; fewer if the space is smaller.

    Number 0 is the default; every other one differs from it in up to four settings, so the effect of each can be seen.
    """
    rng = random.Random(seed)
    found: dict[tuple[tuple[str, Any], ...], None] = {(): None}
    for _ in range(200 * count):
        if len(found) == count:
            break
        changed = set(rng.sample(sorted(space), rng.randint(1, min(MOST_CHANGES, len(space)))))
        settings = {name: rng.choice(list(space[name][1:])) for name in space if name in changed}
        blocks = settings.get(BLOCKS, space[BLOCKS][0] if BLOCKS in space else None)
        if blocks == 0:
            settings.pop(RATE, None)  # has no effect without LoRA
        found.setdefault(tuple(settings.items()))
    return tuple(Trial(number, dict(settings)) for number, settings in enumerate(found))


def value_of(config: TrainConfig, name: str) -> Any:
    """Return a setting by its dotted name; the automatic head of photos is linear."""
    section, _, key = name.rpartition(".")
    value = getattr(getattr(config, section) if section else config, key)
    return "linear" if name == KIND and value == "auto" else value


def config_with(config: TrainConfig, settings: Settings) -> TrainConfig:
    """Return a configuration with some settings changed, given by their dotted names."""
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        value = tuple(value) if isinstance(value, list) else value
        changed = getattr(config, section).model_copy(update={key: value}) if section else value
        config = config.model_copy(update={section or key: changed})
    return config


def simplicity_of(config: TrainConfig) -> tuple[int, int, int]:
    """Return a sort key, the simplest first: blocks that LoRA adapts, kind of head, epochs."""
    blocks = config.lora.last_blocks
    return ALL_BLOCKS if blocks is None else blocks, KINDS.index(config.head.kind), config.optim.epochs
