from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.data import Sample, Table, guidance_from_table, targets_from_table
from vidrisk.data.targets import SCALES, order_levels, truth_from_table
from vidrisk.runtimes.contract.errors import DataError, SettingsError, SpecError

ROOT = Path("/data")


def risk_table(*rows: dict[str, str]) -> Table:
    return Table(
        ROOT,
        "risk",
        tuple(
            Sample(
                ROOT / f"{i}.jpg",
                f"{i}.jpg",
                {name: row[name] for name in ("defect", "level") if name in row},
                risk=row.get("risk", ""),
                advice=row.get("advice", ""),
            )
            for i, row in enumerate(rows)
        ),
    )


@given(st.sampled_from(SCALES), st.randoms(use_true_random=False))
def test_known_scales_are_ordered(scale: Sequence[Sequence[str]], rng: random.Random) -> None:
    right = [rng.choice(names) for names in scale]
    levels = rng.sample(right, len(right))
    assert list(order_levels(levels)) == right


@pytest.mark.parametrize(
    ("levels", "right"),
    [
        (["中等", "严重", "轻微"], ["轻微", "中等", "严重"]),
        (["Severe", "minor", "Moderate"], ["minor", "Moderate", "Severe"]),
        (["10", "9", "-1", "0.5"], ["-1", "0.5", "9", "10"]),
        (["high", "none", "critical", "low", "medium"], ["none", "low", "medium", "high", "critical"]),
    ],
)
def test_orders(levels: list[str], right: list[str]) -> None:
    assert list(order_levels(levels)) == right


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (["bad", "worse"], "order of the levels bad, worse is unknown; allowed: numbers, or 无 < 轻微 < 中等"),
        (["轻微", "轻度"], "mean the same"),
        (["1", "1.0"], "levels 1, 1.0 mean the same"),
        (["轻微", "severe"], "is unknown"),
    ],
)
def test_orders_that_are_not_known(levels: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        order_levels(levels)


def test_targets() -> None:
    table = risk_table(*({"defect": d, "level": lv} for d, lv in [("b", "minor"), ("a", "severe"), ("b", "moderate")]))
    defect, level = targets_from_table(table)
    assert (defect.name, defect.labels, defect.ordered, defect.severity) == ("defect", ("a", "b"), False, None)
    assert level.labels == ("minor", "moderate", "severe") and level.ordered and level.severity == (0.0, 50.0, 100.0)


def test_an_order_of_the_table_is_the_order_of_the_labels_and_may_name_more() -> None:
    table = replace(
        risk_table({"defect": "b"}, {"defect": "a"}, {"defect": "b"}), label_order={"defect": (" d", "b", "c", "a")}
    )
    (target,) = targets_from_table(table)
    assert target.labels == table.labels_of("defect") == ("d", "b", "c", "a")
    assert list(table.label_counts("defect").items()) == [("b", 2), ("a", 1)]
    assert truth_from_table(table, [target])["defect"].tolist() == [1, 3, 1]
    assert table.with_samples(table.samples[:1]).labels_of("defect") == ("d", "b", "c", "a")
    for wrong, said in (
        (("b",), "lacks a"),
        (("a", "b", "a"), "has a label twice"),
        (("a", "b", "a "), "has a label twice"),
    ):
        with pytest.raises(DataError, match=said):
            replace(table, label_order={"defect": wrong})


def test_level_order_is_obeyed_and_may_name_more() -> None:
    table = risk_table({"level": "worse"}, {"level": "bad"})
    (level,) = targets_from_table(table, ["fine", "bad", "worse"])
    assert level.labels == ("fine", "bad", "worse")
    with pytest.raises(DataError, match="lacks bad"):
        targets_from_table(table, ["worse"])
    with pytest.raises(SettingsError, match="every level once"):
        targets_from_table(table, ["bad", "bad", "worse"])
    with pytest.raises(SettingsError, match="table without levels; allowed: targets: defect"):
        targets_from_table(risk_table({"defect": "a"}, {"defect": "b"}), ["a", "b"])
    with pytest.raises(DataError, match="21 different values; allowed: up to 20"):
        targets_from_table(risk_table(*({"level": str(i)} for i in range(21))))
    with pytest.raises(SpecError):
        targets_from_table(risk_table({"defect": "a"}))


def test_an_unknown_label_is_answered_with_some_of_the_known_ones() -> None:
    known = targets_from_table(risk_table(*({"defect": f"d{number:03}"} for number in range(500))))
    with pytest.raises(DataError, match=r"'rust' .*; allowed: d000, d001, .*, d019 … and 480 more; fix: "):
        truth_from_table(risk_table({"defect": "rust"}), known)


def test_guidance_is_the_most_frequent_text_of_each_pair() -> None:
    rows = [{"defect": "crack", "level": "minor", "advice": text} for text in ("", "", "", "seal", "watch", "watch")]
    rows += [{"defect": "crack", "level": "severe", "advice": text, "risk": "fall"} for text in ("stop", "close")]
    rows += [{"defect": "free", "level": "minor"}]
    entries = {(g.defect, g.level): g for g in guidance_from_table(risk_table(*rows))}
    assert set(entries) == {("crack", "minor"), ("crack", "severe"), (None, "minor"), (None, "severe"), ("crack", None)}
    minor, severe = entries["crack", "minor"], entries["crack", "severe"]
    assert entries["crack", None].advice == "watch"  # for a level that was never seen with it
    assert (minor.defect, minor.level, minor.advice, minor.risk) == ("crack", "minor", "watch", "")
    assert (severe.level, severe.advice, severe.risk) == ("severe", "stop", "fall")
    clip = Sample(ROOT / "a.mp4", "a.mp4", {"action": "x"}, risk="r")
    assert guidance_from_table(Table(ROOT, "action", (clip,))) == ()
