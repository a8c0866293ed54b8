"""Tests of a search for settings on real photos.

It uses the training split alone, can be killed and resumed, and keeps its time limit.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vidrisk.cli.views import print_training
from vidrisk.data import Sample, Table, load_table
from vidrisk.models.config import TrainConfig, config_from_options, write_config
from vidrisk.models.encoders import Encoder
from vidrisk.models.pretrained import contract_from_config
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train import dataset, head_choice, tune_halving
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.shares import Share
from vidrisk.train.train import labels_from_table, settle_config, train_run
from vidrisk.train.train_data import train_data
from vidrisk.train.tune import check_tuning
from vidrisk.train.tune_folds import FoldJudge, count_folds
from vidrisk.train.tune_space import VALUES, Tuning

ConfigOf = Callable[..., TrainConfig]
FIXED = frozenset(["optim.epochs", "augment", "head.kind"])
QUICK = ("optim.epochs=1", "optim.batch_size=8", "augment=[]", "head.kind=linear", "compare=false", "trackers=[]")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Return a table of 15 photos of three colours: 9 to train in three folds, 3 to validate and 3 to test."""
    root, samples = tmp_path_factory.mktemp("few"), []
    for number in range(15):
        pixels = np.random.default_rng(number).integers(60, 140, (64, 64, 3))
        pixels[..., number % 3] += 40
        path = root / f"{number:02}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        samples.append(
            Sample(
                path,
                path.name,
                {"action": "abc"[number % 3]},
                split="train" if number < 9 else "val" if number < 12 else "test",
            )
        )
    return Table(root, "action", tuple(samples))


class StoppedError(Exception):
    """Exception by which a test ends the training."""


def stop_at_epoch_1(what: str, done: int, total: int) -> None:
    if what == "epoch 1/1":
        raise StoppedError


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "tune" / "tune.jsonl").read_text(encoding="utf-8").splitlines()]


def result_of(run: Path) -> dict[str, Any]:
    """Return the choice and the measurements of a search, without times and without the identity of its data."""
    found: dict[str, Any] = json.loads((run / "tune" / "tune.json").read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key not in ("search", "seconds", "trials")} | {
        "trials": [{key: value for key, value in trial.items() if key != "seconds"} for trial in found["trials"]]
    }


@pytest.fixture(scope="module")
def searched(few: Table, config_of: ConfigOf, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with a search of four trials on three folds."""
    return train_run(few, config_of(*QUICK), tmp_path_factory.mktemp("runs") / "run", tune=Tuning(4, fixed=FIXED))


@pytest.mark.slow(minutes=0.3)
def test_the_better_half_goes_on_and_the_default_goes_all_the_way(searched: Run) -> None:
    result = result_of(searched.root)
    assert (result["folds"], result["compared_on"], result["samples"], result["asked"]) == (3, 3, 9, 4)
    folds = {trial["trial"]: trial["folds"] for trial in result["trials"]}
    assert folds[0] == 3 and sorted(folds.values())[:1] == [1] and sum(fold == 3 for fold in folds.values()) in (2, 3)
    assert all(
        trial["loss"] > 0 and 0 <= trial["metric"] <= 1 and not FIXED & set(trial["settings"])
        for trial in result["trials"]
    )
    head, *lines = lines_of(searched.root)
    assert head["folds"] == 3 and len(lines) == sum(folds.values()) and all(len(line["losses"]) == 3 for line in lines)
    first = {line["trial"]: np.mean(line["losses"]) for line in lines if line["fold"] == 0}
    second = {line["trial"] for line in lines if line["fold"] == 1}
    assert second == {0, *sorted(first, key=lambda trial: (first[trial], trial))[:2]}


@pytest.mark.slow(minutes=0.3)
def test_the_run_is_trained_by_what_was_chosen(searched: Run) -> None:
    result = result_of(searched.root)
    written = Run.open(searched.root).config
    for name, value in result["settings"].items():
        section, _, key = name.partition(".")
        assert getattr(getattr(written, section), key) == value
    metrics = json.loads((searched.root / "metrics.json").read_text())
    assert metrics["samples"] == {"train": 9, "val": 3, "test": 3} and metrics["val"]["action"]["n"] == 3


@pytest.mark.slow(minutes=0.3)
def test_val_and_test_are_never_seen_by_the_search(
    few: Table, searched: Run, config_of: ConfigOf, tmp_path: Path
) -> None:
    """The search gives the same losses and choice if val and test have other labels and fewer samples."""
    other = few.with_samples(
        sample if sample.split == "train" else replace(sample, labels={"action": "a"}) for sample in few.samples[:-1]
    )
    run = train_run(other, config_of(*QUICK), tmp_path / "run", tune=Tuning(4, fixed=FIXED))
    losses = [[line["losses"] for line in lines_of(root)[1:]] for root in (searched.root, run.root)]
    assert losses[0] == losses[1] and result_of(run.root) == result_of(searched.root)


KILLED = """
import os, signal, sys
from pathlib import Path
from vidrisk.data import load_table
from vidrisk.models.config import config_from_options
from vidrisk.train.train import labels_from_table, settle_config, train_run
from vidrisk.train.tune_space import Tuning
table, config, out, fold, what = sys.argv[1:]
def tell(told, done, total):
    if f", fold {fold}/" in told and what in told:
        os.kill(os.getpid(), signal.SIGKILL)
train_run(load_table(Path(table), "action"), config_from_options(Path(config)), Path(out), on_progress=tell,
          tune=Tuning(4, fixed=frozenset(["optim.epochs", "augment", "head.kind"])))
"""


@pytest.mark.slow(minutes=0.6)
@pytest.mark.parametrize(("fold", "what"), [(1, "trial 2/3"), (3, "epoch 1/1")])
def test_a_search_that_was_killed_comes_to_the_same_choice(
    few: Table, searched: Run, config_of: ConfigOf, tmp_path: Path, fold: int, what: str
) -> None:
    rows = [f"{sample.name},{sample.labels['action']},{sample.split}" for sample in few.samples]
    manifest = few.root / "m.csv"
    manifest.write_text("path,label,split\n" + "\n".join(rows) + "\n")
    write_config(config_of(*QUICK), tmp_path / "c.yaml")
    run = tmp_path / "run"
    end = subprocess.run(
        [sys.executable, "-c", KILLED, manifest, tmp_path / "c.yaml", run, str(fold), what],
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert end.returncode == -signal.SIGKILL, end.stderr.decode()
    before = (run / "tune" / "tune.jsonl").read_bytes()
    assert 1 < before.count(b"\n") < len(lines_of(searched.root)) and not (run / "tune" / "tune.json").exists()
    (run / "tune" / "tune.jsonl").write_bytes(before + b'{"trial": 3, "fo')  # the line that it was writing
    table, config = load_table(manifest, "action"), config_from_options(tmp_path / "c.yaml")
    with pytest.raises(SettingsError, match="was started with a search for settings; fix: resume with the same tune"):
        train_run(table, config, run, resume=True)
    with pytest.raises(BundleError, match="other settings or data"):
        train_run(table, config, run, resume=True, tune=Tuning(5, fixed=FIXED))
    resumed = train_run(table, config, run, resume=True, tune=Tuning(4, fixed=FIXED))
    assert (run / "tune" / "tune.jsonl").read_bytes().startswith(before)
    assert result_of(run) == result_of(searched.root)
    whole, again = (load_file(each.root / "head.safetensors") for each in (searched, resumed))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_run_whose_search_has_ended_does_not_search_again(
    few: Table, config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, tune = config_of(*QUICK), Tuning(2, 0.0, FIXED)
    with pytest.raises(StoppedError):
        train_run(few, config, tmp_path / "run", tune=tune, on_progress=stop_at_epoch_1)
    monkeypatch.setattr(FoldJudge, "judge", lambda *_: pytest.fail("searched again"))
    run = train_run(few, config, tmp_path / "run", tune=replace(tune, minutes=60), resume=True)
    assert result_of(run.root)["chosen"] == 0
    (run.root / "metrics.json").unlink()
    (run.root / "tune" / "tune.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=r"tune\.json is damaged"):
        train_run(few, config, tmp_path / "run", tune=tune, resume=True)


def test_the_choice_of_another_search_is_not_taken_over(
    few: Table, config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run refuses the choice of a search with other settings or data.

    The first run stops between the end of the search and the end of epoch 1, when no checkpoint identifies it
    yet.
    """

    def stop_after_search(*_: Any) -> None:
        if (tmp_path / "run" / "tune" / "tune.json").exists():
            raise StoppedError

    judged(monkeypatch, lambda config, fold: 1.0)
    with pytest.raises(StoppedError):
        train_run(few, config_of(*QUICK), tmp_path / "run", tune=Tuning(3, fixed=FIXED), on_progress=stop_after_search)
    assert not (tmp_path / "run" / "checkpoints").exists()
    other = few.with_samples(
        [replace(few.samples[0], labels={"action": "c"}), *few.samples[1:9], few.samples[0], *few.samples[9:]]
    )
    for table, settings, tune in (
        (few, ["head.dropout=0.3"], Tuning(3, fixed=FIXED | {"head.dropout"})),
        (few, [], Tuning(4, fixed=FIXED)),
        (other, [], Tuning(3, fixed=FIXED)),
    ):
        with pytest.raises(
            BundleError, match=r"tune\.json was left by a search with other settings or data; fix: resume"
        ):
            train_run(table, config_of(*QUICK, *settings), tmp_path / "run", tune=tune, resume=True)


@pytest.fixture(scope="module")
def moving(write_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Return a table of 8 tiny clips: 6 to train and 2 to validate.

    Half of the training clips show a direction without its counterpart, so they cannot be mirrored.
    """
    root, samples = tmp_path_factory.mktemp("moving"), []
    for number in range(8):
        path = write_clip(root / f"{number:02}.mp4", (60 + 40 * (number % 2), 80, 80), seed=number)
        label = ("stop", "turn left")[number % 2]
        samples.append(Sample(path, path.name, {"action": label}, split="train" if number < 6 else "val"))
    return Table(root, "action", tuple(samples))


@pytest.mark.slow(minutes=0.2)
def test_a_run_on_clips_has_the_head_of_the_trial_that_was_taken(
    moving: Table,
    config_of: ConfigOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run on clips keeps the head that the chosen trial was judged with.

    Pairs of frames suit one head, and single frames suit another. The trial without pairs was judged with the
    head of the default, so the run keeps that head.

    Decisions that follow from the data are reported once, not once per trial.
    """
    caplog.set_level("INFO", "vidrisk")
    kinds, judge = [], FoldJudge.judge
    monkeypatch.setattr(
        head_choice,
        "head_from_features",
        lambda features, *_: ("motion" if features.shape[1] == 2 else "segments", "of this test"),
    )

    def favour(each: FoldJudge, config: TrainConfig, fold: int, tell: OnProgress) -> tuple[tuple[float, ...], float]:
        losses, metric = judge(each, config, fold, tell)
        kinds.append(config.head.kind)
        return tuple(loss + 100 * config.rgb_diff for loss in losses), metric

    monkeypatch.setattr(FoldJudge, "judge", favour)
    config = config_of(
        "optim.epochs=1",
        "optim.batch_size=8",
        "compare=false",
        "trackers=[]",
        "frames=4",
        "rgb_diff=true",
        "lora.last_blocks=0",
        "views=0",
    )
    tune = Tuning(2, fixed=frozenset([*VALUES, "head.kind", "augment"]))
    with pytest.raises(StoppedError):
        train_run(moving, config, tmp_path / "run", tune=tune, on_progress=stop_at_epoch_1)
    told = [record.getMessage() for record in caplog.records]
    for line in ("samples are not mirrored", "class weights none"):
        assert sum(line in each for each in told) == 1
    assert "head motion: of this test" in told and "head segments: of this test" not in told
    run = train_run(moving, config, tmp_path / "run", tune=tune, resume=True)
    assert result_of(run.root)["settings"] == {"rgb_diff": False} and set(kinds) == {"motion"}
    written = Run.open(run.root).config
    assert (written.head.kind, written.rgb_diff, written.frames) == ("motion", False, 4)
    assert written.augment == ("zoom", "light", "still")


def judged(monkeypatch: pytest.MonkeyPatch, loss: Callable[[TrainConfig, int], float]) -> None:
    """Make every fold take 10 s by the clock of the search and return the loss that the test computes."""
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr(tune_halving, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(
        FoldJudge,
        "judge",
        lambda judge, config, fold, tell: (tuple(loss(config, fold) for _ in judge.units_of(fold)), 0.5),
    )


def test_within_no_time_the_default_alone_is_judged(
    few: Table, config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(monkeypatch, lambda config, fold: 1.0)
    run = train_run(few, config_of(*QUICK), tmp_path / "run", tune=Tuning(6, 0.0, FIXED))
    result = result_of(run.root)
    assert (
        result["time_was_up"]
        and result["chosen"] == 0
        and [trial["folds"] for trial in result["trials"]] == [3] + [0] * 5
    )
    assert result["why"] == "only trial 0 was run; its loss is 1.0000"
    print_training(run.root, as_json=False)
    said = capsys.readouterr().out
    assert "time was up: 5 of 6 trials were not begun\n" in said and "compared on" not in said


def test_no_fold_begins_that_would_not_end_in_time(
    few: Table, config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fold starts that would end after the time limit of 90 s.

    Six trials on the first fold, two more folds of the default, and one more fold of another trial take 90 s.
    """
    judged(monkeypatch, lambda config, fold: 1.0 - config.head.dropout)
    run = train_run(few, config_of(*QUICK), tmp_path / "run", tune=Tuning(6, 1.5, FIXED))
    lines = lines_of(run.root)[1:]
    assert sum(line["seconds"] for line in lines) == 90 and sum(line["trial"] == 0 for line in lines) == 3
    result = result_of(run.root)
    assert result["time_was_up"] and result["compared_on"] == 1 and result["samples"] == 3


def test_a_trial_that_fails_is_out_and_a_default_that_fails_ends_the_search(
    few: Table, config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(config: TrainConfig, fold: int) -> float:
        if config.optim.mixup:
            raise SettingsError("the loss of batch 1 is not finite")
        return 1.0 + config.head.dropout

    judged(monkeypatch, loss)
    fixed = FIXED | {"lora.last_blocks", "optim.lora_lr", "optim.label_smoothing"}
    run = train_run(few, config_of(*QUICK), tmp_path / "run", tune=Tuning(4, fixed=fixed))
    result = result_of(run.root)
    failed = [trial for trial in result["trials"] if "optim.mixup" in trial["settings"]]
    assert failed and all(trial["failed"] and trial["folds"] == 1 and trial["loss"] is None for trial in failed)
    assert "optim.mixup" not in result["settings"]
    with pytest.raises(
        SettingsError, match="the default settings cannot be evaluated: the loss of batch 1 is not finite"
    ):
        train_run(few, config_of(*QUICK, "optim.mixup=0.2"), tmp_path / "bad", tune=Tuning(4, fixed=fixed))


@pytest.mark.slow(minutes=0.2)
def test_frames_are_decoded_once_and_views_are_shared_between_trials(
    few: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, carried = [0], [0]
    read, lower = dataset.read_clips, Encoder.lower

    def count_read(*arguments: Any, **options: Any) -> Any:
        decoded[0] += 1
        return read(*arguments, **options)

    def count_lower(encoder: Encoder, frames: torch.Tensor) -> torch.Tensor:
        carried[0] += len(frames) if frames.dtype == torch.uint8 else 0
        return lower(encoder, frames)

    monkeypatch.setattr(dataset, "read_clips", count_read)
    monkeypatch.setattr(Encoder, "lower", count_lower)
    config = config_from_options(
        None, ["pixel.height=64", "pixel.width=64", *QUICK, "lora.last_blocks=0", "precision=fp32"]
    )
    train_run(
        few.with_samples(few.of_split("train").samples),
        config,
        tmp_path / "run",
        tune=Tuning(3, fixed=FIXED | {"lora.last_blocks"}),
    )
    assert decoded[0] == 9 and carried[0] == 2 * (
        1 + 9
    )  # views of the search, and of the run; one more tells their size


def test_a_fold_holds_whole_groups(few: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    grouped = few.with_samples(
        replace(sample, group=f"{number % 3}{number // 6}")
        for number, sample in enumerate(few.of_split("train").samples)
    )
    with pytest.raises(
        DataError, match=r"action '.' has 2 groups or files in the train split, too few to tune on; allowed: 3"
    ):
        count_folds(grouped)
    assert count_folds(few.of_split("train")) == 3
    with pytest.raises(DataError, match="too few to tune on"):
        train_run(
            few.with_samples([*few.samples[:6], *few.samples[9:]]), config_of(*QUICK), tmp_path / "run", tune=Tuning(4)
        )
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_tuned_is_refused(few: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="tune in several processes; allowed: one process"):
        check_tuning(Tuning(4), config_of(), tmp_path, Share(0, 2))
    with pytest.raises(SettingsError, match="tune of a model that writes reports"):
        report = config_from_options(None, ["task=report"], backbone="compose:efficientnet-lite0+smollm2-135m")
        train_data(tmp_path, report, tmp_path / "run", tune=Tuning(4))
    with pytest.raises(SettingsError, match=r"tune of compose:.*; allowed: an encoder of photos or clips"):
        vlm = config_from_options(None, [], backbone="compose:efficientnet-lite0+smollm2-135m")
        train_run(few, vlm, tmp_path / "run", tune=Tuning(4))


def test_a_part_of_a_data_set_shares_its_frames(few: Table, config_of: ConfigOf, tmp_path: Path) -> None:
    table = few.of_split("train")
    labels = labels_from_table(table, config_of())
    data = ClipDataset(table, contract_from_config(settle_config(config_of(), labels, table), labels), cache_mb=10)
    part = data.part([4, 2])
    frames, truth = part[0]
    assert [sample.name for sample in part.samples] == ["04.png", "02.png"] and truth.tolist() == [1]
    assert data[4][0] is frames and data.cached_mb > 0
    part.forget()
    assert data[4][0] is frames
    data.forget()
    assert data.cached_mb == 0
