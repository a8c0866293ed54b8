"""Tests of TFRecord: framing, checksums, records of other programs, label maps, shards, and extracted photos."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from drawn_tables import file_of
from PIL import Image

from vidrisk.data import Sample, Table
from vidrisk.data.data_sets import import_data, write_data_set
from vidrisk.data.formats import format_of
from vidrisk.data.formats.tfrecord.crc32c import masked_crc32c
from vidrisk.data.formats.tfrecord.examples import Value, examples_of, record_from_features, values_of
from vidrisk.data.load import load_table
from vidrisk.runtimes.contract.errors import DataError

MAP = "item {\n  id: 1\n  name: 'crack'\n}\nitem {\n  id: 2\n  name: 'spall'\n}\n"


def photo(tmp_path: Path, number: int = 0) -> bytes:
    return file_of(tmp_path / "photos", f"{number}.png", number).read_bytes()


def write(path: Path, records: Sequence[Mapping[str, Sequence[Value]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(record_from_features, records)))
    return path


def test_a_record_has_the_bytes_that_protobuf_says() -> None:
    record = record_from_features({"a": [b"xy"], "n": [1, 300, -1]})
    length, crc = struct.unpack("<QI", record[:12])
    data = record[12:-4]
    assert (
        length == len(data)
        and crc == masked_crc32c(record[:8])
        and record[-4:] == struct.pack("<I", masked_crc32c(data))
    )
    texts, numbers = "0a0b0a016112060a040a027879", "0a160a016e12111a0f0a0d01ac02"
    entries = bytes.fromhex(texts + numbers) + b"\xff" * 9 + b"\x01"
    assert data == b"\x0a" + bytes([len(entries)]) + entries


def test_numbers_are_read_packed_and_one_by_one(tmp_path: Path) -> None:
    for packed in (b"\x1a\x05\x0a\x03\x01\xac\x02", b"\x1a\x05\x08\x01\x08\xac\x02"):
        assert values_of(memoryview(packed), "x") == [1, 300]
    half, minus_two = struct.pack("<f", 0.5), struct.pack("<f", -2)
    for packed in (b"\x12\x0a\x0a\x08" + half + minus_two, b"\x12\x0a\x0d" + half + b"\x0d" + minus_two):
        assert values_of(memoryview(packed), "x") == [0.5, -2]
    path = tmp_path / "x.tfrecord"
    path.write_bytes(record_from_features({"é": [b"1"], "empty": []}))
    ((where, features),) = examples_of(path)
    assert where == "x.tfrecord, record 1" and {name: values_of(feature, "") for name, feature in features.items()} == {
        "é": [b"1"],
        "empty": [],
    }


def test_classes_are_named_by_the_map_beside_the_records_and_numbered_by_it(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for split, numbers in {"train": [2, 1, 2], "validation": [1]}.items():
        write(
            root / f"{split}-00000-of-00001",
            [
                {
                    "image/encoded": [photo(tmp_path, number)],
                    "image/class/label": [label],
                    "image/height": [12],
                    "image/filename": [f"{split}{number}.png".encode()],
                    "image/colorspace": [b"RGB"],
                }
                for number, label in enumerate(numbers)
            ],
        )
    (root / "label_map.pbtxt").write_text(MAP.replace("'crack'", "'wet'"))
    found = import_data(root, made=tmp_path / "made")
    assert {sample.name: (sample.labels["defect"], sample.split) for sample in found.table.samples} == {
        "train0.png": ("spall", "train"),
        "train1.png": ("wet", "train"),
        "train2.png": ("spall", "train"),
        "validation0.png": ("wet", "val"),
    }
    assert found.format.name == "tfrecord" and found.table.label_order == {"defect": ("wet", "spall")}
    assert (tmp_path / "made" / "train1.png").read_bytes() == photo(tmp_path, 1) and not found.table.samples[0].extra


def test_a_map_may_be_named_and_a_number_that_it_lacks_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "x.record", [{"image/encoded": [photo(tmp_path)], "image/class/label": [3]}])
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    assert import_data(path, labels=tmp_path / "names.txt", made=tmp_path / "m1").table.samples[0].labels == {
        "defect": "d"
    }
    assert import_data(path, made=tmp_path / "m2").table.samples[0].labels == {"defect": "3"}
    (tmp_path / "label_map.pbtxt").write_text(MAP)
    with pytest.raises(
        DataError, match=r"x\.record, record 1: the class 3 is not in label_map\.pbtxt; allowed: .*, 1 to 2"
    ):
        import_data(path, made=tmp_path / "m3")
    assert not (tmp_path / "m3").exists()


def test_objects_of_tfod_and_tao_are_labels_or_crops(tmp_path: Path) -> None:
    sides = {"xmin": [0.25, 0.0], "ymin": [0.5, 0.0], "xmax": [0.5, 1.0], "ymax": [1.0, 1.0]}
    several = {f"image/object/bbox/{side}": values for side, values in sides.items()}
    classes: dict[str, Sequence[Value]] = {
        "image/object/class/text": [b"crack", b"spall"],
        "image/object/class/label": [1, 2],
    }
    path = write(
        tmp_path / "set" / "train.tfrecord",
        [
            {"image/encoded": [photo(tmp_path)]} | classes | several,
            {"image/encoded": [photo(tmp_path, 1)], "image/object/class/text": []} | {name: [] for name in several},
        ],
    )
    table = import_data(path, made=tmp_path / "m1").table
    assert [sample.labels["defect"] for sample in table.samples] == [("crack", "spall"), ()]
    crops = import_data(path, crops=True, made=tmp_path / "m2").table
    assert [(sample.labels["defect"], sample.group) for sample in crops.samples] == [
        ("crack", "train.tfrecord-0.png"),
        ("spall", "train.tfrecord-0.png"),
    ]
    with Image.open(crops.samples[0].path) as image:
        assert image.size == (4, 6)  # of 16 x 12
    assert "records without a box left out: 1" in crops.notes
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "m1",
        "m2",
        "photos",
        "set",
    ]  # whole photos are not kept
    texts = {name: [b"0.5"] * len(values) for name, values in several.items()}
    write(path, [{"image/encoded": [photo(tmp_path)]} | classes | texts])
    with pytest.raises(DataError, match=r"record 1 has 2 classes and 0, 0, 0, 0 sides of boxes; allowed: one of each"):
        import_data(path, crops=True, made=tmp_path / "m3")


def test_names_of_photos_never_leave_the_folder_and_are_made_unique(tmp_path: Path) -> None:
    names = [
        b"../../x.png",
        b"/etc/x.png",
        b"a.png",
        b"A.PNG",
        b"a.png",
        b"in/b",
        b".hidden.png",
        b"c" * 300,
        b"n\0ul.png",
        "图.png".encode(),
    ]
    path = write(
        tmp_path / "x.tfrecord",
        [{"image/encoded": [photo(tmp_path)], "image/class/text": [b"a"], "image/filename": [name]} for name in names],
    )
    table = import_data(path, made=tmp_path / "made").table
    assert [sample.name for sample in table.samples] == [
        "x.tfrecord-0.png",
        "x.tfrecord-1.png",
        "a.png",
        "A-2.PNG",
        "a-3.png",
        "in/b.png",
        "x.tfrecord-6.png",
        "x.tfrecord-7.png",
        "x.tfrecord-8.png",
        "图.png",
    ]
    assert {path.resolve().is_relative_to(tmp_path / "made") for path in (tmp_path / "made").rglob("*")} == {True}


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.tfrecord",
        [
            {"image/encoded": [b"GARBAGE"], "image/class/text": [b"a"]},
            {"image/class/text": [b"a"]},
            {"image/encoded": [photo(tmp_path)]},
            {
                "image/encoded": [photo(tmp_path)],
                "image/class/text": [b"a"],
                "risk_level": ["严重".encode()],
                "site": [b"north"],
                "numbers": [1, 2],
                "reading": [7],
                "story": [b"x" * 5000],
                "nothing": [],
            },
        ],
    )
    (sample,) = (table := import_data(path, made=tmp_path / "made").table).samples
    assert {
        "records without a photo left out: 2",
        "records without a label left out: 1",
        "features that are long or have several values left out: 2",
    } <= set(table.notes)
    assert sample.labels == {"defect": "a", "level": "严重"} and sample.extra == {"site": "north", "reading": "7"}


def test_shards_that_are_missing_are_said_and_strict_refuses_them(tmp_path: Path) -> None:
    for number in (0, 2):
        write(
            tmp_path / "set" / f"train.tfrecord-{number:05d}-of-00003",
            [{"image/encoded": [photo(tmp_path, number)], "image/class/text": [b"a"]}],
        )
    assert import_data(tmp_path / "set", made=tmp_path / "m1").absent == ("train.tfrecord-00001-of-00003",)
    with pytest.raises(DataError, match=r"do not exist: 1 of 3 \(train\.tfrecord-00001-of-00003\)"):
        import_data(tmp_path / "set", made=tmp_path / "m2", strict=True)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (0, "record 1 has a length whose checksum is wrong"),
        (9, "record 1 has a length whose checksum is wrong"),
        (40, "record 1 has a wrong checksum"),
        (-2, "record 1 has a wrong checksum"),
        (None, "but the file ends earlier"),
    ],
)
def test_a_damaged_record_is_one_line_and_leaves_nothing(tmp_path: Path, at: int | None, said: str) -> None:
    path = write(tmp_path / "x.tfrecord", [{"image/encoded": [photo(tmp_path)], "image/class/text": [b"a"]}])
    data = bytearray(path.read_bytes())
    if at is None:
        del data[-20:]
    else:
        data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=said):
        import_data(path, name="tfrecord", made=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_file_that_ends_in_the_header_of_a_record_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", [{"image/encoded": [photo(tmp_path)], "image/class/text": [b"a"]}])
    path.write_bytes(path.read_bytes() + bytes(5))
    with pytest.raises(DataError, match=r"x\.tfrecord ends in the header of record 2; fix: get the file again"):
        list(examples_of(path))


def test_a_record_of_a_million_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    length = (10**15).to_bytes(8, "little")
    (tmp_path / "x.tfrecord").write_bytes(length + struct.pack("<I", masked_crc32c(length)) + bytes(100))
    tracemalloc.start()
    with pytest.raises(DataError, match="has 1000000000000000 bytes, but the file ends earlier"):
        list(examples_of(tmp_path / "x.tfrecord"))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_records_of_something_else_are_one_line(tmp_path: Path) -> None:
    damaged = (b"\x0a\xff", b"\x0a\x05\x0a\x03\x0a\x01\xff", b"\x0b\x00", b"\xff" * 12, b"\x0a\x04\x0a\x02\x12\x07")
    for number, data in enumerate(damaged):
        frame = len(data).to_bytes(8, "little")
        path = tmp_path / f"{number}.tfrecord"
        path.write_bytes(
            frame + struct.pack("<I", masked_crc32c(frame)) + data + struct.pack("<I", masked_crc32c(data))
        )
        with pytest.raises(DataError, match=r"record 1 is not a tf\.train\.Example: .*; allowed: features by name"):
            list(examples_of(path))
    (tmp_path / "z.tfrecord").write_bytes(b"\x1f\x8b" + bytes(20))
    with pytest.raises(DataError, match=r"is compressed; .*fix: unpack it with gunzip"):
        list(examples_of(tmp_path / "z.tfrecord"))


def test_photos_inside_a_file_are_not_read_without_a_folder_for_them(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", [{"image/encoded": [photo(tmp_path)], "image/class/text": [b"a"]}])
    with pytest.raises(DataError, match=r"stores its photos inside records; fix: extract them .* vidrisk data import"):
        load_table(path, "risk", min_labels=1)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x").touch()
    with pytest.raises(DataError, match="has files in it"):
        import_data(path, made=tmp_path / "made")
    assert (tmp_path / "made" / "x").exists()


def test_only_records_are_recognised(tmp_path: Path) -> None:
    record = record_from_features({"a": [b""]})
    for name in ("set/train-00000-of-00002", "set2/x.tfrecord", "set3/train.record-00000-of-00001"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(record)
        assert format_of(tmp_path / name) is not None and format_of((tmp_path / name).parent) is not None
    others = {"runs/events.out.tfevents.1.host": record, "text/x.tfrecord": b"path,label\n", "short/x.tfrecord": b"abc"}
    for name, data in others.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(data)
        assert format_of(tmp_path / name) is None and format_of((tmp_path / name).parent) is None


def test_what_is_written_has_the_keys_that_tensorflow_users_read(tmp_path: Path) -> None:
    path = file_of(tmp_path, "图/a.png", 0)
    samples = (Sample(path, "图/a.png", {"defect": "spall"}, split="train"),)
    table = Table(tmp_path, "risk", samples, label_order={"defect": ("spall", "crack")})
    write_data_set(table, tmp_path / "out", name="tfrecord")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "label_map.pbtxt",
        "train.tfrecord-00000-of-00001",
    ]
    ((_, features),) = examples_of(tmp_path / "out" / "train.tfrecord-00000-of-00001")
    assert {name: values_of(feature, "") for name, feature in features.items()} == {
        "image/encoded": [path.read_bytes()],
        "image/format": [b"png"],
        "image/filename": ["图/a.png".encode()],
        "image/class/text": [b"spall"],
        "image/class/label": [1],
        "split": [b"train"],
    }
