"""Search for settings by cross-validation on the training split, before a run is trained with them.

    draw trials (``tune_space``) → train and judge them on folds (``tune_halving``, ``tune_folds``) → take one
    (``tune_choice``)

Finished results are in ``RUN/tune/tune.jsonl``, so a search that was killed continues and makes the same choice.
``RUN/tune/tune.json`` records the choice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vidrisk.data import Table
from vidrisk.metrics.standard_error import standard_error
from vidrisk.models.config import TrainConfig
from vidrisk.models.families import Source, family_of
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import BundleError, DataError, Interrupted, SettingsError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.head_choice import choose_head
from vidrisk.train.shares import Share
from vidrisk.train.tune_choice import Chosen, choose_trial
from vidrisk.train.tune_folds import FoldJudge, count_folds
from vidrisk.train.tune_halving import Halving
from vidrisk.train.tune_log import LOG, TuneLog, other_search
from vidrisk.train.tune_space import (
    AUGMENT,
    FRAMES,
    KIND,
    PAIRS,
    WEIGHTS,
    Tuning,
    config_with,
    draw_trials,
    simplicity_of,
    space_of,
    value_of,
)

log = logging.getLogger(__name__)

FOLDER, RESULT = "tune", "tune.json"

Settle = Callable[[TrainConfig], TrainConfig]


def check_tuning(tuning: Tuning | None, config: TrainConfig, out: Path, share: Share) -> None:
    """Refuse an impossible search before anything is read.

    Raises:
        SettingsError: several processes, a vision-language model, or a folder with an unfinished search but no search
            requested.
    """
    if tuning is None:
        if (out / FOLDER / LOG).is_file():
            raise SettingsError(f"{out} was started with a search for settings", fix="resume with the same tune")
        return
    if share.world > 1:
        raise SettingsError(
            "tune in several processes", allowed="one process", fix="tune alone, and train by its config.yaml"
        )
    if family_of(Source(config.backbone)).build is not None:
        raise SettingsError(
            f"tune of {config.backbone}", allowed="an encoder of photos or clips", fix="train without tune"
        )


def search_settings(
    config: TrainConfig,
    settled: TrainConfig,
    tuning: Tuning,
    settle: Settle,
    contract: Contract,
    data: ClipDataset,
    bases: list[Path],
    share: Share,
    out: Path,
    fingerprint: str,
    scratch: Path,
    on_progress: OnProgress,
) -> TrainConfig:
    """Return the configuration with the chosen settings, and write ``RUN/tune``.

    Args:
        config: the default configuration, not resolved.
        settled: the same, resolved: its values that depend on the data hold for all trials.
        tuning: extent of the search.
        settle: resolves a configuration.
        contract: contract of the model.
        data: the training split.
        bases: folders of runs that are merged into the backbone.
        share: share of this process.
        out: folder of the run; an unfinished search in it is continued.
        fingerprint: fingerprint of settings and data.
        scratch: folder for temporary files.
        on_progress: called with (what, done, total).

    Raises:
        DataError: too few samples of a label.
        SettingsError: nothing is left to search, or the default settings give a loss that is not finite.
        BundleError: the folder holds another search, or a damaged one.
        Interrupted: Ctrl-C.
    """
    config = config_with(config, {name: value_of(settled, name) for name in (FRAMES, PAIRS, AUGMENT, WEIGHTS)})
    done = _read_result(out / FOLDER / RESULT, fingerprint)
    if done is not None:
        return config_with(config, done)
    table = Table(Path(), "action", tuple(data.samples))
    folds = count_folds(table)
    default = choose_head(settled, contract, data, bases, on_progress)
    sees_order = contract.time is not None and family_of(Source(default.backbone)).per != "window"
    space = space_of(default, contract.targets, tuning.fixed, sees_order=sees_order)
    trials = draw_trials(space, tuning.trials, config.seed)
    config = config_with(config, {KIND: default.head.kind})  # for every trial that does not change it, and for the run
    configs = {trial.number: settle(config_with(config, trial.settings)) for trial in trials}
    judge = FoldJudge(contract, data, folds, config.seed, bases, share, scratch)
    of_search = hashlib.sha256(
        json.dumps([fingerprint, [dict(trial.settings) for trial in trials]]).encode()
    ).hexdigest()
    search = Halving(trials, configs, folds, tuning, TuneLog(out / FOLDER, of_search, folds), judge, on_progress)
    try:
        members, depth, stopped = search.halve()
    except KeyboardInterrupt:
        raise Interrupted("stopped by Ctrl-C", fix=f"run it again with resume, which continues in {out}") from None
    units = [unit for fold in range(depth) for unit in judge.units_of(fold)]
    losses = {number: search.losses_of(number, depth) for number in members}
    chosen = choose_trial(losses, units, {number: simplicity_of(configs[number]) for number in members})
    if {each.trial for each in search.log} == {chosen.trial}:  # there was no time for another one
        loss = losses[chosen.trial].mean()
        chosen = replace(chosen, why=f"only trial {chosen.trial} was run; its loss is {loss:.4f}")
    told = {"search": fingerprint, "head": default.head.kind}
    _write_result(out / FOLDER / RESULT, told, search, chosen, depth, stopped, units)
    log.info("trial %d of %d is taken: %s", chosen.trial, len(trials), chosen.why)
    return config_with(config, trials[chosen.trial].settings)


def _write_result(
    path: Path, told: dict[str, str], search: Halving, chosen: Chosen, depth: int, stopped: bool, units: list[str]
) -> None:
    trials: list[dict[str, Any]] = []
    for trial in search.trials:
        found = [each for each in search.log if each.trial == trial.number]
        known = [each for each in found if not each.failed]
        losses = np.array([loss for each in known for loss in each.losses])
        places = [unit for each in known for unit in search.judge.units_of(each.fold)]
        error = standard_error(losses, places) if len(losses) else math.inf
        trials.append(
            {
                "trial": trial.number,
                "settings": dict(trial.settings),
                "folds": len(found),
                "loss": float(losses.mean()) if len(losses) else None,
                "loss_error": error if math.isfinite(error) else None,
                "metric": float(np.mean([each.metric for each in known])) if known else None,
                "seconds": round(sum(each.seconds for each in found), 3),
                "failed": next((each.failed for each in found if each.failed), ""),
            }
        )
    content = {
        **told,
        "chosen": chosen.trial,
        "best": chosen.best,
        "why": chosen.why,
        "settings": dict(search.trials[chosen.trial].settings),
        "metric": search.configs[0].optim.metric,
        "folds": search.folds,
        "compared_on": depth,
        "samples": len(units),
        "asked": search.tuning.trials,
        "fixed": sorted(search.tuning.fixed),
        "time_was_up": stopped,
        "seconds": round(sum(each.seconds for each in search.log), 3),
        "trials": trials,
    }
    staged = path.with_suffix(".json.tmp")
    staged.write_text(
        json.dumps(versions.TUNE.stamp(content), indent=2, ensure_ascii=False) + "\n",
        encoding="utf-8",
        errors="backslashreplace",
    )
    staged.replace(path)


def _read_result(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the chosen settings, including the default head, or None if no search has finished.

    Raises:
        BundleError: the result is damaged, or was left by another search.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        versions.TUNE.is_newer(content.get(versions.VERSION))
        search, settings = content["search"], {KIND: content["head"], **content["settings"]}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, DataError) as error:
        raise BundleError(f"{path} is damaged: {error}", fix="delete it, then run it again with resume") from error
    if search != fingerprint:
        raise other_search(path)
    return settings
