"""Tests of cases from tables: columns by name, several rows of one defect, missing photos, unusable rows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from risk_tables import COLUMNS, LEVELS, draw, jpeg, seed_rows, write_csv, write_jsonl, write_seed

from vidrisk.data.case_tables import load_cases
from vidrisk.data.cases import Case, PhotoFile, PhotoInRow
from vidrisk.data.photo_paths import paths_from_cells
from vidrisk.data.row_photos import RowPhotos, bytes_from_value
from vidrisk.data.scheme_file import load_scheme
from vidrisk.runtimes.contract.errors import DataError, SettingsError, UnreadableError, VidriskError


def names(case: Case) -> list[str]:
    return [photo.name for photo in case.photos]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_columns_of_the_seed_are_read(tmp_path: Path, encoding: str) -> None:
    cases = load_cases(write_seed(tmp_path, encoding=encoding))
    first = cases.cases[0]
    assert (first.id, names(first), first.level) == ("IMG_001", ["图/1 墙.png"], "中等")
    assert first.fields == {
        "level": "中等",
        "defect": "1 号楼墙体裂缝, banana nan width",
        "risk": "坍塌",
        "advice": "安排维修, 30 天内完成",
    }
    assert first.extra == {"data_序号": "1", "data_现": "A", "source_csv": "a.csv", "original_filename": "old 1.png"}
    assert cases.level_counts() == dict.fromkeys(LEVELS, 4) and len(cases) == 12 and cases.missing == ()


def test_rows_are_matched_by_name_and_never_by_order(tmp_path: Path) -> None:
    path = write_seed(tmp_path)
    before = {case.id: case for case in load_cases(path).cases}
    rows = [dict(reversed(row.items())) for row in reversed(seed_rows())]
    assert {case.id: case for case in load_cases(write_csv(tmp_path / "turned.csv", rows)).cases} == before
    (tmp_path / seed_rows()[4]["image_path"]).unlink()
    after = load_cases(path)
    assert {case.id: case for case in after.cases} == {name: case for name, case in before.items() if name != "IMG_005"}
    assert after.missing == ("图/5 墙.png (line 6)",) and after.left_out == ("line 6: all its photos are missing",)
    with pytest.raises(DataError, match=r"risks\.csv: missing photos: 1 \(图/5 墙\.png \(line 6\)\)"):
        load_cases(path, strict=True)


@given(st.permutations(COLUMNS), st.sampled_from(["csv", "jsonl"]))
@settings(max_examples=10)
def test_the_order_of_columns_does_not_matter(order: list[str], kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [{name: row[name] for name in order} for row in seed_rows(3)]
        draw(Path(folder) / "图/1 墙.png")
        write = write_csv if kind == "csv" else write_jsonl
        cases = load_cases(write(Path(folder) / f"r.{kind}", rows))
    assert [(case.id, case.level, case.fields["risk"]) for case in cases.cases] == [("IMG_001", "中等", "坍塌")]
    assert len(cases.missing) == 2


def test_english_columns_and_words_are_read(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    rows = [
        {
            "Photo": "a.jpg",
            "Risk Level": "Severe",
            "Risk": "may fall",
            "Recommendation": "close the road",
            "Description": "a  crack",
        }
    ]
    case = load_cases(write_csv(tmp_path / "r.csv", rows), "three-levels-en").cases[0]
    assert case.fields == {"level": "severe", "defect": "a  crack", "risk": "may fall", "advice": "close the road"}
    assert load_cases(tmp_path / "r.csv").cases[0].level == "严重"


def test_both_levels_of_riskva_are_read(tmp_path: Path) -> None:
    cases = load_cases(write_seed(tmp_path), "riskva", labelled=False)
    assert [(case.fields["level_before"], case.fields["level_now"], case.level) for case in cases.cases[:2]] == [
        ("", "A", "A"),
        ("D", "A", "D"),
    ]
    with pytest.raises(DataError, match=r"line 2: level_before is empty; allowed: A, B, C, D, E, R, O; fix: fill them"):
        load_cases(tmp_path / "risks.csv", "riskva")


def test_a_defect_has_several_photos_in_several_rows_or_in_a_list(tmp_path: Path) -> None:
    for name in "abcde":
        draw(tmp_path / f"{name}.jpg", ord(name))
    rows = [
        {
            "file_id": "B1",
            "defect_index": "1",
            "image_path": "a.jpg",
            "all_image_paths": "",
            "risk_level": "minor",
            "risk": "x",
        },
        {
            "file_id": "B1",
            "defect_index": "1",
            "image_path": "b.jpg",
            "all_image_paths": "",
            "risk_level": "",
            "risk": "",
        },
        {
            "file_id": "B1",
            "defect_index": "2",
            "image_path": "c.jpg",
            "all_image_paths": '["d.jpg", "c.jpg", "gone.jpg"]',
            "risk_level": "severe",
            "risk": "y",
        },
    ]
    cases = load_cases(write_csv(tmp_path / "r.csv", rows))
    assert [(case.id, case.group, names(case), case.level) for case in cases.cases] == [
        ("B1-1", "B1", ["a.jpg", "b.jpg"], "轻微"),
        ("B1-2", "B1", ["d.jpg", "c.jpg"], "严重"),
    ]
    assert cases.missing == ("gone.jpg (line 4)",)
    assert (
        load_cases(write_csv(tmp_path / "r.csv", [rows[0], rows[1] | {"risk_level": "轻微"}, rows[2]])).cases
        == cases.cases
    )
    rows[1]["risk_level"] = "severe"
    with pytest.raises(DataError, match="two rows of the case 'B1-1' that contradict each other: line 2 and line 3"):
        load_cases(write_csv(tmp_path / "r.csv", rows))


@pytest.mark.parametrize("column", ["defect_id", "id"])
def test_a_case_of_more_photos_than_any_may_have_is_refused_however_many_rows_name_them(
    tmp_path: Path, column: str
) -> None:
    for number in range(65):
        (tmp_path / f"{number}.jpg").touch()
    rows = [{column: "7", "path": f"{number}.jpg", "level": "minor"} for number in range(65)]
    assert len(load_cases(write_csv(tmp_path / "r.csv", [*rows[:64], rows[0]])).cases[0].photos) == 64
    with pytest.raises(
        DataError, match=r"r\.csv, line 2: the case '7' has 65 photos or more; allowed: up to 64; fix: keep those"
    ):
        load_cases(write_csv(tmp_path / "r.csv", rows))


def test_two_defects_in_one_photo_stay_two_and_in_one_group(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    rows = [
        {"image_id": "7", "path": "a.jpg", "level": "minor", "risk": "x"},
        {"image_id": "7", "path": "a.jpg", "level": "severe", "risk": "y"},
    ]
    cases = load_cases(write_csv(tmp_path / "r.csv", rows)).cases
    assert [(case.id, case.level) for case in cases] == [("7", "轻微"), ("7#2", "严重")]
    assert cases[0].group == cases[1].group is not None


def test_rows_without_a_photo_are_told_in_words(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    rows = [
        {"path": "", "level": "minor", "description": "裂缝"},
        {"path": "", "level": "minor", "description": " NaN "},
        {"path": "a.jpg", "level": "severe", "description": ""},
    ]
    cases = load_cases(write_csv(tmp_path / "r.csv", rows))
    assert [(case.photos != (), case.fields["defect"]) for case in cases.cases] == [(False, "裂缝"), (True, "")]
    assert cases.left_out == ("line 3: neither a photo nor a text",)
    only_text = load_cases(write_csv(tmp_path / "t.csv", [{"defect_id": "1", "level": "minor", "description": "裂缝"}]))
    assert only_text.cases[0].photos == () and only_text.cases[0].id == "1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"data_风险等级": "特急"},
            r"risks\.csv has rows whose level is not of the scheme three-levels \(1\): line 2: "
            r"level is '特急'; allowed: 轻微, 中等, 严重; fix: correct these rows",
        ),
        ({"data_风险等级": "nan"}, r"\(1\): line 2: level is empty; allowed: 轻微, 中等, 严重; fix: fill them"),
        (
            {"data_风险": "塌" * 400},
            r"line 2: risk has 400 characters; allowed: up to 300 characters; "
            r"fix: shorten them, or raise max_chars",
        ),
        ({"image_path": "../a.jpg"}, r"risks\.csv, line 2: the path '\.\./a\.jpg' leaves the folder"),
        ({"split": "holdout"}, r"line 2: split 'holdout'; allowed: train, val, test, or empty"),
        ({"all_image_paths": "[1, 2]"}, r"line 2 has '\[1, 2\]' as a list of photos"),
        (
            {"all_image_paths": json.dumps([f"{n}.jpg" for n in range(99)])},
            r"line 2 names 100 photos; allowed: up to 64",
        ),
    ],
)
def test_a_bad_row_is_named_with_its_value(tmp_path: Path, change: dict[str, str], said: str) -> None:
    write_seed(tmp_path)
    rows = seed_rows()
    rows[0] |= change
    with pytest.raises(DataError, match=said) as refused:
        load_cases(write_csv(tmp_path / "risks.csv", rows))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.csv", "", "has no rows"),
        ("r.csv", "path,level\n", "has no rows"),
        ("r.csv", "path,text\na.jpg,x\n", "no column for level"),
        ("r.csv", "name,level\na,minor\n", "no column for photos"),
        ("r.jsonl", "[1]\n", "not a JSON object"),
        ("r.csv", "path,level\ngone.jpg,minor\n", "has no case"),
        ("r.parquet", "PAR1", "not a readable Parquet"),
        ("r.doc", "x", "suffix"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load_cases(tmp_path / name)


def test_a_folder_without_tables_and_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_cases(tmp_path / "none")
    with pytest.raises(DataError, match=r"has no train, val or test; allowed: train\.parquet, train\.jsonl"):
        load_cases(tmp_path)
    with pytest.raises(SettingsError, match="scheme 'four'"):
        load_cases(write_seed(tmp_path), "four")
    with pytest.raises(SettingsError, match="photos in"):
        load_cases(tmp_path / "risks.csv", photos=tmp_path / "none")


def test_photos_may_lie_in_another_folder(tmp_path: Path) -> None:
    write_seed(tmp_path / "photos")
    (tmp_path / "table").mkdir()
    (tmp_path / "photos" / "risks.csv").rename(tmp_path / "table" / "r.csv")
    cases = load_cases(tmp_path / "table" / "r.csv", photos=tmp_path / "photos")
    assert len(cases) == 12 and cases.root == tmp_path / "photos"


def test_excel_is_read(tmp_path: Path) -> None:
    import openpyxl

    rows = seed_rows(3)
    for row in rows:
        draw(tmp_path / row["image_path"])
    workbook = openpyxl.Workbook()
    workbook.active.append(list(COLUMNS))
    for row in rows:
        workbook.active.append([None if row[name] == "nan" else row[name] for name in COLUMNS])
    workbook.save(tmp_path / "r.xlsx")
    assert [(case.id, case.level) for case in load_cases(tmp_path / "r.xlsx").cases] == [
        ("IMG_001", "中等"),
        ("IMG_002", "严重"),
        ("IMG_003", "轻微"),
    ]


def test_splits_come_from_a_column_or_from_the_name_of_a_file(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    for split in ("train", "val", "test"):
        write_jsonl(
            tmp_path / f"{split}.jsonl",
            [{"id": f"risk_detection_{split}", "images": ["a.jpg"], "metadata": {"风险等级": "严重", "序号": 3}}],
        )
    cases = load_cases(tmp_path)
    assert {case.id: case.split for case in cases.cases} == {"train": "train", "val": "val", "test": "test"}
    assert cases.cases[0].level == "严重" and cases.cases[0].extra == {"序号": "3"}
    assert load_cases(tmp_path / "val.jsonl").cases[0].split == "val"


def test_answers_stand_for_columns_that_are_not_there(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    turns = [
        {"from": "user", "value": "<image>\n?"},
        {"from": "assistant", "value": "**风险**：坍塌\n**风险等级**：严重"},
    ]
    cases = load_cases(write_jsonl(tmp_path / "r.jsonl", [{"id": "1", "image": "a.jpg", "conversations": turns}]))
    assert (cases.cases[0].level, cases.cases[0].fields["risk"]) == ("严重", "坍塌")


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


@pytest.mark.parametrize("form", ["base64", "uri", "bytes", "struct", "list"])
@pytest.mark.parametrize("rows_per_group", [1, 7, 100])
def test_photos_in_rows_are_read_in_any_order(tmp_path: Path, form: str, rows_per_group: int) -> None:
    import base64

    photos = [jpeg(n) for n in range(20)]
    column = {
        "base64": ("image_base64", [base64.b64encode(photo).decode() for photo in photos]),
        "uri": ("image_base64", [f"data:image/jpeg;base64,{base64.encodebytes(photo).decode()}" for photo in photos]),
        "bytes": ("image", photos),
        "struct": ("image", [{"bytes": photo, "path": "a.jpg"} for photo in photos]),
        "list": ("images", [[{"bytes": photo, "path": None}, {"bytes": photo[:-1], "path": "b"}] for photo in photos]),
    }[form]
    path = write_parquet(
        tmp_path / "r.parquet",
        {"id": [str(n) for n in range(20)], column[0]: column[1], "level": ["minor"] * 20},
        row_group_size=rows_per_group,
    )
    cases = load_cases(path).cases
    assert [len(case.photos) for case in cases] == [2 if form == "list" else 1] * 20
    with RowPhotos() as reader:
        for number in [*range(20), 19, 3, 3, 0, 15]:
            source = cases[number].photos[0]
            assert isinstance(source, PhotoInRow) and reader.read(source) == photos[number]
    assert list(tmp_path.iterdir()) == [path]


def test_rows_without_a_photo_in_parquet_are_told_in_words(tmp_path: Path) -> None:
    columns = {"image": [jpeg(), None, b""], "level": ["minor"] * 3, "description": ["", "裂缝", ""]}
    path = write_parquet(tmp_path / "r.parquet", columns)
    cases = load_cases(path)
    assert [len(case.photos) for case in cases.cases] == [1, 0] and cases.left_out == (
        "row 3: neither a photo nor a text",
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no base64!", "is not base64"),
        ("A", "is not base64"),
        (None, "has no photo"),
        ("", "has no photo"),
        ({"path": "x"}, "has no photo"),
        ([], "has no photo"),
        (b"", "has no photo"),
    ],
)
def test_a_cell_that_is_no_photo_is_named(value: object, said: str) -> None:
    with pytest.raises(UnreadableError, match=f"test.parquet, row 3 {said}"):
        bytes_from_value(value, "test.parquet, row 3")


def test_a_row_of_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "r.parquet",
        {"image": [bytes(3000 + n) for n in range(40)], "level": ["minor"] * 40},
        row_group_size=10,
        compression="NONE",
        use_dictionary=False,
    )
    cases = load_cases(path).cases
    raw = bytearray(path.read_bytes())
    raw[40_000:40_400] = b"\xff" * 400
    path.write_bytes(raw)
    states = []
    with RowPhotos() as reader:
        for case in cases:
            try:
                states.append(len(reader.read(case.photos[0])))  # type: ignore[arg-type]
            except UnreadableError as error:
                assert "r.parquet, row" in str(error)
                states.append(0)
    assert states[0] == 3000 and states[-1] == 3039


paths = st.text(
    st.characters(exclude_characters=";；|\n\0", categories=("L", "N", "P", "S")), min_size=1, max_size=8
).map(lambda text: f"a/{text}.jpg")


@given(
    st.lists(paths, max_size=5, unique=True),
    st.sampled_from([json.dumps, repr, ";".join, "；".join, "\n".join, " | ".join]),
)
def test_lists_of_paths_are_read_back(listed: list[str], write: Callable[[list[str]], str]) -> None:
    assert paths_from_cells("", write(listed), "row 1") == tuple(listed)
    assert set(paths_from_cells("x.jpg", write(listed), "row 1")) == {"x.jpg", *listed}


@given(
    st.text(max_size=60)
    | st.recursive(st.text(max_size=4) | st.integers(), lambda inner: st.lists(inner, max_size=3)).map(repr)
)
def test_any_cell_is_a_list_of_paths_or_an_error_of_one_line(text: str) -> None:
    try:
        assert all(isinstance(path, str) for path in paths_from_cells("", text, "row 1"))
    except DataError as error:
        assert str(error).startswith("row 1")


cells = (
    st.none()
    | st.text(max_size=10)
    | st.sampled_from([*LEVELS, "nan", "a.jpg", "minor", "train"])
    | st.lists(st.text(max_size=4), max_size=2)
    | st.floats()
    | st.booleans()
)
COLUMN_NAMES = [
    "path",
    "images",
    "level",
    "risk",
    "description",
    "id",
    "case_id",
    "split",
    "group",
    "metadata",
    "conversations",
    "x",
]


@given(st.lists(st.dictionaries(st.sampled_from(COLUMN_NAMES), cells, max_size=8), max_size=6), st.booleans())
@settings(max_examples=60)
def test_any_table_is_read_or_refused_in_one_line(rows: list[dict[str, Any]], labelled: bool) -> None:
    scheme = load_scheme("three-levels")
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "a.jpg")
        path = Path(folder) / "r.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        try:
            cases = load_cases(path, scheme, labelled=labelled)
        except VidriskError as error:
            assert "\n" not in str(error)
            return
    assert len({case.id for case in cases.cases}) == len(cases) > 0
    for case in cases.cases:
        assert list(case.fields) == [field.name for field in scheme.fields] and (case.photos or case.fields["defect"])
        assert all(isinstance(photo, PhotoFile) for photo in case.photos)
        assert not labelled or case.level in scheme.level_names


def test_metadata_fills_columns_that_are_empty(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    inner = {"level": "minor", "risk": "falls"}
    rows = [{"path": "a.jpg", "level": outer, "risk": "", "metadata": inner} for outer in ("", "severe")]
    cases = load_cases(write_jsonl(tmp_path / "r.jsonl", rows)).cases
    assert [(case.level, case.fields["risk"]) for case in cases] == [("轻微", "falls"), ("严重", "falls")]


def test_a_scheme_beside_the_data_is_one_of_jsonl_alone_and_is_read_with_care(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    row = {"path": "a.jpg", "level": "minor"}
    write_jsonl(tmp_path / "r.jsonl", [row])
    write_csv(tmp_path / "r.csv", [row])
    for content, said in (
        (b"\xff\xfe\xff", r"scheme\.json is not UTF-8 text"),
        (b" " * (1 << 20) + b"{}", "larger than 1 MB"),
    ):
        (tmp_path / "scheme.json").write_bytes(content)
        with pytest.raises(DataError, match=said):
            load_cases(tmp_path / "r.jsonl")
        assert load_cases(tmp_path / "r.csv").scheme.name == "three-levels"
    (tmp_path / "scheme.json").write_text(load_scheme("three-levels-en").to_json(), encoding="utf-8")
    assert load_cases(tmp_path / "r.jsonl").scheme.name == "three-levels-en"
