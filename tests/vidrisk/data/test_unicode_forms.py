"""Tests of Unicode forms: labels and paths match whether é is one character or two."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from vidrisk.data import Table, load_table, split_table, targets_from_table, write_table
from vidrisk.data.targets import truth_from_table
from vidrisk.runtimes.contract.contract import Target
from vidrisk.runtimes.contract.errors import DataError

NFC, NFD = unicodedata.normalize("NFC", "fissuré 가"), unicodedata.normalize("NFD", "fissuré 가")


@pytest.fixture(params=[NFC, NFD], ids=["composed on disk", "decomposed on disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, photo: Callable[..., Path]) -> Path:
    for label in (request.param, "ok"):
        for i in range(5):
            photo(tmp_path / "d" / label / f"{i} {request.param}.jpg")
    return tmp_path / "d"


def test_a_folder_is_the_class_in_either_form(folder: Path) -> None:
    table = load_table(folder, "risk")
    assert table.label_counts("defect") == {NFC: 5, "ok": 5}
    assert all(sample.path.is_file() for sample in table.samples)


@pytest.mark.parametrize("written", [NFC, NFD])
def test_paths_of_a_manifest_are_found_in_either_form(folder: Path, written: str) -> None:
    rows = [f"d/{written}/{i} {written}.jpg,{written}" for i in range(5)] + ["d/ok/0 " + written + ".jpg,ok"]
    (folder.parent / "m.csv").write_text("path,label\n" + "\n".join(rows), encoding="utf-8")
    table = load_table(folder.parent / "m.csv", "risk")
    assert table.label_counts("defect") == {NFC: 5, "ok": 1} and all(sample.path.is_file() for sample in table.samples)


def test_a_split_that_is_written_finds_its_files_again(folder: Path) -> None:
    table = split_table(load_table(folder, "risk"), ratios=(6, 2, 2))
    write_table(table, folder / "split.csv")
    assert load_table(folder / "split.csv", "risk").samples == table.samples


def test_both_forms_in_one_manifest_are_one_class(folder: Path, photo: Callable[..., Path]) -> None:
    for i in range(3):
        photo(folder / f"{i}.jpg")
    (folder / "m.csv").write_text(f"path,label\n0.jpg,{NFC}\n1.jpg,{NFD}\n2.jpg,ok\n", encoding="utf-8")
    table = load_table(folder / "m.csv", "risk")
    assert table.label_counts("defect") == {NFC: 2, "ok": 1}


def test_two_files_that_differ_only_in_form_are_not_mixed_up(tmp_path: Path, photo: Callable[..., Path]) -> None:
    photo(tmp_path / f"{NFC}.jpg")
    photo(tmp_path / f"{NFD}.jpg")
    (tmp_path / "m.csv").write_text(f"path,label\n{NFC}.jpg,x\n{NFD}.jpg,y\n", encoding="utf-8")
    assert [sample.path.name for sample in load_table(tmp_path / "m.csv", "risk").samples] == [
        f"{NFC}.jpg",
        f"{NFD}.jpg",
    ]


def test_a_folder_of_another_form_that_leads_outside_is_refused(tmp_path: Path, photo: Callable[..., Path]) -> None:
    photo(tmp_path / "secret" / "a.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / NFD).symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "m.csv").write_text(f"path,label\n{NFC}/a.jpg,x\n", encoding="utf-8")
    with pytest.raises(DataError, match="leaves the manifest's folder"):
        load_table(tmp_path / "in" / "m.csv", "risk")


def test_models_of_earlier_versions_know_their_labels(folder: Path) -> None:
    table = load_table(folder, "risk")
    for form in (NFC, NFD, f"{NFD} "):
        truth = truth_from_table(table, [Target(name="defect", labels=(form, "ok"))])
        assert sorted(truth["defect"].tolist()) == [0] * 5 + [1] * 5


def test_an_order_of_levels_may_be_given_in_either_form(tmp_path: Path) -> None:
    from vidrisk.data import Sample

    samples = tuple(
        Sample(tmp_path / f"{i}.jpg", f"{i}.jpg", {"level": level}) for i, level in enumerate(["léger", "grave"])
    )
    (target,) = targets_from_table(Table(tmp_path, "risk", samples), [unicodedata.normalize("NFD", "léger"), "grave"])
    assert target.labels == ("léger", "grave")
