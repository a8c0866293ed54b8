"""Tests of the export of Hugging Face checkpoints: only those that answer correctly are exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
import transformers
from PIL import Image
from strangers import LABELS, SCALES, hub_stranger, pictures, save_hub

from vidrisk.data import load_table
from vidrisk.export.trained import ExportOptions
from vidrisk.jobs.foreign import ForeignModel, export_foreign
from vidrisk.runtimes.contract.errors import DataError, SettingsError


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("val")
    for number, (picture, label) in enumerate(zip(*pictures(96, seed=12), strict=True)):
        path = root / LABELS[label] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return root


def exported(folder: Path, photos: Path, checks: tuple[tuple[Path, str], ...] = (), **options: Any) -> Any:
    model = ForeignModel(save_hub(folder / "hub", **options), checks=checks)
    return export_foreign(model, folder / "bundle", ExportOptions(), val=load_table(photos, "risk"))[0]


def test_a_checkpoint_that_answers_rightly_is_exported(tmp_path: Path, photos: Path) -> None:
    bundle = exported(tmp_path, photos, checks=((photos / LABELS[0] / "0.png", LABELS[0]),))
    assert bundle.manifest.source["pixels because"].endswith("of 96 samples right")
    frames, _ = pictures(8, seed=20)
    with torch.inference_mode():
        expected = hub_stranger(trained=True)(SCALES["-1..1"](frames)).logits.numpy()
    (stage,) = bundle.stages
    ours = onnxruntime.InferenceSession(str(bundle.path(stage.name, "fp32")))
    np.testing.assert_allclose(ours.run(["defect_logits"], {"frames": frames[:, None]})[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"trained": False}, r"no better than chance on 96 samples.*preprocessor_config\.json"),
        (
            {"id2label": {0: "rust", 1: "crack", 2: "sound"}},
            r"column 0 of defect is called 'rust', but answers 'crack'",
        ),
        (
            {"do_rescale": False},
            r"the given pixels look wrong.* and -1\.\.1 RGB.*fix: correct preprocessor_config\.json",
        ),
        ({"image_std": [0.002] * 3}, r"the given pixels look wrong|no better than chance"),
    ],
)
def test_a_checkpoint_that_answers_wrongly_is_refused(
    tmp_path: Path, photos: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        exported(tmp_path, photos, **options)
    assert not (tmp_path / "bundle").exists()


def test_whole_windows_of_clips_are_asked(tmp_path: Path) -> None:
    """The model is checked on whole windows of clips.

    Each clip shows one picture, except for its first moment, which is plain grey.
    """
    for number, (picture, label) in enumerate(zip(*pictures(36, seed=12), strict=True)):
        path = tmp_path / "clips" / LABELS[label] / f"{number}.mkv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_frames(path, np.stack([np.full_like(picture, 128), *[picture] * 7]))
    with pytest.raises(DataError, match="column 0 of defect is called 'rust', but answers 'crack'"):
        exported(tmp_path, tmp_path / "clips", id2label={0: "rust", 1: "crack", 2: "sound"})


def write_frames(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    """Write the frames as lossless FFV1, with one frame per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())


def test_known_answers_are_asked(tmp_path: Path, photos: Path) -> None:
    crack = photos / LABELS[0] / "0.png"
    with pytest.raises(DataError, match=r"0\.png is 'rust', but the model says 'crack'"):
        exported(tmp_path, photos, checks=((crack, "rust"),))
    with pytest.raises(SettingsError, match=r"0\.png is said to be 'dent', which no targets have"):
        exported(tmp_path, photos, checks=((crack, "dent"),))


def test_pixels_that_the_model_does_not_take_are_one_line(tmp_path: Path, photos: Path) -> None:
    folder = save_hub(tmp_path / "hub")
    config = transformers.ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        id2label=dict(enumerate(LABELS)),
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    with pytest.raises(
        DataError, match=r"ViTForImageClassification does not take windows of 1x32x32: .* fix: correct size"
    ):
        export_foreign(ForeignModel(folder), tmp_path / "bundle", ExportOptions(), val=load_table(photos, "risk"))
