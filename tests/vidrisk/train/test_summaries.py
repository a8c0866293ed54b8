"""Tests of the features that an encoder computes for every sample, whatever split it is in.

Probes on these features find wrong labels and measure a learning curve.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vidrisk.data import Sample, Table
from vidrisk.frames import read_clips
from vidrisk.models.config import TrainConfig
from vidrisk.runtimes import Contract, PixelSpec, Target
from vidrisk.runtimes.contract.errors import DataError, SettingsError
from vidrisk.runtimes.contract.progress import ignore_progress
from vidrisk.train.data_curve import measure_curve
from vidrisk.train.label_suspects import find_suspects, table_of_suspects
from vidrisk.train.summaries import Summaries, summarise_table

Config = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run Torch with one thread for the test.

    For probes of so few samples, several threads take longer than one, especially on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_sample_is_summed_up_whatever_split_it_is_in(photos: Table, config_of: Config) -> None:
    found = summarise_table(photos, config_of(), ignore_progress)
    assert found.table == photos and len(found.features) == len(photos) and not found.unreadable
    assert np.array_equal(
        found.truth["action"],
        [
            sorted(("blue", "green", "red")).index(s.labels["action"])  # type: ignore[arg-type]
            for s in photos.samples
        ],
    )
    assert repr(found) == f"Summaries(24 samples, {found.features.shape[1]} features)"


def test_a_summary_is_what_the_untrained_encoder_says(photos: Table, config_of: Config) -> None:
    from vidrisk.models.pretrained import build_classifier

    found = summarise_table(photos, config_of(), ignore_progress)
    model = build_classifier(config_of("lora.last_blocks=0", "head.kind=linear"), found.contract).eval()
    clips = [next(read_clips(sample.path, found.contract.pixel, None)).frames for sample in photos.samples[:3]]
    with torch.inference_mode():
        features = model.features(torch.from_numpy(np.stack(clips)))  # type: ignore[operator]
    assert found.features[:3] == pytest.approx(features[:, 0].numpy(), abs=1e-4)


def test_samples_that_cannot_be_read_are_left_out_and_said(
    photos: Table, config_of: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(photos.samples[0].path.read_bytes()[:60])
    samples = [*photos.samples]
    samples[4] = replace(samples[4], path=broken, name="broken.png")
    with caplog.at_level(logging.WARNING):
        found = summarise_table(photos.with_samples(samples), config_of(), ignore_progress)
    assert [each["path"] for each in found.unreadable] == ["broken.png"]
    assert [s.name for s in found.table.samples] == [s.name for s in photos.samples if s.name != photos.samples[4].name]
    whole = summarise_table(photos, config_of(), ignore_progress)
    assert (
        found.features == pytest.approx(np.delete(whole.features, 4, axis=0), abs=1e-4)
        and len(found.truth["action"]) == 23
    )
    assert "1 of 24 samples cannot be read and are left out; the first:" in caplog.text
    alone = photos.with_samples([samples[4], replace(samples[4], name="too.png", labels={"action": "red"})])
    with pytest.raises(DataError, match=r"no sample of .* can be read; the first:"):
        summarise_table(alone, config_of(), ignore_progress)


def test_a_head_that_must_be_trained_sums_up_nothing(photos: Table, config_of: Config) -> None:
    with pytest.raises(
        SettingsError, match="allowed: an encoder of frames or clips; the head auto, linear, segments or motion"
    ):
        summarise_table(photos, config_of("head.kind=mlp"), ignore_progress)


def summaries(
    samples: int, *, turned: int = 0, groups: int | None = None, multi_label: bool = False, separation: float = 3.0
) -> Summaries:
    """Return features that separate two labels; the first ``turned`` samples have the other label.

    Every third sample has no level.
    """
    rng = np.random.default_rng(0)
    true = np.arange(samples) % 2
    given = np.where(np.arange(samples) < turned, 1 - true, true)
    features = (rng.normal(size=(samples, 6)) + separation * np.eye(6)[true]).astype(np.float32)
    names, table = ("crack", "sound"), []
    for place in range(samples):
        label = names[given[place]]
        table.append(
            Sample(
                Path(f"/x/{place}.png"),
                f"{place}.png",
                {
                    "defect": (label,) if multi_label else label,
                    **({} if place % 3 == 2 else {"level": ("low", "high")[true[place]]}),
                },
                group=None if groups is None else f"g{place % groups}",
            )
        )
    targets = (
        Target(name="defect", labels=names, multi_label=multi_label),
        Target(name="level", labels=("low", "high")),
    )
    contract = Contract(task="risk", pixel=PixelSpec(2, 2), targets=targets)
    truth = {
        "defect": np.stack([given == 0, given == 1], axis=1).astype(np.int64) if multi_label else given,
        "level": np.where(np.arange(samples) % 3 == 2, -1, true),
    }
    return Summaries(Table(Path("/x"), "risk", tuple(table)), contract, features, truth, ())


@pytest.mark.parametrize("multi_label", [False, True])
def test_turned_labels_are_the_most_suspected(multi_label: bool) -> None:
    found = find_suspects(summaries(120, turned=6, multi_label=multi_label))
    of_defects = [each for each in found.ranked if each.target == "defect"]
    first = of_defects[: 12 if multi_label else 6]
    assert {each.sample.name for each in first} == {f"{place}.png" for place in range(6)}
    assert all(each.margin < 0 for each in first)
    suspected = {each.sample.name for each in of_defects if each.is_suspected}
    assert len(suspected) >= 4 and suspected <= {f"{place}.png" for place in range(6)}
    assert [each.margin for each in found.ranked] == sorted(each.margin for each in found.ranked)
    if multi_label:
        assert {(each.given, each.likely) for each in first} == {
            ("crack", "not crack"),
            ("not crack", "crack"),
            ("sound", "not sound"),
            ("not sound", "sound"),
        }
        assert set(found.share) == {"defect crack", "defect sound", "level"}
    else:
        assert found.share["defect"] == pytest.approx(6 / 120, abs=0.02) and found.accuracy["defect"] > 0.9


def test_what_is_not_labelled_is_not_asked_about() -> None:
    found = find_suspects(summaries(60))
    asked = {each.sample.name for each in found.ranked if each.target == "level"}
    assert asked == {f"{place}.png" for place in range(60) if place % 3 != 2}
    assert sum(each.target == "defect" for each in found.ranked) == 60


def test_groups_that_are_fewer_than_the_folds_are_refused() -> None:
    with pytest.raises(DataError, match="has 4 groups or files to deal into 5 folds"):
        find_suspects(summaries(60, groups=4))


def test_samples_of_suspects_come_once_in_their_order() -> None:
    told = summaries(60, turned=3)
    found = find_suspects(told)
    table = table_of_suspects(found, told.table, 5)
    names = list(dict.fromkeys(each.sample.name for each in found.ranked))[:5]
    assert [sample.name for sample in table.samples] == names


def test_rows_of_the_table_say_what_to_look_at() -> None:
    (first, *_) = find_suspects(summaries(60, turned=1)).ranked
    row = first.to_row()
    assert (row["path"], row["interval"], row["given"], row["likely"], row["suspected"]) == (
        "0.png",
        "",
        "sound",
        "crack",
        "yes",
    )
    assert float(row["margin"]) == pytest.approx(first.margin, abs=1e-4)


@pytest.mark.parametrize(("multi_label", "target"), [(False, 0), (True, 0), (False, 1)])
def test_a_curve_grows_with_what_is_learnt_from_and_counts_labelled_samples(multi_label: bool, target: int) -> None:
    told = summaries(160, separation=1.0, multi_label=multi_label)
    curve = measure_curve(told, told.contract.targets[target], ignore_progress)
    labelled = int((told.truth[told.contract.targets[target].name].reshape(160, -1) >= 0).all(axis=1).sum())
    sizes = sorted(curve.scores)
    assert (
        abs(sizes[-1] - 0.8 * labelled) <= 2
        and sizes[0] >= 20
        and all(len(each) == 3 for each in curve.scores.values())
    )
    assert np.mean(curve.scores[sizes[-1]]) > 0.6 and curve.forecast.samples == 2 * sizes[-1]


@pytest.mark.parametrize(("samples", "groups"), [(12, None), (40, None), (48, None), (70, 5)])
def test_a_curve_of_too_few_samples_is_refused_in_one_line(samples: int, groups: int | None) -> None:
    told = summaries(samples, groups=groups)
    if groups:  # of which one is most of the data
        table = told.table.with_samples(
            replace(s, group=f"g{max(0, place - 60)}") for place, s in enumerate(told.table.samples)
        )
        told = replace(told, table=table)
    with pytest.raises(
        DataError, match=f"{samples} samples are labelled for defect, and a fold leaves only .* for training"
    ):
        measure_curve(told, told.contract.targets[0], ignore_progress)


def test_a_curve_of_fifty_samples_is_drawn() -> None:
    told = summaries(50)
    assert len(measure_curve(told, told.contract.targets[0], ignore_progress).scores) == 3
