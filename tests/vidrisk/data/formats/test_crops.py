"""Tests of boxes cut out as photos: each has its own name, none is lost silently, errors leave no files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from vidrisk.data.formats.crops import Crop, cut_crops, samples_from_boxes, upright_box
from vidrisk.data.formats.media_files import MediaFiles
from vidrisk.data.formats.rows import Row
from vidrisk.decode.cuts import MAX_BOXES, Box
from vidrisk.runtimes.contract.errors import DataError, SettingsError


def photo(path: Path, seed: int = 0) -> npt.NDArray[np.uint8]:
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def pixels_of(path: Path | None) -> npt.NDArray[np.uint8]:
    assert path is not None
    with Image.open(path) as image:
        return np.asarray(image)


def test_crops_are_written_in_their_order_and_without_loss(tmp_path: Path) -> None:
    first, second = photo(tmp_path / "a.png", 1), photo(tmp_path / "b.png", 2)
    (tmp_path / "junk.png").write_bytes(b"junk")
    crops = [
        Crop(tmp_path / "a.png", "a/1.png", 5, 6, 7, 8),
        Crop(tmp_path / "b.png", "图/1.png", 0, 0, 90, 60),
        Crop(tmp_path / "junk.png", "junk.png", 0, 0, 5, 5),
        Crop(tmp_path / "a.png", "a/2.png", 80, 50, 99, 99),
        Crop(tmp_path / "a.png", "a/3.png", 90, 0, 5, 5),
        Crop(tmp_path / "gone.png", "gone.png", 0, 0, 5, 5),
    ]
    found = cut_crops(iter(crops), tmp_path / "made")
    assert [path and path.relative_to(tmp_path / "made").as_posix() for path in found] == [
        "a/1.png",
        "图/1.png",
        None,
        "a/2.png",
        None,
        None,
    ]
    assert np.array_equal(pixels_of(found[0]), first[6:14, 5:12]) and np.array_equal(pixels_of(found[1]), second)
    assert np.array_equal(pixels_of(found[3]), first[50:, 80:])
    assert len([path for path in (tmp_path / "made").rglob("*") if path.is_file()]) == 3


def test_more_boxes_on_a_photo_than_one_request_may_have(tmp_path: Path) -> None:
    pixels = photo(tmp_path / "a.png")
    crops = [
        Crop(tmp_path / "a.png", f"{number}.png", number % 80, number % 50, 3, 3) for number in range(2 * MAX_BOXES + 3)
    ]
    found = cut_crops(crops, tmp_path / "made")
    assert [path and path.name for path in found] == [crop.name for crop in crops]
    assert all(
        np.array_equal(pixels_of(path), pixels[n % 50 : n % 50 + 3, n % 80 : n % 80 + 3])
        for n, path in enumerate(found)
    )


def test_no_crops_need_no_process_and_no_folder(tmp_path: Path) -> None:
    assert cut_crops([], tmp_path / "made") == [] and not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.png", "../a.png"], "outside its folder"),
        (["a.png", "/tmp/a.png"], "outside its folder"),
        (["a.png", "a.png"], "two crops have the name 'a.png'"),
        (["b.png", "taken.png"], "taken.png exists already; fix: delete"),
    ],
)
def test_what_fails_leaves_nothing_behind(tmp_path: Path, names: list[str], said: str) -> None:
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    photo(tmp_path / "made" / "taken.png")
    kept = (tmp_path / "made" / "taken.png").read_bytes()
    with pytest.raises(DataError, match=said):
        cut_crops(
            [Crop(tmp_path / photo, name, 0, 0, 5, 5) for photo, name in zip(("a.png", "b.png"), names, strict=True)],
            tmp_path / "made",
        )
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["taken.png"]
    assert (tmp_path / "made" / "taken.png").read_bytes() == kept


@pytest.mark.parametrize(
    ("degrees", "pivot", "expected"),
    [
        (0, (0, 0), (10, 20, 40, 30)),
        (90, (10, 20), (-20, 20, 30, 40)),
        (180, (30, 35), (10, 20, 40, 30)),
        (-90, (30, 35), (15, 15, 30, 40)),
        (45, (0, 0), (-28.284, 21.213, 49.497, 49.497)),
    ],
)
def test_a_turned_box_lies_in_an_upright_one(degrees: float, pivot: tuple[float, float], expected: Box) -> None:
    assert upright_box((10, 20, 40, 30), degrees, pivot) == pytest.approx(expected, abs=1e-3)


def test_boxes_become_samples_that_stay_together(tmp_path: Path) -> None:
    pixels = photo(tmp_path / "set" / "a.png")
    photo(tmp_path / "set" / "b.png")
    rows = [
        (Row("1", "a.png", {"defect": "crack"}, "train"), (1.0, 2.0, 3.0, 4.0)),
        (Row("2", "b.png", {"defect": "rust"}), (0.0,) * 4),
        (Row("3", "a.png", {"defect": "rust"}, "train", "site"), (5.0, 5.0, 6.0, 6.0)),
        (Row("4", "gone.png", {}), (0.0,) * 4),
    ]
    found = samples_from_boxes(rows, MediaFiles(tmp_path / "set"), tmp_path / "made", multi_label=None)
    assert [(sample.name, sample.labels, sample.group, sample.split) for sample in found.samples] == [
        ("a.png.1.png", {"defect": "crack"}, "a.png", "train"),
        ("a.png.2.png", {"defect": "rust"}, "site", "train"),
    ]
    assert np.array_equal(pixels_of(found.samples[0].path), pixels[2:6, 1:4])
    assert found.absent == ("gone.png",)
    assert found.notes == ("boxes left out because they have no area or their photo cannot be read: 1",)
    with pytest.raises(SettingsError, match="crops without a folder"):
        samples_from_boxes(rows, MediaFiles(tmp_path / "set"), None, multi_label=None)
