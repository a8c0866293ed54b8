"""Training from a path: reads the data for the task, and trains a run."""

from __future__ import annotations

from pathlib import Path

from vidrisk.data import load_table
from vidrisk.data.report_data import load_report_data
from vidrisk.models.config import TrainConfig
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.train.train import train_run
from vidrisk.train.train_reports import train_reports
from vidrisk.train.tune_space import Tuning


def train_data(
    source: Path,
    config: TrainConfig,
    out: Path,
    *,
    start: Run | None = None,
    resume: bool = False,
    strict: bool = False,
    encoding: str | None = None,
    sheet: str | None = None,
    tune: Tuning | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Run:
    """Read data, train with a configuration, and write a run directory.

    Args:
        source: file or folder of the data.
        config: settings of the run.
        out: folder of the run.
        start: run to start from.
        resume: continue an unfinished run in ``out``.
        strict: refuse what otherwise only causes a warning.
        encoding: encoding of a table.
        sheet: Excel sheet of a table.
        tune: search for settings first; for classifiers only.
        on_progress: called with (what, done, total).

    Raises:
        DataError, SettingsError, MissingExtra: see ``load_table``, ``train_run``, ``load_report_data`` and
            ``train_reports``.
    """
    if config.task != "report":
        table = load_table(
            source, config.task, multi_label=config.multi_label, encoding=encoding, sheet=sheet, strict=strict
        )
        return train_run(
            table, config, out, start=start, resume=resume, strict=strict, tune=tune, on_progress=on_progress
        )
    if tune is not None:
        raise SettingsError(
            "tune of a model that writes reports",
            allowed="tasks action, risk and action+risk",
            fix="train without tune",
        )
    asked = {
        "scheme": config.report.scheme,
        "photos": config.report.photos,
        "seed": config.seed,
        "group_by": config.group_by,
        "encoding": encoding,
        "sheet": sheet,
    }
    data = load_report_data(
        source,
        scheme=config.report.scheme,
        photos=config.report.photos,
        seed=config.seed,
        group_by=config.group_by,
        strict=strict,
        encoding=encoding,
        sheet=sheet,
    )
    asked["photos"] = None if config.report.photos is None else str(Path(config.report.photos).resolve())
    return train_reports(
        data,
        config,
        out,
        source={"source": source.resolve(), **asked},
        start=start,
        resume=resume,
        on_progress=on_progress,
    )
