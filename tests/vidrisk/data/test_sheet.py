from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from phone_photos import dng, heic, jpeg
from PIL import Image, ImageChops

from vidrisk.data import contact_sheet, load_table, sheet
from vidrisk.data.sheet import GAP_PX, GREY, LABEL_PX, THUMBNAIL_PX
from vidrisk.runtimes.contract.errors import DataError, SettingsError

ROW_PX = THUMBNAIL_PX + GAP_PX


def test_photos_in_rows(tmp_path: Path, photo: Callable[..., Path]) -> None:
    for i in range(3):
        photo(tmp_path / "d" / "缺陷" / f"{i}.png", (200, 30, 30))
    photo(tmp_path / "d" / "a, b" / "0.png", (30, 30, 200))
    (tmp_path / "d" / "a, b" / "1.jpg").write_bytes(b"no photo")
    contact_sheet(load_table(tmp_path / "d", "risk"), tmp_path / "s.png", per_class=2)
    image = Image.open(tmp_path / "s.png")
    assert image.size == (LABEL_PX + 2 * (THUMBNAIL_PX + GAP_PX), 2 * ROW_PX)
    pixels = np.asarray(image.convert("RGB")).astype(int)
    middle = LABEL_PX + THUMBNAIL_PX // 2
    np.testing.assert_allclose(pixels[ROW_PX // 2, middle], (30, 30, 200), atol=3)
    np.testing.assert_allclose(pixels[ROW_PX + ROW_PX // 2, middle], (200, 30, 30), atol=3)
    crossed = pixels[:ROW_PX, middle + THUMBNAIL_PX + GAP_PX]
    assert (crossed == GREY).all(axis=1).sum() > THUMBNAIL_PX // 2 and (crossed < 60).all(axis=1).any()
    for row in range(2):
        label = image.convert("L").crop((0, row * ROW_PX, LABEL_PX, (row + 1) * ROW_PX))
        assert ImageChops.invert(label).getbbox() is not None


def test_photos_of_phones_are_shown(tmp_path: Path) -> None:
    for name, content in (
        ("a/1.HEIC", heic(Image.new("RGB", (96, 96), (200, 30, 30)))),
        ("b/1.DNG", dng(jpeg(Image.new("RGB", (96, 96), (30, 30, 200))))),
    ):
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        (tmp_path / "d" / name).write_bytes(content)
    contact_sheet(load_table(tmp_path / "d", "risk"), tmp_path / "s.png", per_class=1)
    pixels = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
    for row, colour in enumerate(((200, 30, 30), (30, 30, 200))):
        np.testing.assert_allclose(pixels[row * ROW_PX + ROW_PX // 2, LABEL_PX + THUMBNAIL_PX // 2], colour, atol=4)


def test_clips_as_strips_of_four_moments(tmp_path: Path, clip: Callable[..., Path]) -> None:
    for label in "ab":
        clip(tmp_path / "d" / label / "0.mp4")
    contact_sheet(load_table(tmp_path / "d", "action"), tmp_path / "s.png", per_class=1)
    pixels = np.asarray(Image.open(tmp_path / "s.png").convert("L")).astype(int)
    assert pixels.shape[1] == LABEL_PX + 4 * THUMBNAIL_PX + GAP_PX
    middles = pixels[ROW_PX // 2, LABEL_PX + THUMBNAIL_PX // 2 : LABEL_PX + 4 * THUMBNAIL_PX : THUMBNAIL_PX]
    assert len(middles) == 4 and (np.diff(middles) > 10).all()


def test_labels_without_a_font_are_escaped(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sheet, "FONT_FOLDERS", ("/nowhere",))
    with caplog.at_level(logging.WARNING, logger="vidrisk"):
        font = sheet.font_for("缺陷")
    assert "no font with Chinese characters" in caplog.text
    assert sheet._fit_label("缺陷", font) == r"\u7f3a\u9677"
    assert sheet._fit_label("long " * 20, font).endswith("...")


def test_refusals(tmp_path: Path, photo: Callable[..., Path]) -> None:
    for label in "ab":
        photo(tmp_path / "d" / label / "0.png")
    table = load_table(tmp_path / "d", "action")
    existing = photo(tmp_path / "mine.png")
    with pytest.raises(DataError, match="exists already"):
        contact_sheet(table, existing)
    with pytest.raises(SettingsError, match=r"ends in \.png"):
        contact_sheet(table, tmp_path / "s.jpg")
    with pytest.raises(SettingsError, match="1 to 100"):
        contact_sheet(table, tmp_path / "s.png", per_class=0)
    with pytest.raises(DataError, match="no samples"):
        contact_sheet(table.of_split("val"), tmp_path / "s.png")
