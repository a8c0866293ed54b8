from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrisk.data import Table, load_table, write_table
from vidrisk.runtimes.contract.errors import DataError, SettingsError

Photo = Callable[[Path], Path]
CHINESE = "image_path,data_风险,data_风险等级,data_纠正和预防建议,data_缺陷描述\n"


@pytest.fixture
def root(tmp_path: Path, photo: Photo) -> Path:
    for name in "abcd":
        photo(tmp_path / f"{name}.jpg")
    return tmp_path


def written(root: Path, text: str, name: str = "m.csv", encoding: str = "utf-8") -> Path:
    path = root / name
    path.write_bytes(text.encode(encoding))
    return path


def labels(table: Table, target: str) -> list[str]:
    return [sample.labels[target] for sample in table.samples]


def one_line(caught: pytest.ExceptionInfo[DataError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


# Folders


def test_class_folder_reads_nested_and_odd_names(tmp_path: Path, photo: Photo) -> None:
    names = ["hug/a b.jpg", "hug/sub/it's.JPG", "kick, hard/踢🦵.png", "kick, hard/.hidden.jpg", ".git/x.jpg"]
    for name in names:
        photo(tmp_path / name)
    (tmp_path / "hug" / "Thumbs.db").write_bytes(b"")
    table = load_table(tmp_path, "action")
    assert [s.name for s in table.samples] == names[:3]
    assert labels(table, "action") == ["hug", "hug", "kick, hard"]
    assert all(s.path.is_absolute() and s.path.is_file() and s.split is None for s in table.samples)
    assert load_table(tmp_path, "risk").target_names == ("defect",)


def test_folder_warns_about_what_it_leaves_out(tmp_path: Path, photo: Photo, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "loose.jpg"):
        photo(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("x")
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        assert len(load_table(tmp_path, "action")) == 2
    assert (
        "1 file that is neither a clip nor a photo (notes.txt); 1 outside the class folders (loose.jpg)" in caplog.text
    )


def test_split_folders_above_classes(tmp_path: Path, photo: Photo) -> None:
    for split in ("train", "valid", "Test"):
        for label in "ab":
            photo(tmp_path / split / label / "1.jpg")
    table = load_table(tmp_path, "action")
    assert [len(table.of_split(name)) for name in ("train", "val", "test")] == [2, 2, 2]
    assert table.samples[0].name == "Test/a/1.jpg" and table.label_counts("action") == {"a": 3, "b": 3}
    with pytest.raises(SettingsError, match="train, val, test"):
        table.of_split("dev")


def test_a_train_is_also_a_class(tmp_path: Path, photo: Photo) -> None:
    photo(tmp_path / "train" / "1.jpg")
    photo(tmp_path / "bus" / "1.jpg")
    assert labels(load_table(tmp_path, "action"), "action") == ["bus", "train"]


def test_folder_errors(tmp_path: Path, photo: Photo) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_table(tmp_path / "none", "action")
    with pytest.raises(DataError, match="has no clip or photo"):
        load_table(tmp_path, "action")
    photo(tmp_path / "images" / "1.jpg")
    with pytest.raises(DataError, match=r"only one action label \(images\)"):
        load_table(tmp_path, "action")
    written(tmp_path, "path,label\n", "labels.csv")
    with pytest.raises(DataError, match=r"name the manifest instead: .*labels.csv"):
        load_table(tmp_path, "action")
    with pytest.raises(SettingsError, match="action, risk"):
        load_table(tmp_path, "other")  # type: ignore[arg-type]


# Manifests


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_encodings_and_delimiters(root: Path, encoding: str, delimiter: str) -> None:
    text = '图片路径,类别\r\n"a.jpg","裂纹,深"\r\nb.jpg,正常\r\n\r\n'
    text = text.replace("径,", "径" + delimiter).replace('g",', 'g"' + delimiter).replace("g,", "g" + delimiter)
    table = load_table(written(root, text, encoding=encoding), "action")
    assert labels(table, "action") == ["裂纹,深", "正常"]


def test_risk_csv_of_the_field(root: Path) -> None:
    text = CHINESE + "a.jpg,坠落,严重,立即停工,护栏缺失且无警示\nb.jpg,,轻微,,\n"
    table = load_table(written(root, text), "risk")
    first = table.samples[0]
    assert table.target_names == ("level",) and labels(table, "level") == ["严重", "轻微"]
    assert (first.risk, first.advice, first.description) == ("坠落", "立即停工", "护栏缺失且无警示")
    assert table.samples[1].advice == ""


def test_english_risk_csv_and_extra_columns(root: Path) -> None:
    text = (
        "image_path,risk,risk_level,advice,defect,Site\n"
        "a.jpg,fall,severe,stop,the guard rail is missing on the left,A\nb.jpg,none,minor,,a scratch, B\n"
    )
    table = load_table(written(root, text), "risk")
    assert table.target_names == ("level",)
    assert table.samples[0].description == "the guard rail is missing on the left"
    assert dict(table.samples[0].extra) == {"Site": "A"}


@pytest.mark.parametrize(
    ("values", "is_class"),
    [
        (["crack", "free"] * 2, True),
        (["crack", "free", "blow", "fray"], False),  # one row per value
        (["crack", "x" * 41] * 2, False),  # longer than a name
    ],
)
def test_defect_is_a_class_or_a_text(
    root: Path, caplog: pytest.LogCaptureFixture, values: Sequence[str], is_class: bool
) -> None:
    levels = ["minor", "minor", "severe", "severe"]
    rows = "".join(f"{n}.jpg,{v},{lv}\n" for n, v, lv in zip("abcd", values, levels, strict=True))
    with caplog.at_level(logging.INFO, logger="vidrisk"):
        table = load_table(written(root, "path,defect,risk_level\n" + rows), "risk")
    assert table.target_names == (("defect", "level") if is_class else ("level",))
    assert (table.samples[0].description == "") is is_class
    assert f"taken as the {'class' if is_class else 'description'}" in caplog.text


def test_defect_beside_a_class_is_the_description(root: Path) -> None:
    text = "path,defect_class,defect\na.jpg,crack,deep\nb.jpg,free,deep\n"
    table = load_table(written(root, text), "risk")
    assert labels(table, "defect") == ["crack", "free"] and table.samples[0].description == "deep"


def test_jsonl(root: Path) -> None:
    rows = [
        {"video_path": "a.jpg", "label": 1, "split": "validation", "group": "g", "boxes": [1, 2]},
        {"video_path": "./b.jpg", "label": "crack, deep", "note": None},
    ]
    table = load_table(written(root, "\n".join(json.dumps(r) for r in rows), "m.jsonl"), "action")
    assert labels(table, "action") == ["1", "crack, deep"]
    assert (table.samples[0].split, table.samples[0].group) == ("val", "g")
    assert table.samples[1].name == "b.jpg" and table.samples[1].split is None
    assert dict(table.samples[0].extra) == {"boxes": "[1, 2]", "note": ""}


def test_parquet_numbers_are_labels(root: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "level": [0.0, 0.5]}), root / "m.parquet")
    assert labels(load_table(root / "m.parquet", "risk"), "level") == ["0", "0.5"]


def test_absolute_windows_and_repeated_paths(root: Path, photo: Photo, caplog: pytest.LogCaptureFixture) -> None:
    photo(root / "sub" / "x.jpg")
    text = f"path,label\n{root / 'a.jpg'},p\nsub\\x.jpg,q\nsub/../a.jpg,p\n"
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        table = load_table(written(root, text), "action")
    assert [s.name for s in table.samples] == ["a.jpg", "sub/x.jpg"]
    assert "repeated rows left out: 1" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name_,label\na.jpg,x\n", "no column for the path; found: file_name_, label; allowed: path, image_path"),
        ("path,mood\na.jpg,x\n", "no column for the action; found: path, mood; allowed: action"),
        ("path,risk_level\na.jpg,minor\n", "use the task risk, as the column risk_level suggests"),
        ("path,label\na.jpg,x\n../b.jpg,y\n", "line 3: the path '../b.jpg' leaves the manifest's folder"),
        ("path,label\n/etc/passwd,x\n", "line 2: the path '/etc/passwd' leaves"),
        ("path,label\n,x\n", "line 2: the path is empty"),
        ("path,label\na.jpg,\nb.jpg,NaN\n", "m.csv has no action label: the column 'label' is empty"),
        (
            "path,label\n1.jpg,x\n2.jpg,x\n3.jpg,y\n4.jpg,y\na.jpg,x\n",
            "names files that do not exist (4): 1.jpg (line 2), 2.jpg (line 3), 3.jpg (line 4) and 1 more",
        ),
        ("path,label\na.jpg,x\n./a.jpg,y\n", "a.jpg twice with different labels or splits: line 2 and line 3"),
        ("path,label,split\na.jpg,x,train\na.jpg,x,test\n", "twice with different labels or splits"),
        ("path,label\na.jpg,x\nb.jpg,x\n", r"only one action label (x)"),
        ("path,label\n", "has no rows"),
        ("", "has no rows"),
        ("path,label\na.jpg,x,y\n", "line 2 has 3 cells, the header 2"),
        ("path,label,label\na.jpg,x,y\n", "column 'label' twice"),
        ('path,label\na.jpg,"x\n', "is not CSV"),
        ("path,label,split\na.jpg,x,later\n", "split 'later'; allowed: train, val, test"),
        ("path,label\nm.csv,x\n", "files that are neither clips nor photos (1): m.csv (line 2)"),
        ("path,label\n" + "n" * 300 + ".jpg,x\n", "names files that do not exist (1): nnn"),
        ("path,label\na\0.jpg,x\n", ""),
    ],
)
def test_bad_csv(root: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_table(written(root, text), "action")
    assert message in one_line(caught)


def test_free_text_defect_alone_is_no_label(root: Path) -> None:
    with pytest.raises(DataError, match=r"'defect' \(2 different values in 2 rows\) reads as free text; allowed"):
        load_table(written(root, "path,defect\na.jpg,x\nb.jpg,y\n"), "risk")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("m.doc", b"PK", "unknown suffix '.doc'; allowed: .csv"),
        ("m.csv", b"path,label\n\xff\xfe\xff,x\n", "is not UTF-8, and its encoding cannot be detected; line 2"),
        ("m.jsonl", b'{"path": "a.jpg"\n', "line 1 is not JSON"),
        ("m.jsonl", b'["a.jpg"]\n', "line 1 is not a JSON object"),
        ("m.parquet", b"path,label\n", "not a readable Parquet"),
    ],
)
def test_broken_files(root: Path, name: str, data: bytes, message: str) -> None:
    (root / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        load_table(root / name, "action")
    one_line(caught)


NAMES = ["path", "label", "a.jpg", "b.jpg", "..", "/", "NaN", '"', "\\"]
fields = st.one_of(st.text(max_size=8), st.sampled_from(NAMES))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(fields, max_size=3), max_size=5),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "gb18030", "utf-16"]),
)
def test_any_csv_is_a_table_or_one_line(lines: list[list[str]], delimiter: str, encoding: str) -> None:
    check_any("m.csv", "\n".join(delimiter.join(line) for line in lines).encode(encoding))


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.lists(st.text(max_size=2), max_size=2),
    st.sampled_from(["a.jpg", "b.jpg", "x", "\ud800"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["path", "label", "split", "note"]), values), max_size=4))
def test_any_jsonl_is_a_table_or_one_line(records: list[dict[str, object]]) -> None:
    check_any("m.jsonl", "\n".join(json.dumps(record) for record in records).encode())


def check_any(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for photo in ("a.jpg", "b.jpg"):
            (Path(folder) / photo).touch()
        (Path(folder) / name).write_bytes(data)
        try:
            assert len(load_table(Path(folder) / name, "action").label_counts("action")) >= 2
        except DataError as error:
            assert "\n" not in str(error)


def test_link_that_leaves_the_folder_is_refused(tmp_path: Path, photo: Photo) -> None:
    photo(tmp_path / "secret.jpg")
    photo(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "b.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "in" / "loop.jpg").symlink_to(tmp_path / "in" / "loop.jpg")
    with pytest.raises(DataError, match=r"line 3: the path 'b\.jpg' leaves"):
        load_table(written(tmp_path / "in", "path,label\na.jpg,x\nb.jpg,y\n"), "action")
    with pytest.raises(DataError, match=r"files that do not exist \(1\): loop\.jpg"):
        load_table(written(tmp_path / "in", "path,label\na.jpg,x\nloop.jpg,y\n"), "action")


def test_repr_is_short(root: Path) -> None:
    table = load_table(written(root, "path,label,split\na.jpg,x,train\nb.jpg,y,\n"), "action")
    assert repr(table) == f"Table({root.name}, action: 1 train, 1 no split)"
    assert repr(table.samples[0]) == "Sample(a.jpg: action=x, train)"


# Real data


def test_real_clips_and_photos(shared_data: Path) -> None:
    clips = load_table(shared_data / "ut_interaction_set1", "action")
    assert len(clips) == 60 and set(clips.label_counts("action").values()) == {10}
    tiles = load_table(shared_data / "magnetic_tile" / "labels.csv", "risk")
    assert tiles.target_names == ("defect",) and len(tiles.label_counts("defect")) == 6
    assert set(tiles.samples[0].extra) == {"defect_area_fraction"}


def test_rows_that_nobody_has_labelled_are_left_out_and_said(tmp_path: Path, photo: Callable[..., Path]) -> None:
    for name in "abcd":
        photo(tmp_path / f"{name}.jpg")
    (tmp_path / "m.csv").write_text("path,defect_class,risk_level\na.jpg,x,1\nb.jpg,,\nc.jpg,y,\nd.jpg,,2\n")
    table = load_table(tmp_path / "m.csv", "risk")
    assert [dict(sample.labels) for sample in table.samples] == [
        {"defect": "x", "level": "1"},
        {"defect": "y"},
        {"level": "2"},
    ]
    assert not table.is_labelled_for_all() and table.target_names == ("defect", "level")
    assert table.notes == ("m.csv: rows without a label: 1 (line 3); they are left out",)
    with pytest.raises(DataError, match=r"rows without a label: 1 \(line 3\)"):
        load_table(tmp_path / "m.csv", "risk", strict=True)
    write_table(table, tmp_path / "again.csv")
    assert load_table(tmp_path / "again.csv", "risk").samples == table.samples


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_multi_label_tables_are_written_and_read(tmp_path: Path, photo: Callable[..., Path], suffix: str) -> None:
    for name in "abcd":
        photo(tmp_path / f"{name}.jpg")
    (tmp_path / "m.csv").write_text("path,action,action_id\na.jpg,x;y,\nb.jpg,y,\nc.jpg,[],\nd.jpg,,\n")
    table = load_table(tmp_path / "m.csv", "action", multi_label=True)
    assert [sample.labels["action"] for sample in table.samples] == [("x", "y"), ("y",), ()]
    assert table.multi_targets == {"action"} and table.label_counts("action") == {"x": 1, "y": 2}
    ordered = replace(table, label_order={"action": ("y", "x")}).with_samples(
        replace(sample, extra={}) for sample in table.samples
    )
    write_table(ordered, tmp_path / f"again.{suffix}")
    again = load_table(tmp_path / f"again.{suffix}", "action")
    assert again.samples == ordered.samples and again.label_order == ordered.label_order


def test_both_targets_are_read_from_one_manifest(tmp_path: Path, photo: Callable[..., Path]) -> None:
    for name in "abc":
        photo(tmp_path / f"{name}.jpg")
    (tmp_path / "m.csv").write_text("path,action,risk_level\na.jpg,run,1\nb.jpg,walk,\nc.jpg,,2\n")
    assert load_table(tmp_path / "m.csv", "action+risk").target_names == ("action", "level")
    with pytest.raises(DataError, match="no column for a defect class or a risk level"):
        (tmp_path / "n.csv").write_text("path,action,label\na.jpg,run,1\n")
        load_table(tmp_path / "n.csv", "action+risk")
