"""Tests of ``check_folders``: output that cannot be written next to a bundle is refused before any computation."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidrisk.export.trained import ExportOptions
from vidrisk.jobs.model_export import check_folders
from vidrisk.models.config import TrainConfig
from vidrisk.runtimes.contract.errors import BundleError, SettingsError

ENCODER = TrainConfig()
COMPOSED = TrainConfig(backbone="compose:efficientnet-lite0+smollm2-135m")


def test_a_vision_language_model_has_nothing_for_vendors(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"^vendor of a vision-language model; allowed: encoders, .*; fix: leave it out$"
    ):
        check_folders(COMPOSED, tmp_path / "b", ExportOptions(), vendor=tmp_path / "v", dynamic_vision=None)
    check_folders(ENCODER, tmp_path / "b", ExportOptions(), vendor=tmp_path / "v", dynamic_vision=None)


@pytest.mark.parametrize("config", [ENCODER, COMPOSED], ids=["encoder", "composed"])
def test_a_tower_of_one_size_of_frames_is_refused_by_its_name(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"takes frames of one size; allowed: a run of Qwen2\.5-VL or Qwen3-VL"):
        check_folders(config, tmp_path / "b", ExportOptions(), vendor=None, dynamic_vision=tmp_path / "tower")


@pytest.mark.parametrize(
    ("vendor", "said"),
    [
        ("b", "a folder that the bundle uses"),
        ("b/v", "a folder that the bundle uses"),
        (".", "a folder that the bundle uses"),
    ],
)
def test_folders_in_one_another_are_refused(vendor: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        check_folders(ENCODER, tmp_path / "b", ExportOptions(), vendor=tmp_path / vendor, dynamic_vision=None)


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    with pytest.raises(BundleError, match="exists"):
        check_folders(ENCODER, tmp_path / "b", ExportOptions(), vendor=tmp_path / "v", dynamic_vision=None)
