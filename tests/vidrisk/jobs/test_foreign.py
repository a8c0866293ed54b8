"""Tests of models that were trained outside this project, from a file to a bundle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from strangers import LABELS, SIDE, SmallCnn, export, pictures, stranger
from torch import nn

import vidrisk
from vidrisk.data import Table, load_table
from vidrisk.data.choice import draw_samples
from vidrisk.export.foreign.labels import ForeignLabels
from vidrisk.export.trained import ExportOptions
from vidrisk.frames import read_clips
from vidrisk.jobs import foreign
from vidrisk.jobs.foreign import ForeignModel, export_foreign
from vidrisk.runtimes import PixelSpec
from vidrisk.runtimes.contract.errors import DataError, SettingsError

DATA = Path(os.environ.get("VIDRISK_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
PHOTO_SIDE = 48
Frames = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with labelled pictures and the labels of a model."""
    root = tmp_path_factory.mktemp("stranger")
    for number, (picture, label) in enumerate(zip(*pictures(96, seed=12), strict=True)):
        path = root / "val" / LABELS[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (root / "labels.txt").write_text("\n".join(LABELS) + "\n")
    return root


class Traced(nn.Module):
    """Model with a free batch axis and a batch size that is fixed by tracing."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.token = stranger("cnn"), nn.Parameter(torch.zeros(1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.token.expand(len(images), 1), self.model(images)], dim=1)[:, 1:]


@pytest.mark.parametrize(("kind", "batch"), [("fixed", "1, made free"), ("traced", "2, made free")])
def test_the_source_says_which_batch_the_file_had(kind: str, batch: str, folder: Path, tmp_path: Path) -> None:
    """The source in the manifest states the batch size of the file.

    A free axis does not prove that any number of images can be computed.
    """
    example = torch.zeros(1 if kind == "fixed" else 2, 3, SIDE, SIDE)
    model = Traced().eval() if kind == "traced" else stranger("cnn")
    path = export(model, tmp_path / "m.onnx", example, free=kind != "fixed")
    bundle, _ = vidrisk.export(path, tmp_path / "b", labels=folder / "labels.txt", val=folder / "val")
    assert bundle.manifest.source["batch"] == batch


def split_of(table: Table) -> tuple[Table, Table]:
    mixed = np.random.default_rng(0).permutation(len(table))
    train, val = (table.with_samples(table.samples[i] for i in part) for part in np.split(mixed, [2 * len(table) // 3]))
    return train, val


def frames_of(table: Table) -> Frames:
    pixel = PixelSpec(PHOTO_SIDE, PHOTO_SIDE)
    return np.concatenate(
        [next(read_clips(sample.path, pixel, None, sample.interval)).frames for sample in table.samples]
    )


def normalized(frames: Frames) -> torch.Tensor:
    return ((torch.from_numpy(frames).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()


def train_on(frames: Frames, truth: list[int]) -> nn.Module:
    torch.manual_seed(0)
    model, images, labels = SmallCnn(classes=2), normalized(frames), torch.tensor(truth)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        for part in torch.randperm(len(images)).split(24):
            batch = images[part].flip(3) if torch.rand(1) < 0.5 else images[part]
            loss = nn.functional.cross_entropy(model(batch), labels[part])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()


@pytest.mark.slow
def test_a_cnn_of_real_cracks_comes_through_with_nothing_said_of_its_pixels(tmp_path: Path) -> None:
    """A CNN trained on real cracks is exported without any information about its pixels.

    Its file is a plain export: channels first, a fixed batch of one, normalised outside.
    """
    photos = DATA / "brick_crack"
    if not photos.is_dir():
        pytest.skip(f"no photos in {photos}: set VIDRISK_TEST_DATA")
    train, val = split_of(draw_samples(load_table(photos, "risk"), 240, 0))
    labels = sorted({sample.labels["defect"] for sample in train.samples})
    model = train_on(frames_of(train), [labels.index(sample.labels["defect"]) for sample in train.samples])
    path = export(model, tmp_path / "crack.onnx", torch.zeros(1, 3, PHOTO_SIDE, PHOTO_SIDE), free=False)
    (tmp_path / "labels.txt").write_text("\n".join(labels) + "\n")
    foreign = ForeignModel(path, labels=tmp_path / "labels.txt")
    bundle, _ = export_foreign(foreign, tmp_path / "b", ExportOptions(), val=val)
    assert (
        bundle.manifest.source["pixels"].startswith("imagenet RGB")
        and bundle.manifest.source["batch"] == "1, made free"
    )
    own = onnxruntime.InferenceSession(str(path))
    frames = frames_of(val)
    expected = np.concatenate([own.run(None, {"image": one[None].numpy()})[0] for one in normalized(frames)])
    (stage,) = bundle.stages
    ours = onnxruntime.InferenceSession(str(bundle.path(stage.name, "fp32")))
    np.testing.assert_allclose(ours.run(["defect_logits"], {"frames": frames[:, None]})[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "settings", "reason"),
    [
        ("m.onnx", {"val": "val"}, "no labels for m.onnx; allowed: one label per line, .*; fix: give a labels file"),
        (
            "m.onnx",
            {"labels": "labels.txt"},
            "no labelled data to judge m.onnx by; fix: give some as val, and as calib",
        ),
        (
            "m.onnx",
            {"labels": "l", "val": "v", "options": ExportOptions(int8=True, qat_steps=9)},
            "quantisation-aware training with a model",
        ),
        (
            "run",
            {"labels": "labels.txt"},
            "labels with a run; allowed: with an ONNX file or a Hugging Face folder; fix: leave it out",
        ),
        ("run", {"checks": {"a.png": "crack"}}, "known answers with a run"),
        ("run", {"task": "risk"}, "a task with a run"),
        ("run", {"from_hf": True, "pixel": "p.yaml"}, "pixels with a Hugging Face folder; allowed: what the folder"),
        (
            "m.onnx",
            {"from_hf": True, "val": "val"},
            "m.onnx is not a folder; allowed: one that save_pretrained has written",
        ),
    ],
)
def test_arguments_that_do_not_belong_to_the_model_are_refused(
    model: str, settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        vidrisk.export(tmp_path / model, tmp_path / "b", **settings)
    assert "--" not in str(caught.value)


def test_only_levels_have_an_order() -> None:
    labels = ForeignLabels({"defect": ("crack", "ok")}, orders={"defect": ("ok", "crack")})
    with pytest.raises(
        DataError, match=r"^an order for defect, whose labels are not levels; allowed: for level, .*; fix: leave it"
    ):
        foreign._targets(labels, "risk")
