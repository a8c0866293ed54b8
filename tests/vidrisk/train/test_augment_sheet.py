"""Tests of ``data preview --augment``: it shows samples unchanged and as training may augment them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Cli = Callable[..., Any]


def test_a_sheet_shows_samples_and_what_becomes_of_them(cli: Cli, clip_folder: Path, tmp_path: Path) -> None:
    for name, kinds in (("none", ""), ("light", "light"), ("all", "flip,crop,colour,still,erase,rand,speed")):
        end = cli("data", "preview", clip_folder, "-o", tmp_path / f"{name}.png", "--augment", kinds)
        assert end.code == 0, end
    none, light = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("none", "light"))
    row = 100  # pixels
    assert none.shape == light.shape and none.shape[0] == 6 * 5 * row
    for sample in range(6):
        first = none[5 * sample * row : (5 * sample + 1) * row, 200:]
        for draw in range(1, 5):
            begin = (5 * sample + draw) * row
            assert np.array_equal(first, none[begin : begin + row, 200:])
            assert np.abs(first - light[begin : begin + row, 200:]).mean() > 1


def test_an_augmentation_that_makes_a_label_untrue_is_one_line(cli: Cli, tmp_path: Path) -> None:
    for label in ("left", "up"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (64, 64), "grey").save(tmp_path / "photos" / label / "a.png")
    end = cli("data", "preview", tmp_path / "photos", "-o", tmp_path / "x.png", "--augment", "light,flip")
    assert end.code == 2 and "augment flip: the mirror image of 'left' is not among the labels" in end.stderr
    assert not (tmp_path / "x.png").exists()


def test_an_unknown_kind_is_one_line(cli: Cli, clip_folder: Path, tmp_path: Path) -> None:
    end = cli("data", "preview", clip_folder, "-o", tmp_path / "x.png", "--augment", "flip,swirl")
    assert end.code == 2 and "augmentation 'swirl'; allowed: flip, updown" in end.stderr
