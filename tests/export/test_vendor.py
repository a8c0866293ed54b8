"""What other toolchains are given: a plain graph that computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from strangers import LABELS, SIDE, export, pictures, stranger
from torch import nn

from vidrisk.calibration.files import save_graph
from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.foreign.classifier import read_classifier
from vidrisk.export.foreign.pixels import pixels_from_settings
from vidrisk.export.foreign.session import Session
from vidrisk.export.foreign.wrap import classifier_stage, wrapped_classifier
from vidrisk.export.vendor import VendorModel, vendor_model, write_vendor_model
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec, TimeSpec
from vidrisk.runtimes.contract.stages import frame_encoder_stages

FRAMES, _ = pictures(6, seed=3)
TARGET = Target(name="defect", labels=LABELS)


def foreign(folder: Path, kind: str = "vit", **settings: Any) -> tuple[Path, Contract]:
    """A stranger's model behind the contract."""
    classifier = read_classifier(export(stranger(kind), folder / "m.onnx", torch.zeros(2, 3, SIDE, SIDE)), {"defect": LABELS})
    pixels = pixels_from_settings({"scale": "imagenet", **settings}, classifier.image)
    contract = Contract(task="risk", pixel=pixels.spec, targets=(TARGET,))
    save_graph(wrapped_classifier(classifier, pixels, contract), folder / "classifier.onnx")
    return folder / "classifier.onnx", contract


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_onnx_runtime_computes_the_expected_outputs_from_the_files(channels: str, tmp_path: Path) -> None:
    path, contract = foreign(tmp_path, channels=channels)
    vendor = vendor_model([classifier_stage(contract)], {"classifier": path}, contract)
    assert vendor.is_normalised and vendor.shape == (1, 3, SIDE, SIDE)
    write_vendor_model(vendor, contract, FRAMES[:, None], tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import] == [17]
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [onnx.TensorProto.FLOAT]
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = np.load(tmp_path / "out" / "calibration" / "inputs.npy")
    expected = np.load(tmp_path / "out" / "expected" / "defect_logits.npy")
    assert inputs.shape == (6, 3, SIDE, SIDE) and expected.shape == (6, 3)
    for one, answer in zip(inputs, expected, strict=True):
        np.testing.assert_allclose(session.run(None, {"image": one[None]})[0][0], answer, atol=1e-5)
    np.testing.assert_allclose(expected, Session(onnx.load(path)).run({"frames": FRAMES[:, None]})["defect_logits"], atol=1e-4)


def test_every_toolchain_finds_its_calibration_files(tmp_path: Path) -> None:
    path, contract = foreign(tmp_path, "cnn")
    out = tmp_path / "out"
    vendor = vendor_model([classifier_stage(contract)], {"classifier": path}, contract)
    write_vendor_model(vendor, contract, FRAMES[:, None], out)
    np.testing.assert_array_equal(np.load(out / "calibration" / "pixels.npy"), FRAMES)
    inputs = np.load(out / "calibration" / "inputs.npy")
    pictures_listed = (out / "calibration" / "dataset.txt").read_text().split()
    raws_listed = (out / "calibration" / "input_list.txt").read_text().split()
    assert len(pictures_listed) == len(raws_listed) == 6
    np.testing.assert_array_equal(np.asarray(Image.open(out / pictures_listed[2])), FRAMES[2])
    np.testing.assert_array_equal(np.fromfile(out / raws_listed[2], "<f4").reshape(inputs[2].shape), inputs[2])
    text = (out / "README.md").read_text(encoding="utf-8")
    assert "mean_values=[[123.675, 116.28, 103.53]], std_values=[[58.395, 57.12, 57.375]]" in text
    script = "normalization1 = normalization([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])\n"
    assert (out / "hailo.alls").read_text() == script


class Encoder(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        pixels = frames.float().permute(0, 3, 1, 2) / 127.5 - 1
        return nn.functional.avg_pool2d(pixels, 4).flatten(1)


class Strange(Encoder):
    """Normalises by what the pixel contract does not say."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        pixels = (frames.float().permute(0, 3, 1, 2) / 255).sqrt()
        return nn.functional.avg_pool2d(pixels, 4).flatten(1)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(12, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.layer(features.mean(dim=1)))


def two_stages(folder: Path, encoder: nn.Module, time: TimeSpec | None = None) -> tuple[Any, dict[str, Path], Contract]:
    contract = Contract(task="risk", pixel=PixelSpec(8, 8, mean=(0.5,) * 3, std=(0.5,) * 3), time=time, targets=(TARGET,))
    stages = frame_encoder_stages(contract, 12)
    files = {stage.name: folder / f"{stage.name}.onnx" for stage in stages}
    examples = ((torch.zeros((2, 8, 8, 3), dtype=torch.uint8),), (torch.zeros(2, contract.frames, 12),))
    for stage, module, example in zip(stages, (encoder, Head()), examples, strict=True):
        export_onnx(module, example, stage.inputs, stage.outputs, files[stage.name])
    return stages, files, contract


@pytest.mark.parametrize(("encoder", "is_normalised"), [(Encoder, True), (Strange, False)])
def test_the_stages_of_a_photo_are_joined(encoder: Callable[[], nn.Module], is_normalised: bool, tmp_path: Path) -> None:
    stages, files, contract = two_stages(tmp_path, encoder())
    vendor: VendorModel = vendor_model(stages, files, contract)
    assert vendor.is_normalised == is_normalised
    assert [opset.version for opset in vendor.model.opset_import] == [17]
    frame = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    features = Session(onnx.load(files["encoder"])).run({"frames": frame})["features"]
    expected = Session(onnx.load(files["head"])).run({"features": features[:, None]})["defect_logits"]
    planes = np.moveaxis(frame.astype(np.float32), -1, 1)
    planes = planes / 127.5 - 1 if is_normalised else planes
    np.testing.assert_allclose(Session(vendor.model).run({"image": planes})["defect_logits"], expected, atol=1e-5)


def test_refuses_what_no_toolchain_takes(tmp_path: Path) -> None:
    stages, files, contract = two_stages(tmp_path, Encoder(), TimeSpec(4))
    with pytest.raises(SettingsError, match="a model whose stages run for each of 4 frames"):
        vendor_model(stages, files, contract)
    path, contract = foreign(tmp_path, "cnn")
    vendor = vendor_model([classifier_stage(contract)], {"classifier": path}, contract)
    with pytest.raises(DataError, match="no calibration frames"):
        write_vendor_model(vendor, contract, FRAMES[:0, None], tmp_path / "out")
    with pytest.raises(BundleError, match="exists already"):
        write_vendor_model(vendor, contract, FRAMES[:, None], tmp_path)
