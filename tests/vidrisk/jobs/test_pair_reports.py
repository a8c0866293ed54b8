"""Tests of pairing reports with cases: by ids and names, never by order, and never by a guess."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vidrisk.data.cases import Case, Cases, PhotoFile, PhotoInRow
from vidrisk.data.scheme_file import load_scheme
from vidrisk.jobs.pair_reports import AMBIGUOUS, NOT_THERE, NUMBER_ALONE, SHARED, pair_reports, tables_of_cases
from vidrisk.jobs.photo_names import PhotoNames


def case(name: str, *photos: str, root: str = "/truth", where: str = "") -> Case:
    return Case(name, tuple(PhotoFile(Path(root) / photo, photo) for photo in photos), {}, where=where)


def test_ids_come_before_names_and_order_means_nothing() -> None:
    cases = [case(f"D-{number}", f"{number}.jpg") for number in range(20)]
    reports = [(f"/run/{19 - number}.jpg", f"D-{number}") for number in range(20)]
    random.Random(0).shuffle(reports)
    found = pair_reports(reports, cases)
    assert [cases[place].id for place in found.cases if place is not None] == [name for _, name in reports]
    assert found.left == () and found.reasons == {}


def test_names_are_compared_folder_by_folder() -> None:
    cases = [case("a", "house 1/1.jpg"), case("b", "house 2/1.jpg"), case("c", "墙.jpg")]
    found = pair_reports(
        [("/x/house 2/1.jpg", ""), ("/x/house 3/1.jpg", ""), ("/y/墙.jpg", "墙.jpg"), ("/x/1.jpg", "")], cases
    )
    assert found.cases == (1, None, 2, None)
    assert found.reasons == {1: NOT_THERE, 3: NOT_THERE} and found.left == (0,)


def test_one_name_for_several_photos_of_a_run_is_no_match_unless_one_has_the_very_path() -> None:
    cases = [case("a", "1.jpg")]
    assert pair_reports([("/x/1.jpg", ""), ("/y/1.jpg", "")], cases).reasons == {0: SHARED, 1: SHARED}
    found = pair_reports([("/truth/1.jpg", ""), ("/y/1.jpg", "")], cases)
    assert found.cases == (0, None) and found.reasons == {1: NOT_THERE}


def test_one_photo_of_two_cases_is_ambiguous() -> None:
    cases = [case("a", "1.jpg"), case("b", "1.jpg")]
    assert (
        pair_reports([("/truth/1.jpg", "")], cases).reasons
        == pair_reports([("/x/1.jpg", "")], cases).reasons
        == {0: AMBIGUOUS}
    )
    assert pair_reports([("/truth/1.jpg", "b")], cases).cases == (1,)


def test_several_photos_of_one_case_belong_to_it() -> None:
    found = pair_reports([("/truth/1.jpg", ""), ("/x/2.jpg", "")], [case("a", "1.jpg", "2.jpg"), case("b", "3.jpg")])
    assert found.cases == (0, 0) and found.left == (1,)


def test_numbers_of_rows_are_no_ids_unless_the_table_is_the_same() -> None:
    """A case number identifies a case only in the table that the number comes from.

    ``load_cases`` numbers cases without an id, so number 1 of another table is another case.
    """
    in_rows = Case(
        "case-1", (PhotoInRow(Path("/d/t.parquet"), 0, "image", None, "a.jpg"),), {}, where="t.parquet, row 1"
    )
    told = Case("case-2", (), {}, where="t.parquet, row 2")
    tables = tables_of_cases(Cases(Path("/d"), load_scheme("three-levels"), (in_rows, told)))
    assert tables == {Path("/d/t.parquet")}
    for path, expected in (
        ("/d/t.parquet#case-1", 0),
        ("/d/../d/t.parquet#case-1", 0),
        ("/d/val.parquet#case-1", None),
        ("/e/t.parquet#case-1", None),
        ("/x/a.jpg", 0),
        ("/d/t.parquet", None),
    ):
        assert pair_reports([(path, "case-1")], [in_rows, told], tables).cases == (expected,), path
    for path, expected in (("/d/t.parquet#case-2", 1), ("/d/b.jsonl#case-2", None), ("/d/t.parquet", None)):
        assert pair_reports([(path, "case-2")], [in_rows, told], tables).cases == (expected,), path


def test_numbers_through_several_tables_are_no_ids_of_their_rows() -> None:
    """A case number is not the number of a row when the numbers run through several tables.

    In a folder of train and test, number 3 is the first row of test, not the third.
    """

    def numbered(*numbers: int) -> list[Case]:
        return [
            Case(f"case-{number}", (), {}, where=f"{'train' if place < 2 else 'test'}.jsonl, line 1")
            for place, number in enumerate(numbers)
        ]

    tables = {Path("/d/train.jsonl"), Path("/d/test.jsonl")}
    report = ("/d/test.jsonl#case-3", "case-3")
    assert pair_reports([report], numbered(1, 2, 3, 4), tables).reasons == {0: NUMBER_ALONE}
    kept = numbered(1, 4, 3, 2)  # ids of before the split
    assert pair_reports([report, ("/d/train.jsonl#case-3", "case-3")], kept, tables).cases == (2, None)


def test_an_id_that_is_the_name_of_the_photo_says_no_more_than_the_name() -> None:
    """An id that equals the file name of the photo identifies no more than the name does.

    A photo that is a case of its own has its file name as id, and tables can hold such ids too.
    """
    cases = [case("1.jpg", "house 1/1.jpg"), case("2.jpg")]
    found = pair_reports([("/x/house 2/1.jpg", "1.jpg"), ("/x/house 1/1.jpg", "1.jpg"), ("/x/2.jpg", "2.jpg")], cases)
    assert found.cases == (None, 0, 1) and found.reasons == {0: NOT_THERE}
    assert pair_reports([("/x/a/2.jpg", "2.jpg"), ("/x/b/2.jpg", "2.jpg")], cases).reasons == {0: SHARED, 1: SHARED}
    assert pair_reports([("/d/risks.csv#2.jpg", "2.jpg")], cases).cases == (1,)


@pytest.mark.parametrize(
    ("path", "name", "fits"),
    [
        ("/a/b/c.jpg", "c.jpg", True),
        ("/a/b/c.jpg", "b/c.jpg", True),
        ("/a/b/c.jpg", "./b/c.jpg", True),
        ("c.jpg", "/a/b/c.jpg", True),
        ("/a/b.jpg", "a\\b.jpg", True),
        ("/a/b/c.jpg", "x/c.jpg", False),
        ("/a/bc.jpg", "c.jpg", False),
        ("/a/e\u0301.jpg", "é.jpg", True),
        ("", "", False),
        ("/a/b/c.jpg", "", False),
        ("/a/C.jpg", "c.jpg", False),
    ],
)
def test_names_that_fit(path: str, name: str, fits: bool) -> None:
    assert PhotoNames([("", name, 0)]).find(path) == ((0,) if fits else ())


def test_the_longest_name_wins() -> None:
    names = PhotoNames([("", "1.jpg", "short"), ("", "b/1.jpg", "long")])
    assert names.find("/a/b/1.jpg") == ("long",) and names.find("/a/c/1.jpg") == ("short",)
