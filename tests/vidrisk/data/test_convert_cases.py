"""Tests of the conversion of cases: converted cases are read back, and an unreadable photo affects no other.

No incomplete output is left.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from risk_tables import draw, jpeg, seed_rows, write_csv, write_jsonl, write_seed
from typer.testing import CliRunner

from vidrisk.cli.data import app
from vidrisk.data import Cases, load_cases, split_cases
from vidrisk.data.answers import fields_from_answer
from vidrisk.data.case_photos import read_case_photos
from vidrisk.data.convert_cases import STATS, convert_cases
from vidrisk.data.report_prompts import prompt_from_case
from vidrisk.decode.messages import PhotoSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.runtimes.contract.errors import DataError, SettingsError, VidriskError


def told(cases: Cases) -> dict[str, tuple[Any, ...]]:
    return {case.id: (case.fields, case.level, case.split, case.group, len(case.photos)) for case in cases.cases}


def mixed(folder: Path) -> Cases:
    """Return cases with one, several and no photos, in several buildings."""
    rows = seed_rows(9)
    for number, row in enumerate(rows):
        draw(folder / row["image_path"], number, (1200, 300) if number == 0 else (48, 32))
        row["building"] = f"b{number // 2}"
        row["all_image_paths"] = ""
    draw(folder / "more.webp", 50)
    rows[3]["all_image_paths"] = json.dumps(["more.webp"])
    rows[5] |= {"image_path": "", "data_缺陷描述": "只有文字 <image> <|im_end|>"}
    return split_cases(load_cases(write_csv(folder / "risks.csv", rows)))


@pytest.mark.parametrize("kind", ["risk-parquet", "risk-jsonl"])
def test_cases_are_read_back(tmp_path: Path, kind: Any) -> None:
    cases = mixed(tmp_path)
    stats = convert_cases(cases, tmp_path / "out", kind)
    back = load_cases(tmp_path / "out")
    assert told(back) == told(cases) and back.scheme == cases.scheme
    assert stats == json.loads((tmp_path / "out" / STATS).read_text(encoding="utf-8"))
    assert stats["total_samples"] == 9 == sum(stats[f"{split}_samples"] for split in ("train", "val", "test"))
    assert (stats["images"], stats["text_only_samples"], sum(stats["risk_level_distribution"].values())) == (9, 1, 9)
    again = convert_cases(back, tmp_path / "again", kind)
    assert {name: again[name] for name in ("levels", "images")} == {name: stats[name] for name in ("levels", "images")}
    assert told(load_cases(tmp_path / "again")) == told(cases)


def test_columns_are_those_that_riskva_documents(tmp_path: Path) -> None:
    import pyarrow.parquet

    cases = mixed(tmp_path)
    convert_cases(cases, tmp_path / "out", "risk-parquet", settings=PhotoSettings(400, 400, 90))
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted((tmp_path / "out").glob("*.parquet")):
        file = pyarrow.parquet.ParquetFile(path)
        assert file.metadata.row_group(0).column(0).compression == "SNAPPY"
        rows |= {row["id"]: row for row in file.read().to_pylist()}
    first = rows["risk_detection_IMG_001"]
    assert (first["original_image_path"], first["more_images_base64"]) == ("图/1 墙.png", [])
    expected = {
        "序号": "1",
        "风险": "坍塌",
        "风险等级": "中等",
        "来源文件": "a.csv",
        "原始文件名": "old 1.png",
        "原状态": "",
        "现状态": "A",
    }
    assert expected.items() <= first["metadata"].items()
    with Image.open(io.BytesIO(base64.b64decode(first["image_base64"]))) as image:
        assert image.format == "JPEG" and image.size == (400, 100)
    assert len(rows["risk_detection_IMG_004"]["more_images_base64"]) == 1
    assert rows["risk_detection_IMG_006"]["image_base64"] is None
    for case in cases.cases:
        system, user, answer = rows[f"risk_detection_{case.id}"]["conversations"]
        prompt = prompt_from_case(cases.scheme, case)
        assert (system, user) == ({"from": "system", "value": prompt.system}, {"from": "user", "value": prompt.user})
        assert user["value"].count("<image>") == len(case.photos) and "<|" not in user["value"] + answer["value"]
        parsed = fields_from_answer(cases.scheme, answer["value"])
        assert parsed.parse_ok and parsed.fields["level"] == case.level


def test_pixels_are_those_of_the_photo_within_what_jpeg_loses(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth).save(tmp_path / "turned.tif", exif=exif)
    rows = [{"path": "a.png", "level": "minor"}, {"path": "turned.tif", "level": "minor"}]
    cases = load_cases(write_csv(tmp_path / "r.csv", rows))
    with DecodePool(1) as pool:
        (_, (plain,)), (_, (turned,)) = read_case_photos(cases.cases, pool, PhotoSettings(quality=95))
    assert plain.jpeg and turned.jpeg and (turned.jpeg.width, turned.jpeg.height) == (48, 64)
    for photo, expected in ((plain, smooth), (turned, np.rot90(smooth, -1))):
        assert photo.jpeg
        decoded = np.asarray(Image.open(io.BytesIO(photo.jpeg.data))).astype(int)
        assert np.abs(decoded - expected).mean() < 3


def test_real_photos_and_rows_come_back(shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / "magnetic_tile" / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::40]
    for row in rows:
        row["level"] = "minor" if row["defect"] == "free" else "severe"
    path = write_csv(tmp_path / "tiles.csv", rows)
    cases = split_cases(load_cases(path, "three-levels-en", photos=shared_data / "magnetic_tile"))
    stats = convert_cases(cases, tmp_path / "out", "risk-parquet", settings=PhotoSettings(256, 256))
    assert stats["images"] == len(rows) > 10 and stats["unreadable_images"] == stats["partial_images"] == 0
    back = load_cases(tmp_path / "out")
    assert told(back) == told(cases) and back.cases[0].fields["defect"] in {row["defect"] for row in rows}


def corrupt_parquet(folder: Path) -> Path:
    """Write a Parquet file with photos in its rows.

    One photo is good, one is truncated, one is junk and one is not base64. One row has two photos, of which one
    is junk. The photos of the other rows are good.
    """
    import pyarrow
    import pyarrow.parquet

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    photos = [
        encoded(jpeg(1)),
        encoded(jpeg(2, (400, 300))[:-20_000]),
        encoded(b"junk" * 50),
        "no base64!",
        *(encoded(jpeg(n)) for n in range(3, 7)),
    ]
    table = {
        "id": list("abcdefgh"),
        "level": ["minor"] * 8,
        "image_base64": photos,
        "more_images_base64": [[], [], [], [], [encoded(b"junk")], [], [], []],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "r.parquet", row_group_size=3)
    return folder / "r.parquet"


def test_a_photo_that_cannot_be_read_costs_itself_alone(tmp_path: Path) -> None:
    cases = split_cases(load_cases(corrupt_parquet(tmp_path)))
    stats = convert_cases(cases, tmp_path / "out", "risk-jsonl")
    assert {case.id: len(case.photos) for case in load_cases(tmp_path / "out").cases} == dict.fromkeys("abefgh", 1)
    assert (stats["unreadable_images"], stats["partial_images"], stats["left_out"]) == (3, 1, 2)
    rows = [line.partition(":")[0] for line in stats["unreadable"]]
    assert rows == ["r.parquet, row 3", "r.parquet, row 4", "r.parquet, row 5"]
    assert "is not base64" in stats["unreadable"][1] and "is missing" in stats["partial"][0]
    with pytest.raises(DataError, match=r"case b: r\.parquet, row 2: .*allowed: photos that can be read") as refused:
        convert_cases(cases, tmp_path / "strict", "risk-jsonl", strict=True)
    assert "\n" not in str(refused.value) and not (tmp_path / "strict").exists()


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    cases = mixed(tmp_path)
    before = sorted(tmp_path.iterdir())

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    for kind in ("risk-parquet", "risk-jsonl"):
        with pytest.raises(KeyboardInterrupt):
            convert_cases(cases, tmp_path / "out", kind, progress=interrupt)  # type: ignore[arg-type]
        assert sorted(tmp_path.iterdir()) == before


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    cases = mixed(tmp_path)
    (tmp_path / "taken").mkdir()
    convert_cases(cases, tmp_path / "taken", "risk-jsonl")
    for taken in (tmp_path / "taken", tmp_path / "risks.csv"):
        with pytest.raises(SettingsError, match="exists already"):
            convert_cases(cases, taken, "risk-jsonl")
    with pytest.raises(DataError, match="cases without a split: 1 of 9"):
        convert_cases(
            cases.with_cases([*cases.cases[:8], replace(cases.cases[8], split=None)]), tmp_path / "x", "risk-jsonl"
        )
    with pytest.raises(SettingsError, match="allowed: risk-parquet, risk-jsonl"):
        convert_cases(cases, tmp_path / "x", "risk-csv")  # type: ignore[arg-type]
    for settings in ((0, 10), (10, 99_999)):
        with pytest.raises(SettingsError, match="sides of 1 to"):
            PhotoSettings(*settings)
    with pytest.raises(SettingsError, match="image quality 101; allowed: 1 to 100"):
        PhotoSettings(quality=101)


def test_the_command_converts_and_previews(tmp_path: Path) -> None:
    write_seed(tmp_path, 12)
    (tmp_path / seed_rows()[0]["image_path"]).write_bytes(b"no photo")
    out = tmp_path / "data"
    args = [
        "convert",
        str(tmp_path / "risks.csv"),
        "-o",
        str(out),
        "--to",
        "risk-parquet",
        "--image-quality",
        "85",
        "--max-image-size",
        "64",
        "48",
    ]
    result = CliRunner().invoke(app, [*args, "--json"], catch_exceptions=False)
    stats = json.loads(result.stdout)
    assert stats["image_processing"] == {"quality": 85, "max_size": [64, 48], "compression": "snappy"}
    assert (stats["total_samples"], stats["unreadable_images"]) == (11, 1)
    shown = CliRunner().invoke(
        app,
        ["preview", str(out / "train.parquet"), "--json", "--rows", "2", "-o", str(tmp_path / "s.png")],
        catch_exceptions=False,
    )
    preview = json.loads(shown.stdout)
    assert (
        len(preview["rows"]) == 2
        and preview["samples"] == stats["train_samples"]
        and preview["rows"][0]["风险"] == "坍塌"
    )
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.height == 3 * 100
    assert "IMG_0" in CliRunner().invoke(app, ["preview", str(out / "test.parquet")], catch_exceptions=False).stdout
    again = CliRunner().invoke(app, args)
    assert isinstance(again.exception, SettingsError)
    assert isinstance(CliRunner().invoke(app, ["preview", str(tmp_path)]).exception, VidriskError)


def test_a_sheet_crosses_out_what_cannot_be_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["preview", str(corrupt_parquet(tmp_path)), "-o", str(tmp_path / "s.png"), "--json"],
        catch_exceptions=False,
    )
    assert [line.partition(":")[0] for line in json.loads(result.stdout)["unreadable"]] == [
        "r.parquet, row 3",
        "r.parquet, row 4",
    ]


def test_only_allowed_answers_are_written(tmp_path: Path) -> None:
    write_seed(tmp_path, 6)
    rows = seed_rows(6)
    rows[2]["data_风险"] = "<|" * 150
    with pytest.raises(DataError, match="risk has 450 characters with its markers broken up"):
        convert_cases(split_cases(load_cases(write_csv(tmp_path / "risks.csv", rows))), tmp_path / "out", "risk-jsonl")
    assert not (tmp_path / "out").exists()


MEASURE = """
import resource, sys
from pathlib import Path
from vidrisk.data import case_writers, load_cases, split_cases
from vidrisk.data.convert_cases import convert_cases
case_writers.BYTES_PER_GROUP = 2 << 20
cases = split_cases(load_cases(Path(sys.argv[1])))
convert_cases(cases, Path(sys.argv[2]), "risk-parquet")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow(minutes=1)
def test_memory_does_not_grow_with_the_photos(tmp_path: Path) -> None:
    photo = jpeg(1, (1000, 700))
    peaks = []
    for count in (20, 160):
        folder = tmp_path / str(count)
        rows = [{"image": f"{n}.jpg", "level": "minor", "description": "x"} for n in range(count)]
        folder.mkdir()
        for row in rows:
            (folder / row["image"]).write_bytes(photo)
        path = write_jsonl(folder / "r.jsonl", rows)
        command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / f"out{count}")]
        end = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        peaks.append(int(end.stdout))
    written = sum(path.stat().st_size for path in (tmp_path / "out160").iterdir()) >> 20
    assert written > 30 and peaks[1] - peaks[0] < written // 2, peaks
