"""Tests that every file in ``examples/`` is a configuration that trains.

Each one trains two steps on a small stand-in of its own family.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from backbones import SIDE_PX
from PIL import Image
from trained_reporters import write_cases
from vlms import save_language_model, save_llava_hf, save_qwen

from vidrisk.data import Table, load_table
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.models.families import FAMILIES
from vidrisk.models.run import Run
from vidrisk.train.train import train_run
from vidrisk.train.train_data import train_data

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
# Published backbone → the family of the small stand-in, and further settings that its size needs.
STAND_INS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": ("qwen2_5_vl", ("pixel.height=56", "pixel.width=84", "frames=4")),
    "Qwen/Qwen3-VL-2B-Instruct": ("qwen3_vl", ("pixel.height=64", "pixel.width=96", "frames=4")),
    "llava-hf/llava-1.5-7b-hf": ("llava", ("frames=2",)),
    "openai/clip-vit-base-patch32": ("clip_vision_model", ("frames=2",)),
    "google/siglip-base-patch16-224": ("siglip_vision_model", ("frames=2",)),
    "facebook/dinov2-small": ("dinov2", ("frames=2",)),
    "facebook/dinov3-vits16-pretrain-lvd1689m": ("dinov3_vit", ("frames=2",)),
    "google/vit-base-patch16-224-in21k": ("vit", ("frames=2",)),
    "MCG-NJU/videomae-base": ("videomae", ("frames=4",)),
    "facebook/vjepa2-vitl-fpc64-256": ("vjepa2", ("frames=4",)),
    "facebook/timesformer-base-finetuned-k400": ("timesformer", ("frames=4",)),
    "google/vivit-b-16x2-kinetics400": ("vivit", ("frames=4",)),
    "efficientnet-lite0": ("efficientnet-lite0", ("frames=2", f"pixel.height={SIDE_PX}", f"pixel.width={SIDE_PX}")),
    "Qwen/Qwen2.5-VL-7B-Instruct": ("qwen2_5_vl", ("pixel.height=56", "pixel.width=84")),
    "google/siglip-so400m-patch14-384": ("siglip_vision_model", ()),
    "Qwen/Qwen2.5-0.5B-Instruct": ("llama", ()),
    "Qwen/Qwen2.5-7B-Instruct": ("llama", ()),
    "smollm2-135m": ("llama", ()),
}


@pytest.fixture(scope="module")
def stand_in(backbone_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return a function that returns a small backbone of the same family for the name of a published one."""

    def make(name: str) -> str:
        family = STAND_INS[name][0]
        if family == "efficientnet-lite0":
            return family
        if family == "llama":
            return str(save_language_model(tmp_path_factory.mktemp("llama")))
        if family == "llava":
            return str(save_llava_hf(tmp_path_factory.mktemp("llava")))
        if family in ("qwen2_5_vl", "qwen3_vl"):
            return str(save_qwen(tmp_path_factory.mktemp(family), family))
        return str(backbone_folder(family))

    return make


def small(config: TrainConfig, stand_in: Callable[[str], str]) -> tuple[str, list[str]]:
    """Return the name of the stand-in and the further settings that its size needs."""
    parts = config.backbone.removeprefix("compose:").split("+")
    names = "+".join(stand_in(part) for part in parts)
    writes = config.task == "report"
    needed = [
        *STAND_INS[parts[0]][1],
        "lora.rank=2",
        "optim.epochs=1",
        "workers=0",
        "precision=fp32",
        *([] if writes else ["head.hidden=16"]),
    ]
    if len(parts) > 1:
        needed += [f"pixel.height={SIDE_PX}", f"pixel.width={SIDE_PX}", "vlm.grid=2", *([] if writes else ["frames=2"])]
    return (names if len(parts) == 1 else f"compose:{names}"), needed


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number in range(12):
        label = ("crack", "sound")[number % 2]
        (root / label).mkdir(exist_ok=True)
        Image.new("RGB", (80, 80), ((40 + 10 * number, 40, 40), (40, 40, 40 + 10 * number))[number % 2]).save(
            root / label / f"{number}.png"
        )
    return root


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_has_no_setting_that_its_family_ignores(path: Path) -> None:
    config = config_from_options(path)
    name = "compose:" if config.backbone.startswith("compose:") else STAND_INS[config.backbone][0]
    FAMILIES[name].check_settings(config)


@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_trains_two_steps(
    path: Path, stand_in: Callable[[str], str], clip_folder: Path, photo_folder: Path, tmp_path: Path
) -> None:
    config = config_from_options(path)
    backbone, needed = small(config, stand_in)
    if config.task == "report":
        table_of_cases, scheme = write_cases(tmp_path, 16)
        needed += ["optim.batch_size=6", "optim.accumulate=1"]
        made = config_from_options(path, needed, {"report.scheme": str(scheme)}, backbone=backbone)
        steps: set[tuple[int, int]] = set()
        run = train_data(
            table_of_cases,
            made,
            tmp_path / "run",
            on_progress=lambda what, done, total: steps.add((done, total)) if what.startswith("epoch ") else None,
        )
        assert steps == {(0, 2), (1, 2)} and run.config.lora.rank == 2
        Run.open(run.root).load_reporter()
        return
    table: Table = load_table(photo_folder if config.task == "risk" else clip_folder, config.task)
    few = table.with_samples(table.samples[:: max(1, len(table) // 12)])
    settings: dict[str, Any] = {"optim.batch_size": 5, "optim.accumulate": 1, "views": min(config.views, 1)}
    batches: set[tuple[int, int]] = set()

    def on_progress(what: str, done: int, total: int) -> None:
        if what.startswith("epoch "):
            batches.add((done, total))

    run = train_run(
        few,
        config_from_options(path, needed, backbone=backbone, settings=settings),
        tmp_path / "run",
        on_progress=on_progress,
    )
    assert batches >= {(0, 2), (1, 2)}
    assert (run.config.lora.rank, run.config.optim.batch_size) == (2, 5)
    Run.open(run.root).load_classifier()


def test_there_is_an_example_of_every_family() -> None:
    backbones = [config_from_options(path).backbone.removeprefix("compose:") for path in EXAMPLES]
    shown = {STAND_INS[part][0] for backbone in backbones for part in backbone.split("+")}
    families = {family.name for family in FAMILIES.values() if family.name != "compose:"}
    assert families <= shown
    assert any(config_from_options(path).backbone.startswith("compose:") for path in EXAMPLES)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_says_what_differs_from_the_defaults(path: Path) -> None:
    """An example lists no setting that repeats a default.

    A misspelt setting would be refused, and a setting that repeats a default is redundant.
    """
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert path.read_text(encoding="utf-8").startswith("# ")
    defaults = TrainConfig().model_dump(mode="json")
    assert [key for key in written if key not in ("task", "backbone", "frames") and written[key] == defaults[key]] == []
