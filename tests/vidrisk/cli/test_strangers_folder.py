"""End-to-end tests of a typical user folder: every file is accounted for, and none is ignored silently."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from clock_files import fields
from colour_bundle import write_colour_bundle
from odd_clips import mp4_with_matrix
from PIL import Image
from small_media import RGB, write_photo, write_video

from vidrisk.inference.predictions import read_predictions
from vidrisk.jobs.ledger import read_ledger
from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_OK, EXIT_SOME_FAILED

MIRRORED = (-1, 0, 0, 1)  # a phone's front camera
LEFT_OUT = {"notes.txt", "@eaDir/red.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/old.png", "System Volume Information/x.png"}
CRACK, SOUND = "裂缝", "完好"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with the files that lie on a NAS after a day on a building site."""
    root = tmp_path / "site"
    for name in LEFT_OUT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    for colour in ("red", "green", "black"):
        write_photo(root / f"{colour}.png", colour)
    encoded = io.BytesIO()
    Image.new("RGB", (64, 48), RGB["blue"]).save(encoded, "JPEG")
    (root / "no end.jpg").write_bytes(encoded.getvalue()[:-2])
    (root / "IMG_0001").write_bytes(encoded.getvalue())
    write_photo(root / os.fsdecode("裂缝.png".encode("gbk")), "green")
    (root / "AVCHD").mkdir()
    fields(3600, pairs_in_packet=True)(root / "AVCHD" / "00001.MTS")
    write_video(tmp_path / "phone.mp4", ("red",))
    (root / "phone.mp4").write_bytes(mp4_with_matrix((tmp_path / "phone.mp4").read_bytes(), MIRRORED))
    (root / "itself.png").symlink_to("itself.png")
    return root


def test_every_file_is_accounted_for(cli: Callable[..., Any], site: Path, tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "colours.bundle", normalises=True)
    out = tmp_path / "out"
    end = cli("infer", tmp_path / "colours.bundle", site, "-o", out, "--runtime", "onnxruntime")
    assert end.code == EXIT_SOME_FAILED
    assert "left out: " in end.stderr and "notes.txt" in end.stderr and "@eaDir" in end.stderr
    rows = {os.fsencode(os.path.relpath(row.path, site)): row for row in read_ledger(out)}
    assert {name: row.state for name, row in rows.items()} == {
        b"red.png": "ok",
        b"green.png": "ok",
        b"no end.jpg": "ok",
        b"IMG_0001": "ok",
        "裂缝.png".encode("gbk"): "ok",
        b"AVCHD/00001.MTS": "ok",
        b"phone.mp4": "ok",
        b"black.png": "corrupt",
        b"itself.png": "skipped",
    }
    assert "no finite answer" in rows[b"black.png"].reason
    assert "symbolic links" in rows[b"itself.png"].reason
    labels = {Path(prediction.path).stem: prediction.label for prediction in read_predictions(out)}
    assert (labels["red"], labels["no end"], labels["IMG_0001"], labels["phone"]) == ("red", "blue", "blue", "red")
    on_disk = {os.path.relpath(Path(folder) / name, site) for folder, _, names in os.walk(site) for name in names}
    assert on_disk == {os.fsdecode(name) for name in rows} | LEFT_OUT
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["other_files"] == 1
    assert summary["states"] == {"ok": 7, "corrupt": 1, "skipped": 1}

    again = cli("infer", tmp_path / "colours.bundle", site, "-o", out, "--runtime", "onnxruntime", "--resume")
    assert again.code == EXIT_SOME_FAILED and len(list(read_predictions(out))) == 7


def test_the_avchd_clip_has_its_own_time(cli: Callable[..., Any], site: Path, tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "colours.bundle")
    end = cli(
        "infer", tmp_path / "colours.bundle", site / "AVCHD", "-o", tmp_path / "out", "--window", "0.4", "--no-report"
    )
    assert end.code == EXIT_OK
    frames = (
        Fraction(max(prediction.end_s for prediction in read_predictions(tmp_path / "out"))).limit_denominator(100) * 25
    )
    assert frames == 60


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030"])
def test_three_encodings_give_the_same_labels(
    cli: Callable[..., Any], site: Path, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        write_photo(site / f"{number}.png", "red" if number % 2 else "green", size=(40 + number, 36))
    rows = "".join(f"{number}.png,{CRACK if number % 2 else SOUND}\n" for number in range(6))
    (site / "标签.csv").write_text("文件,缺陷类型\n" + rows, encoding=encoding)
    end = cli("data", "split", site / "标签.csv", "-o", site / "split.csv", "--task", "risk")
    assert end.code == EXIT_OK, end
    assert CRACK in end.stdout and SOUND in end.stdout
    assert ("GB 18030" in caplog.text) == (encoding == "gb18030")


def test_a_fourth_encoding_is_refused_until_it_is_named(cli: Callable[..., Any], site: Path) -> None:
    rows = "".join(f"{name}.png,{label}\n" for name, label in (("red", "裂縫"), ("green", "正常"), ("black", "裂縫")))
    (site / "labels.csv").write_text("path,defect_class\n" + rows, encoding="big5")
    end = cli("data", "split", site / "labels.csv", "-o", site / "split.csv", "--task", "risk")
    assert (
        end.code == EXIT_ERROR
        and "line 2" in end.stderr
        and "--encoding" in end.stderr
        and "Traceback" not in end.stderr
    )
    end = cli("data", "split", site / "labels.csv", "-o", site / "split.csv", "--task", "risk", "--encoding", "big5")
    assert end.code == EXIT_OK and "裂縫" in end.stdout
