from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.data import Sample, Table, load_table, ratios_from_text, split_table
from vidrisk.data.split import deal_folds, hold_out
from vidrisk.runtimes.contract.errors import DataError, SettingsError

ROOT = Path("/data")


def make(labels: list[dict[str, str]], groups: list[str] | None = None) -> Table:
    samples = (
        Sample(ROOT / f"{i}.jpg", f"{i}.jpg", label, extra={"site": groups[i]} if groups else {})
        for i, label in enumerate(labels)
    )
    return Table(ROOT, "risk", tuple(samples))


def splits(table: Table) -> dict[str, str | None]:
    return {sample.name: sample.split for sample in table.samples}


many = st.lists(
    st.fixed_dictionaries({"defect": st.sampled_from("abcd"), "level": st.sampled_from("123")}),
    min_size=3,
    max_size=120,
)


@settings(max_examples=100, deadline=None)
@given(many, st.integers(0, 5), st.sampled_from([(8.0, 1.0, 1.0), (6.0, 2.0, 2.0), (7.0, 3.0, 0.0)]), st.randoms())
def test_single_samples(
    labels: list[dict[str, str]], seed: int, ratios: tuple[float, float, float], rng: random.Random
) -> None:
    table = make(labels)
    done = split_table(table, ratios=ratios, seed=seed)
    shuffled = rng.sample(table.samples, len(table))
    assert splits(split_table(table.with_samples(shuffled), ratios=ratios, seed=seed)) == splits(done)
    assert [s.name for s in done.samples] == [s.name for s in table.samples]
    for name, ratio in zip(("train", "val", "test"), ratios, strict=True):
        part = done.of_split(name)
        assert abs(len(part) - len(table) * ratio / 10) <= 3
        assert len(part) or ratio == 0 or len(table) - 7 < 2  # 7: samples that classes may need in train
        assert ratio or not len(part)
        for target in table.target_names:
            have = part.label_counts(target) if len(part) else {}
            for label, n in table.label_counts(target).items():
                assert abs(have.get(label, 0) - n * ratio / 10) <= 3
                assert name != "train" or label in have


def test_round_numbers_are_exact() -> None:
    table = make([{"defect": label} for label in "ab" * 50 + "c" * 20])
    done = split_table(table)
    assert done.of_split("train").label_counts("defect") == {"a": 40, "b": 40, "c": 16}
    assert done.of_split("val").label_counts("defect") == {"a": 5, "b": 5, "c": 2}
    assert done.of_split("test").label_counts("defect") == {"a": 5, "b": 5, "c": 2}
    assert splits(split_table(table, seed=1)) != splits(done)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=3, max_size=80),
    st.integers(0, 3),
    st.sampled_from([(8.0, 1.0, 1.0), (1.0, 1.0, 8.0)]),
)
def test_groups_never_straddle(rows: list[tuple[str, int]], seed: int, ratios: tuple[float, float, float]) -> None:
    groups = [f"g{group}" for _, group in rows]
    table = make([{"defect": label} for label, _ in rows], groups)
    if len(set(groups)) < 3:
        with pytest.raises(DataError, match="groups to split; allowed: 3 or more"):
            split_table(table, group_by="site")
        return
    done = split_table(table, group_by="site", ratios=ratios, seed=seed)
    assert {len({s.split for s in done.samples if s.group == group}) for group in groups} == {1}
    assert {s.split for s in done.samples} == {"train", "val", "test"} or len(set(groups)) - 3 < 2
    assert set(done.of_split("train").label_counts("defect")) == {label for label, _ in rows}


def test_large_groups_come_first() -> None:
    groups = [name for name, size in [("big", 50), *((f"s{i}", 10) for i in range(5))] for _ in range(size)]
    done = split_table(make([{"defect": "ab"[i % 2]} for i in range(100)], groups), group_by="site")
    assert Counter(s.split for s in done.samples) == {"train": 80, "val": 10, "test": 10}


def test_real_sequences_stay_together(shared_data: Path) -> None:
    table = load_table(shared_data / "ut_interaction_set1", "action")
    done = split_table(table, group_by=r"seq(\d+)")
    assert [len(done.of_split(name)) for name in ("train", "val", "test")] == [48, 6, 6]
    assert {len({s.split for s in done.samples if s.group == g}) for g in {s.group for s in done.samples}} == {1}


def test_an_existing_split_and_group_are_kept() -> None:
    unsplit = make([{"defect": "ab"[i % 2]} for i in range(20)], [f"g{i // 2}" for i in range(20)])
    table = split_table(unsplit, group_by="site")
    assert split_table(table, seed=9) is table
    again = split_table(table, seed=9, force=True)
    assert splits(again) != splits(table)
    assert {len({s.split for s in again.samples if s.group == f"g{i}"}) for i in range(10)} == {1}
    half = table.with_samples([replace(table.samples[0], split=None), *table.samples[1:]])
    with pytest.raises(DataError, match="samples without a split: 1 of 20"):
        split_table(half)


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        ("camera", "'camera' is not a column; allowed: group, site, defect"),
        ("(", "is not a regular expression"),
        ("()()", "has 2 groups; allowed: one"),
        (r"\(x\)", "has 0 groups"),
        (r"seq(\d+)", r"gives 9 of 9 samples no group: 0.jpg, 1.jpg, 2.jpg and 6 more"),
        (r"^([0-7])", r"gives 1 of 9 samples no group: 8.jpg"),
    ],
)
def test_bad_group_by(group_by: str, message: str) -> None:
    table = make([{"defect": "ab"[i % 2]} for i in range(9)], ["s"] * 9)
    with pytest.raises((DataError, SettingsError), match=message):
        split_table(table, group_by=group_by)


def test_too_few() -> None:
    with pytest.raises(DataError, match="2 samples to split; allowed: 3 or more"):
        split_table(make([{"defect": "a"}, {"defect": "b"}]))
    with pytest.raises(DataError, match="0 samples to split"):
        split_table(make([]))


def test_ratios() -> None:
    assert ratios_from_text("8:1:1") == (8, 1, 1) and ratios_from_text("0.7:0.3:0") == (0.7, 0.3, 0)
    for text in ("8:2", "a:b:c", "8:-1:1", "0:1:1", "nan:1:1", "inf:1:1", ""):
        with pytest.raises(SettingsError, match="ratios"):
            ratios_from_text(text)


rows_with_splits = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.one_of(st.none(), st.sampled_from("uvwxyz")),
        st.sampled_from(["train", "test", "train"]),
    ),
    min_size=1,
    max_size=60,
)


def with_splits(rows: list[tuple[str, str | None, str]]) -> Table:
    return Table(
        ROOT,
        "risk",
        tuple(
            Sample(ROOT / f"{i}.jpg", f"{i}.jpg", {"defect": label}, group=group, split=split)  # type: ignore[arg-type]
            for i, (label, group, split) in enumerate(rows)
        ),
    )


@given(rows_with_splits, st.sampled_from([0.1, 0.3]), st.integers(0, 3), st.randoms(use_true_random=False))
def test_what_is_held_out_of_train_is_whole_groups(
    rows: list[tuple[str, str | None, str]], share: float, seed: int, rng: random.Random
) -> None:
    table = with_splits(rows)
    done = hold_out(table, share, seed=seed)
    assert [replace(sample, split=None) for sample in done.samples] == [
        replace(sample, split=None) for sample in table.samples
    ]
    for before, after in zip(table.samples, done.samples, strict=True):
        assert after.split in {"train": ("train", "val"), "test": ("test",)}[str(before.split)]
    train, val = done.of_split("train"), done.of_split("val")
    assert not {s.group for s in train.samples if s.group} & {s.group for s in val.samples}
    if len(val):
        assert train.label_counts("defect").keys() == table.of_split("train").label_counts("defect").keys()
    assert splits(hold_out(table.with_samples(rng.sample(table.samples, len(table))), share, seed=seed)) == splits(done)


def test_a_tenth_of_every_class_is_held_out() -> None:
    table = with_splits([(label, None, split) for label in "ab" * 50 + "c" * 20 for split in ("train", "test")])
    assert hold_out(table, 0.1).of_split("val").label_counts("defect") == {"a": 5, "b": 5, "c": 2}
    with pytest.raises(SettingsError, match="more than 0 and less than 1"):
        hold_out(table, 1)


GROUPS = ["g1", "g2", "g3", "g4", "g5", None]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(GROUPS)), min_size=12, max_size=60),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_folds_keep_groups_whole_and_are_of_equal_size_without_them(
    rows: list[tuple[str, str | None]], folds: int, seed: int
) -> None:
    samples = tuple(
        Sample(ROOT / f"{i}.jpg", f"{i}.jpg", {"action": label}, group=group) for i, (label, group) in enumerate(rows)
    )
    table = Table(ROOT, "action", samples)
    if len({sample.group or sample.name for sample in samples}) < folds:
        with pytest.raises(DataError, match="to deal into"):
            deal_folds(table, folds, seed=seed)
        return
    found = deal_folds(table, folds, seed=seed)
    assert set(found) == set(range(folds)) and found == deal_folds(table, folds, seed=seed)
    for group in {sample.group for sample in samples} - {None}:
        assert len({fold for fold, sample in zip(found, samples, strict=True) if sample.group == group}) == 1
    if not any(sample.group for sample in samples):
        sizes = [found.count(fold) for fold in range(folds)]
        assert max(sizes) - min(sizes) <= 3
