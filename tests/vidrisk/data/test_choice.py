"""Tests of the balanced order: its first samples are balanced, whatever their number.

The balance is over classes and, within a class, over sources.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vidrisk.data.choice import make_balanced_order
from vidrisk.data.table import Sample, Table

ROWS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=40)


def table_of(rows: list[tuple[str, int]], *, by_group: bool = True) -> Table:
    """Return a table with the given class and source of every sample."""
    samples = []
    for i, (label, source) in enumerate(rows):
        folder = Path("/data") / (label if by_group else f"{label}/camera {source}")
        group = f"{label}{source}" if by_group else None
        samples.append(Sample(folder / f"{i}.mp4", f"{folder.name}/{i}.mp4", {"action": label}, group=group))
    return Table(Path("/data"), "action", tuple(samples))


def source_of(sample: Sample) -> str:
    return sample.group or str(sample.path.parent)


def assert_balanced(counts: Counter[str], available: Counter[str]) -> None:
    """Check that the counts differ by at most one, except where all available samples are used."""
    for one, other in combinations(sorted(available), 2):
        if counts[one] < counts[other] - 1:
            assert counts[one] == available[one], (counts, available)
        if counts[other] < counts[one] - 1:
            assert counts[other] == available[other], (counts, available)


@given(rows=ROWS, seed=st.integers(0, 100))
def test_every_beginning_is_balanced_over_classes(rows: list[tuple[str, int]], seed: int) -> None:
    order = make_balanced_order(table_of(rows), seed)
    available = Counter(label for label, _ in rows)
    for end in range(len(order) + 1):
        assert_balanced(Counter(sample.labels["action"] for sample in order[:end]), available)


@given(rows=ROWS, seed=st.integers(0, 100), by_group=st.booleans())
def test_within_a_class_sources_take_turns(rows: list[tuple[str, int]], seed: int, by_group: bool) -> None:
    order = make_balanced_order(table_of(rows, by_group=by_group), seed)
    for label in "abcd":
        own = [source_of(sample) for sample in order if sample.labels["action"] == label]
        for end in range(len(own) + 1):
            assert_balanced(Counter(own[:end]), Counter(own))


@given(rows=ROWS, seed=st.integers(0, 100))
def test_every_sample_comes_once(rows: list[tuple[str, int]], seed: int) -> None:
    table = table_of(rows)
    order = make_balanced_order(table, seed)
    assert len(order) == len(table)
    assert sorted(sample.path for sample in order) == sorted(sample.path for sample in table.samples)


@given(rows=ROWS, seed=st.integers(0, 100), data=st.data())
def test_the_order_depends_on_the_seed_and_not_on_the_table(
    rows: list[tuple[str, int]], seed: int, data: st.DataObject
) -> None:
    table = table_of(rows)
    shuffled = table.with_samples(data.draw(st.permutations(table.samples)))
    assert make_balanced_order(shuffled, seed) == make_balanced_order(table, seed)


def test_seeds_differ() -> None:
    table = table_of([(label, source) for label in "abcd" for source in range(3)] * 3)
    orders = {tuple(sample.name for sample in make_balanced_order(table, seed)) for seed in range(10)}
    assert len(orders) == 10


def test_no_class_is_always_first() -> None:
    table = table_of([(label, 0) for label in "abcd"] * 3)
    firsts = Counter(make_balanced_order(table, seed)[0].labels["action"] for seed in range(40))
    assert set(firsts) == set("abcd")


def test_a_class_is_the_combination_of_all_labels() -> None:
    pairs = [("crack", "1")] * 10 + [("crack", "3")] * 2 + [("ok", "1")] * 10
    samples = tuple(
        Sample(Path(f"/d/{i}.png"), f"{i}.png", {"defect": d, "level": level}) for i, (d, level) in enumerate(pairs)
    )
    first = make_balanced_order(Table(Path("/d"), "risk", samples), 0)[:6]
    assert Counter(tuple(sample.labels.values()) for sample in first) == {
        ("crack", "1"): 2,
        ("crack", "3"): 2,
        ("ok", "1"): 2,
    }


def test_an_empty_table() -> None:
    assert make_balanced_order(table_of([]), 0) == []
