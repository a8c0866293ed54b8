"""Tests of the split of cases: it keeps groups together, stays near the ratios and ignores the order."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from risk_tables import draw, write_jsonl

from vidrisk.data.case_split import split_cases
from vidrisk.data.cases import Case, Cases, PhotoFile
from vidrisk.data.report_data import load_report_data
from vidrisk.data.scheme_file import load_scheme
from vidrisk.data.table import SPLITS
from vidrisk.runtimes.contract.errors import DataError, SettingsError

SCHEME = load_scheme("three-levels")


def case(number: int, group: str | None = None, photos: tuple[int, ...] = (), level: str = "轻微") -> Case:
    files = tuple(PhotoFile(Path(f"/data/{n}.jpg"), f"{n}.jpg") for n in photos or (1000 + number,))
    return Case(str(number), files, {"level": level}, level, group=group, extra={"data_楼": f"b{number // 2}"})


def table(*cases: Case) -> Cases:
    return Cases(Path("/data"), SCHEME, cases)


drawn = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b", "c", "d"]),
        st.sets(st.integers(0, 20), max_size=3),
        st.sampled_from(SCHEME.level_names),
    ),
    min_size=8,
    max_size=40,
)


@given(drawn, st.randoms())
@settings(max_examples=60)
def test_groups_and_shared_photos_stay_together(rows: list[tuple[str | None, set[int], str]], rng: object) -> None:
    cases = [case(n, group, tuple(photos), level) for n, (group, photos, level) in enumerate(rows)]
    try:
        done = split_cases(table(*cases))
    except DataError as error:
        assert "groups to split" in str(error)
        return
    by_thing = defaultdict(set)
    for found in done.cases:
        assert found.split is not None
        for thing in (found.group and f"group {found.group}", *(photo.name for photo in found.photos)):
            by_thing[thing].add(found.split)
    assert all(len(splits) == 1 for thing, splits in by_thing.items() if thing)
    assert [found.group for found in done.cases] == [found.group for found in cases]
    rng.shuffle(cases)  # type: ignore[attr-defined]
    assert {found.id: found.split for found in split_cases(table(*cases)).cases} == {
        found.id: found.split for found in done.cases
    }


def test_the_ratios_are_kept_and_every_level_is_in_train() -> None:
    done = split_cases(table(*(case(n, level=SCHEME.level_names[n % 3]) for n in range(100))))
    assert [len(done.of_split(name)) for name in ("train", "val", "test")] == [80, 10, 10]
    assert set(done.of_split("train").level_counts()) == set(SCHEME.level_names)


@pytest.mark.parametrize("group_by", ["楼", "data_楼", "([0-9])\\.jpg"])
def test_groups_come_from_a_column_or_an_expression(group_by: str) -> None:
    done = split_cases(table(*map(case, range(20))), group_by=group_by)
    together = defaultdict(set)
    for found in done.cases:
        together[found.group].add(found.split)
    assert len(together) == 10 and all(len(splits) == 1 for splits in together.values()) and None not in together


def test_a_group_by_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SettingsError, match="group-by 'street' is not a column; allowed: group, data_楼, level"):
        split_cases(table(*map(case, range(5))), group_by="street")
    with pytest.raises(DataError, match="gives 5 of 5 cases no group: 0, 1, 2 and 2 more"):
        split_cases(table(*map(case, range(5))), group_by="group")
    with pytest.raises(SettingsError, match="not a regular expression"):
        split_cases(table(*map(case, range(5))), group_by="((")


def test_a_split_is_kept_unless_another_is_forced() -> None:
    done = split_cases(table(*map(case, range(10))))
    assert split_cases(done, seed=5) == done
    assert split_cases(done, seed=5, force=True) != done
    with pytest.raises(DataError, match="without a split: 1 of 11"):
        split_cases(table(*done.cases, case(99)))


@pytest.mark.parametrize("shared", ["case_id", "photo", "group"])
def test_what_belongs_together_and_is_in_two_splits_of_the_data_is_said(
    shared: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in SPLITS:
        rows = [
            {"case_id": name, "photo": f"{name}.jpg", "group": name, "level": "minor"}
            for name in (f"{split}-0", f"{split}-1")
        ]
        rows[0][shared] = "one.jpg"
        for row in rows:
            draw(tmp_path / row["photo"])
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    (note,) = load_report_data(tmp_path).notes
    one = "one.jpg" if shared == "case_id" else "test-0"
    assert note in caplog.text and note.startswith(
        f"cases that share an id, a photo or a group and are in two splits: 1 ({one} (test) = "
    )
    with pytest.raises(DataError, match=r"in two splits: 1 .*; allowed: every id, photo and group in one split"):
        load_report_data(tmp_path, strict=True)
    caplog.clear()
    for split in SPLITS[1:]:
        (tmp_path / f"{split}.jsonl").unlink()
    assert load_report_data(tmp_path, strict=True).notes == () and not caplog.text
