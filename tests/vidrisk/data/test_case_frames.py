"""Tests of the frames of the photos of cases.

Files and rows of Parquet give equal frames, in the order of the cases. A bad photo affects no other photo.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from risk_tables import draw, seed_rows, write_csv

from vidrisk.data import load_cases, split_cases
from vidrisk.data.case_batches import PHOTOS_AT_A_TIME
from vidrisk.data.case_frames import read_case_frames
from vidrisk.data.convert_cases import convert_cases
from vidrisk.decode.messages import Input, ReadSettings
from vidrisk.decode.pool import DecodePool
from vidrisk.frames import Frame
from vidrisk.runtimes.contract.specs import PixelSpec

PIXEL = PixelSpec(16, 16, mean=(0, 0, 0), std=(1, 1, 1))


def test_cases_come_in_order_with_the_frames_of_their_photos(tmp_path: Path) -> None:
    rows = seed_rows(PHOTOS_AT_A_TIME + 5)
    for number, row in enumerate(rows):
        draw(tmp_path / row["image_path"], number, (48, 32))
    rows[2] |= {"image_path": "", "data_缺陷描述": "只有文字"}
    (tmp_path / rows[4]["image_path"]).write_bytes(b"no photo")
    draw(tmp_path / "more.png", 99)
    rows[5]["all_image_paths"] = '["more.png"]'
    cases = load_cases(write_csv(tmp_path / "risks.csv", rows))
    with DecodePool(2) as pool:
        found = list(read_case_frames(cases.cases, pool, PIXEL))
        path = cases.cases[0].photos[0].path  # type: ignore[union-attr]
        (expected,) = [
            read.item.pixels.copy()
            for read in pool.read([Input(0, str(path))], ReadSettings(PIXEL, None))
            if isinstance(read.item, Frame)
        ]
    assert [case for case, _ in found] == list(cases.cases)
    assert all([frame.source for frame in frames] == list(case.photos) for case, frames in found)
    assert found[2][1] == () and len(found[5][1]) == 2
    bad = found[4][1][0]
    assert (bad.frame, bad.content) == (None, "") and bad.state in ("skipped", "corrupt") and bad.reason
    assert np.array_equal(found[0][1][0].frame, expected)  # type: ignore[arg-type]
    assert len({frame.content for _, frames in found for frame in frames if frame.frame is not None}) == len(rows) - 1


def test_rows_of_parquet_give_frames_without_a_file(tmp_path: Path) -> None:
    rows = seed_rows(4)
    for number, row in enumerate(rows):
        draw(tmp_path / row["image_path"], number, (48, 32))
    convert_cases(split_cases(load_cases(write_csv(tmp_path / "risks.csv", rows))), tmp_path / "out", "risk-parquet")
    cases = load_cases(tmp_path / "out")
    with DecodePool(1) as pool:
        found = list(read_case_frames(cases.cases, pool, PIXEL))
    assert [case.id for case, _ in found] == [case.id for case in cases.cases]
    assert all(
        frame.frame is not None and frame.frame.shape == (16, 16, 3) and frame.bytes is not None
        for _, (frame,) in found
    )
