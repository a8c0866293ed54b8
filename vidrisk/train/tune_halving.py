"""Successive halving: all trials on the first fold, the better half on the second one, and so on.

Jamieson & Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter Optimization. Trial 0, the default,
runs on all folds.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from vidrisk.metrics.standard_error import Losses
from vidrisk.models.config import TrainConfig
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.tune_folds import FoldJudge
from vidrisk.train.tune_log import Outcome, TuneLog
from vidrisk.train.tune_space import Trial, Tuning

log = logging.getLogger(__name__)

LEAST_KEPT = 2  # minimum number of trials that continue


@dataclass(frozen=True)
class Halving:
    """A search with a log of its finished parts.

    Attributes:
        configs: resolved, by number of the trial.
        folds: number of folds.
    """

    trials: tuple[Trial, ...]
    configs: dict[int, TrainConfig]
    folds: int
    tuning: Tuning
    log: TuneLog
    judge: FoldJudge
    on_progress: OnProgress

    def halve(self) -> tuple[list[int], int, bool]:
        """Run the remaining trials; return the ones compared last, the number of folds, and whether time ran out.

        Raises:
            SettingsError: the default settings cannot be evaluated.
        """
        numbers = [trial.number for trial in self.trials]
        members, depth, stopped = numbers, 0, False
        for fold in range(self.folds):
            # Trials that share views run one after the other; the default runs first, to measure its time.
            for number in sorted(
                numbers, key=lambda number: (number != 0, self.judge.key_of(self.configs[number]), number)
            ):
                if self.log.get(number, fold) is None:
                    stopped = number != 0 and not self._fits(number)
                    if stopped:
                        break
                    self._run(number, fold)
            if stopped:
                break
            members, depth = numbers, fold + 1
            numbers = self._better_half(numbers, depth)
        for fold in range(self.folds):
            if self.log.get(0, fold) is None:
                self._run(0, fold)
        if not depth:
            members, depth = [number for number in numbers if self.log.get(number, 0) is not None], 1
        return members, depth, stopped

    def losses_of(self, number: int, depth: int) -> Losses:
        """Return the concatenated losses of the first ``depth`` folds; infinite if the trial failed."""
        found: list[float] = []
        for fold in range(depth):
            outcome = self.log.get(number, fold)
            size = len(self.judge.units_of(fold))
            found += outcome.losses if outcome is not None and not outcome.failed else [math.inf] * size
        return np.array(found)

    def _better_half(self, numbers: list[int], depth: int) -> list[int]:
        kept = sorted(numbers, key=lambda number: (self.losses_of(number, depth).mean(), number))[
            : max(LEAST_KEPT, math.ceil(len(numbers) / 2))
        ]
        return sorted({0, *(number for number in kept if np.isfinite(self.losses_of(number, depth)).all())})

    def _fits(self, number: int) -> bool:
        """Estimate whether a fold of a trial, and the rest of the default one, would finish in time."""
        if self.tuning.minutes is None:
            return True
        epochs = self.configs[number].optim.epochs
        taken = [each.seconds for each in self.log if each.trial == number] or [
            each.seconds * max(1.0, epochs / self.configs[each.trial].optim.epochs)
            for each in self.log
            if not each.failed
        ]
        of_default = [each.seconds for each in self.log if each.trial == 0]
        reserved = (self.folds - len(of_default)) * max(of_default)
        return sum(each.seconds for each in self.log) + reserved + max(taken) <= 60 * self.tuning.minutes

    def _run(self, number: int, fold: int) -> None:
        def tell(what: str, done: int, total: int) -> None:
            self.on_progress(
                f"trial {number}/{len(self.trials) - 1}, fold {fold + 1}/{self.folds}: {what}", done, total
            )

        begin = perf_counter()
        settings = dict(self.trials[number].settings)
        try:
            losses, metric = self.judge.judge(self.configs[number], fold, tell)
            failed = "" if np.isfinite(losses).all() else "an out-of-fold loss is not finite"
        except SettingsError as error:
            losses, metric, failed = (), math.nan, str(error)
        if failed and number == 0:
            raise SettingsError(f"the default settings cannot be evaluated: {failed}", fix="correct them, then tune")
        seconds = round(perf_counter() - begin, 3)
        if failed:
            log.warning("trial %d failed: %s", number, failed)
        self.log.add(
            Outcome(number, fold, settings, () if failed else losses, None if failed else metric, seconds, failed)
        )
