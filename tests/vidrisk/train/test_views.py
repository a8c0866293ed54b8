from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vidrisk.data import Table, load_table
from vidrisk.models.classifier import ClipClassifier
from vidrisk.models.config import TrainConfig, config_from_options
from vidrisk.models.pretrained import Labels, build_classifier, contract_from_config, resolve_config
from vidrisk.runtimes.contract.contract import Target
from vidrisk.train.dataset import ClipDataset
from vidrisk.train.views import ViewDataset, views_from_clips


def config_of(last_blocks: str) -> TrainConfig:
    return resolve_config(
        config_from_options(None, ["pixel.height=64", "pixel.width=64", "frames=2", f"lora.last_blocks={last_blocks}"]),
        clips=True,
    )


def model_and_data(folder: Path, last_blocks: str) -> tuple[ClipClassifier, ClipDataset]:
    config = config_of(last_blocks)
    table: Table = load_table(folder, "action")
    target = Target(name="action", labels=tuple(table.label_counts("action")))
    contract = contract_from_config(config, Labels(targets=(target,), clips=True))
    small = table.with_samples(table.samples[::6])
    model = build_classifier(config, contract)
    model.adapt(config)
    return model.eval(), ClipDataset(small, contract, cache_mb=64)


def views(
    model: ClipClassifier, data: ClipDataset, count: int = 3, room_mb: float = 64, **other: Any
) -> ViewDataset | None:
    return views_from_clips(
        model,
        data,
        views=count,
        kinds=("flip", "light"),
        jitter=1,
        seed=other.get("seed", 0),
        room_mb=room_mb,
        on_progress=lambda done, total: None,
    )


@pytest.mark.parametrize("last_blocks", ["2", "0"])
@torch.inference_mode()
def test_the_two_parts_of_the_encoder_are_the_whole(clip_folder: Path, last_blocks: str) -> None:
    model, data = model_and_data(clip_folder, last_blocks)
    for parameter in model.head.classifiers.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    frames = torch.stack([data[i][0] for i in range(len(data))])
    lower = model.lower(frames)
    assert lower.shape[:2] == frames.shape[:2] and lower.dtype == torch.float32
    torch.testing.assert_close(model(lower)[0][0], model(frames)[0][0])


@pytest.mark.parametrize("last_blocks", ["2", "0"])
def test_view_0_is_the_sample_itself_and_the_others_are_augmented(clip_folder: Path, last_blocks: str) -> None:
    model, data = model_and_data(clip_folder, last_blocks)
    made = views(model, data)
    assert made is not None and made.views.shape[:2] == (len(data), 3) and len(made) == len(data)
    frames = torch.stack([data[i][0] for i in range(len(data))])
    with torch.inference_mode():
        torch.testing.assert_close(made.views[:, 0].float(), model.lower(frames), rtol=2e-3, atol=2e-2)
    assert not torch.equal(made.views[:, 0], made.views[:, 1]) and not torch.equal(made.views[:, 1], made.views[:, 2])
    again = views(model, data)
    assert again is not None and torch.equal(again.views, made.views)


def test_draw_picks_views_and_goes_back_to_the_sample(clip_folder: Path) -> None:
    made = ViewDataset(torch.arange(8.0).reshape(4, 2, 1).half(), torch.zeros(4, 1, dtype=torch.long), 2)
    picked = set()
    for seed in range(8):
        made.draw(torch.Generator().manual_seed(seed))
        picked |= {int(made[i][0]) for i in range(4)}
    assert picked == set(range(8))
    made.draw(None)
    assert [int(made[i][0]) for i in range(4)] == [0, 2, 4, 6]


def test_no_views_when_they_do_not_fit_or_nothing_is_frozen(
    clip_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = model_and_data(clip_folder, "2")
    assert views(model, data, count=0) is None
    assert views(model, data, room_mb=0.01) is None and "cache_mb" in caplog.text
    model, data = model_and_data(clip_folder, "null")
    assert views(model, data) is None


def test_a_transformer_has_no_lower_part(backbone_folder: Callable[[str], Path], clip_folder: Path) -> None:
    config = resolve_config(
        config_from_options(None, ["frames=2", "lora.last_blocks=1"], backbone=str(backbone_folder("vit"))), clips=True
    )
    labels = Labels(targets=(Target(name="action", labels=("a", "b")),), clips=True)
    model = build_classifier(config, contract_from_config(config, labels))
    model.adapt(config)
    frames = torch.zeros((1, 2, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(model.lower(frames), frames)
