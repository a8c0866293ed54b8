"""Tests of the files for other toolchains: plain graphs that compute the same, with sample data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from strangers import LABELS, SIDE, export, pictures, stranger
from torch import nn

from vidrisk.calibration.files import save_graph
from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.foreign.classifier import read_classifier
from vidrisk.export.foreign.pixels import pixels_from_settings
from vidrisk.export.foreign.wrap import classifier_stage, wrap_classifier
from vidrisk.export.vendor.folder import write_vendor_folder
from vidrisk.export.vendor.plain import plain_graphs
from vidrisk.models.hub_classifier import HubClassifier
from vidrisk.runtimes.chain import run_stages
from vidrisk.runtimes.contract.contract import Contract, Target
from vidrisk.runtimes.contract.errors import BundleError, DataError, RuntimeFailure, SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec, TensorSpec, TimeSpec
from vidrisk.runtimes.contract.stages import (
    BATCH,
    PIXELS,
    Stage,
    check_stages,
    frame_encoder_stages,
    shape_at,
    window_encoder_stages,
)
from vidrisk.runtimes.ort import OnnxRuntimeRunner

FRAMES, _ = pictures(6, seed=3)
CLIP = 4
TARGET = Target(name="defect", labels=LABELS)
PIXEL = PixelSpec(8, 8, mean=(0.5,) * 3, std=(0.5,) * 3)
Frames = npt.NDArray[np.uint8]
Files = dict[str, Path]


def windows_of(contract: Contract, count: int = 5, seed: int = 0) -> Frames:
    shape = (count, contract.frames, *contract.pixel.frame_shape)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def answers_of(stages: Any, files: Files, windows: Frames) -> npt.NDArray[Any]:
    """Return the outputs of the stages themselves for windows."""
    runners = [OnnxRuntimeRunner(files[stage.name], stage.inputs, stage.outputs) for stage in stages]
    return np.asarray(run_stages(stages, runners, windows.reshape(-1, *windows.shape[2:]))["defect_logits"])


def assert_files_agree(folder: Path) -> npt.NDArray[Any]:
    """Check that plain ONNX Runtime gives the expected outputs, row by row, from the arrays and from the raw files.

    Returns the logits.
    """
    model, calibration = onnx.load(folder / "model.onnx"), folder / "calibration"
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import] == [17]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = {value.name: np.load(calibration / f"{value.name}.npy") for value in session.get_inputs()}
    expected = {value.name: np.load(folder / "expected" / f"{value.name}.npy") for value in session.get_outputs()}
    for value in session.get_inputs():
        assert value.type == "tensor(float)" and value.shape == [1, *inputs[value.name].shape[1:]]
    lines = (calibration / "input_list.txt").read_text().splitlines()
    assert {len(rows) for rows in (*inputs.values(), *expected.values())} == {len(lines)}
    for row, line in enumerate(lines):
        found = dict(
            zip(expected, session.run(None, {name: rows[row : row + 1] for name, rows in inputs.items()}), strict=True)
        )
        for name, rows in expected.items():
            np.testing.assert_allclose(found[name][0], rows[row], atol=1e-5)
        for name, part in zip(inputs, line.split(), strict=True):
            file = part.removeprefix(f"{name}:=") if len(inputs) > 1 else part
            np.testing.assert_array_equal(np.fromfile(folder / file, "<f4"), inputs[name][row].ravel())
    image = inputs.get("image")
    is_picture = list(inputs) == ["image"] and image is not None and image.ndim == 4
    for name in ("calibration/dataset.txt", "calibration/png", "hailo.alls"):
        assert (folder / name).exists() == is_picture
    assert (calibration / "pixels.npy").exists() == (image is not None)
    if image is not None:
        pixels = np.load(calibration / "pixels.npy")
        assert pixels.dtype == np.uint8 and np.moveaxis(pixels, -1, -3).shape == image.shape
    return expected.get("defect_logits", np.zeros(0))


def assert_readme_agrees(out: Path, folders: list[Path]) -> str:
    """Check that the README names every graph and shape, and only files that exist."""
    text = (out / "README.md").read_text(encoding="utf-8")
    for folder in folders:
        path = (folder / "model.onnx").relative_to(out).as_posix()
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        for value in (*session.get_inputs(), *session.get_outputs()):
            assert f"`{value.name}` {value.shape}" in next(
                line for line in text.splitlines() if line.startswith(f"| `{path}`")
            )
        if (folder / "calibration" / "pixels.npy").exists():
            assert str(list(np.load(folder / "calibration" / "pixels.npy").shape)) in text
    assert (
        any((folder / "hailo.alls").exists() for folder in folders) == ("dataset.txt" in text) == ("hailo.alls" in text)
    )
    return text


def foreign(
    folder: Path, kind: str = "vit", time: TimeSpec | None = None, **settings: Any
) -> tuple[list[Stage], Files, Contract]:
    """Return a foreign model with a contract."""
    classifier = read_classifier(
        export(stranger(kind), folder / "m.onnx", torch.zeros(2, 3, SIDE, SIDE)), {"defect": LABELS}
    )
    pixels = pixels_from_settings({"scale": "imagenet", **settings}, classifier.image)
    contract = Contract(task="risk", pixel=pixels.spec, time=time, targets=(TARGET,))
    save_graph(wrap_classifier(classifier, pixels, contract), folder / "classifier.onnx")
    return [classifier_stage(contract)], {"classifier": folder / "classifier.onnx"}, contract


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_a_photo_model_answers_as_before(channels: str, tmp_path: Path) -> None:
    stages, files, contract = foreign(tmp_path, channels=channels)
    (graph,) = plain_graphs(stages, files, contract)
    assert graph.is_normalised and graph.inputs == {"image": (1, 3, SIDE, SIDE)}
    out = tmp_path / "out"
    write_vendor_folder([graph], contract, FRAMES[:, None], out)
    np.testing.assert_allclose(assert_files_agree(out), answers_of(stages, files, FRAMES[:, None]), atol=1e-4)
    np.testing.assert_array_equal(np.load(out / "calibration" / "pixels.npy"), FRAMES)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "calibration" / "png" / "0002.png")), FRAMES[2])
    text = assert_readme_agrees(out, [out])
    assert "mean_values=[[123.675, 116.28, 103.53]], std_values=[[58.395, 57.12, 57.375]]" in text
    script = "normalization1 = normalization([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])\n"
    assert (out / "hailo.alls").read_text() == script


def test_a_photo_model_on_clips_is_given_frame_by_frame(tmp_path: Path) -> None:
    stages, files, contract = foreign(tmp_path, "cnn", TimeSpec(CLIP))
    (graph,) = plain_graphs(stages, files, contract)
    assert graph.is_averaged and graph.inputs == {"image": (1, 3, SIDE, SIDE)}
    windows, out = windows_of(contract), tmp_path / "out"
    write_vendor_folder([graph], contract, windows, out)
    logits = assert_files_agree(out).reshape(len(windows), CLIP, -1).mean(axis=1)
    np.testing.assert_allclose(logits, answers_of(stages, files, windows), atol=1e-4)
    assert f"mean of the logits of its {CLIP} frames" in assert_readme_agrees(out, [out])


class Photo(nn.Module):
    """An image classifier like those of transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(12, 3)

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return type("Output", (), {"logits": self.layer(nn.functional.avg_pool2d(pixel_values, 4).flatten(1))})


class Encoder(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        pixels = frames.float().permute(0, 3, 1, 2) / 127.5 - 1
        return nn.functional.avg_pool2d(pixels, 4).flatten(1)


class Strange(Encoder):
    """A model that normalises with values that the pixel contract does not contain."""

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


class Windowed(nn.Module):
    """A model that depends on the order of the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(1.0, CLIP + 1).view(1, CLIP, 1, 1, 1), persistent=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        pixels = (frames.float().permute(0, 1, 4, 2, 3) / 127.5 - 1) * self.order
        return nn.functional.avg_pool2d(pixels.tanh().mean(dim=1), 4).flatten(1)


class Mixing(nn.Module):
    """A model that mixes the frames, and ends with a mean over an axis behind a Reshape."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        pixels = (frames.float().permute(0, 1, 4, 2, 3) / 127.5 - 1).flatten(0, 1)
        rows = nn.functional.avg_pool2d(pixels, 4).flatten(1)[:, :3]
        rows = rows.reshape(-1, CLIP, 3).cumsum(dim=1).tanh()
        return rows.reshape(-1, 3).mul(2.0).reshape(-1, CLIP, 3).mean(dim=1)


def exported(folder: Path, stages: Any, modules: list[nn.Module]) -> Files:
    """Return the files of the exported stages, by stage."""
    files = {stage.name: folder / f"{stage.name}.onnx" for stage in stages}
    for stage, module in zip(stages, modules, strict=True):
        example = [torch.zeros((2, *spec.shape[1:]), dtype=getattr(torch, spec.dtype)) for spec in stage.inputs]  # type: ignore[misc]
        export_onnx(module, example, stage.inputs, stage.outputs, files[stage.name])
    return files


@pytest.mark.parametrize(("encoder", "is_normalised"), [(Encoder, True), (Strange, False)])
def test_the_stages_of_a_photo_are_joined(
    encoder: Callable[[], nn.Module], is_normalised: bool, tmp_path: Path
) -> None:
    contract = Contract(task="risk", pixel=PIXEL, targets=(TARGET,))
    stages = frame_encoder_stages(contract, 12)
    files = exported(tmp_path, stages, [encoder(), Head()])
    (graph,) = plain_graphs(stages, files, contract)
    assert graph.is_normalised == is_normalised and graph.inputs == {"image": (1, 3, 8, 8)}
    write_vendor_folder([graph], contract, windows := windows_of(contract), tmp_path / "out")
    np.testing.assert_allclose(assert_files_agree(tmp_path / "out"), answers_of(stages, files, windows), atol=1e-5)
    assert_readme_agrees(tmp_path / "out", [tmp_path / "out"])


def test_stages_per_frame_and_per_clip_are_two_graphs(tmp_path: Path) -> None:
    contract = Contract(task="risk", pixel=PIXEL, time=TimeSpec(CLIP), targets=(TARGET,))
    stages = frame_encoder_stages(contract, 12)
    files = exported(tmp_path, stages, [Encoder(), Head()])
    encoder, head = plain_graphs(stages, files, contract)
    assert (encoder.inputs, encoder.outputs) == ({"image": (1, 3, 8, 8)}, {"features": (1, 12)})
    assert (head.inputs, head.outputs) == ({"features": (1, CLIP, 12)}, {"defect_logits": (1, 3)})
    windows, out = windows_of(contract), tmp_path / "out"
    write_vendor_folder([encoder, head], contract, windows, out)
    assert_files_agree(out / "encoder")
    np.testing.assert_allclose(assert_files_agree(out / "head"), answers_of(stages, files, windows), atol=1e-5)
    features = np.load(out / "encoder" / "expected" / "features.npy")
    np.testing.assert_array_equal(
        features.reshape(-1, CLIP, 12), np.load(out / "head" / "calibration" / "features.npy")
    )
    text = assert_readme_agrees(out, [out / "encoder", out / "head"])
    assert "4 of `features`, [1, 12] each, are one [1, 4, 12]" in text
    assert "There are no commands here for `head/model.onnx`" in text


@pytest.mark.parametrize(("encoder", "is_normalised"), [(Windowed, True), (Mixing, True)])
def test_a_model_of_whole_clips_is_one_graph(
    encoder: Callable[[], nn.Module], is_normalised: bool, tmp_path: Path
) -> None:
    contract = Contract(task="risk", pixel=PIXEL, time=TimeSpec(CLIP), targets=(TARGET,))
    stages: Any = window_encoder_stages(contract, 12)
    modules = [encoder(), nn.Linear(12, 3)]
    if encoder is Mixing:
        stages, modules = [classifier_stage(contract)], modules[:1]
    files = exported(tmp_path, stages, modules)
    (graph,) = plain_graphs(stages, files, contract)
    assert (graph.is_normalised, graph.is_averaged) == (is_normalised, False)
    assert graph.inputs == {"image": (1, CLIP, 3, 8, 8)}
    windows, out = windows_of(contract), tmp_path / "out"
    write_vendor_folder([graph], contract, windows, out)
    np.testing.assert_allclose(assert_files_agree(out), answers_of(stages, files, windows), atol=1e-5)
    np.testing.assert_array_equal(np.load(out / "calibration" / "pixels.npy"), windows)
    assert "no commands here for `model.onnx`" in assert_readme_agrees(out, [out])


def test_a_hub_classifier_of_images_is_given_frame_by_frame(tmp_path: Path) -> None:
    contract = Contract(task="risk", pixel=PIXEL, time=TimeSpec(CLIP), targets=(TARGET,))
    module = HubClassifier(Photo(), LABELS, PIXEL, None, "Photo", "").module(CLIP, [2, 0, 1])
    stages = [classifier_stage(contract)]
    (graph,) = plain_graphs(stages, exported(tmp_path, stages, [module]), contract)
    assert graph.is_averaged and graph.inputs == {"image": (1, 3, 8, 8)}


def stage_file(stage: Stage, path: Path, opset: int, seed: int) -> Path:
    """Write a graph that multiplies each input by random weights, adds, and applies a nonlinearity."""
    rng = np.random.default_rng(seed)
    nodes, weights, sums = [], [], []
    for number, spec in enumerate(stage.inputs):
        name = spec.name
        if spec.dtype == "uint8":
            nodes.append(helper.make_node("Cast", [name], ["floats"], to=TensorProto.FLOAT))
            weights.append(numpy_helper.from_array(np.array(255, np.float32), "most"))
            nodes.append(helper.make_node("Div", ["floats", "most"], ["scaled"]))
            name = "scaled"
        width = int(np.prod([int(axis) for axis in spec.shape[1:]]))
        values = rng.standard_normal((width, int(stage.outputs[0].shape[1]))).astype(np.float32) / 8
        weights.append(numpy_helper.from_array(values, f"w{number}"))
        nodes.append(helper.make_node("Flatten", [name], [f"rows{number}"], axis=1))
        nodes.append(helper.make_node("MatMul", [f"rows{number}", f"w{number}"], [f"product{number}"]))
        sums.append(f"product{number}")
    nodes.append(helper.make_node("Sum", sums, ["sum"]))
    nodes.append(helper.make_node("Gelu" if opset >= 20 else "Tanh", ["sum"], [stage.outputs[0].name]))
    tensors = [
        [
            helper.make_tensor_value_info(
                spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.shape)
            )
            for spec in specs
        ]
        for specs in (stage.inputs, stage.outputs)
    ]
    graph = helper.make_graph(nodes, stage.name, *tensors, initializer=weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def wired(contract: Contract, plan: list[tuple[str, list[int]]]) -> list[Stage]:
    """Return stages of a plan from how often each runs and the numbers of its input tensors (0: the pixels)."""
    made: list[tuple[TensorSpec, Stage | None]] = [
        (TensorSpec(PIXELS, "uint8", (BATCH, *contract.pixel.frame_shape)), None)
    ]
    stages = []
    for number, (per, wanted) in enumerate(plan):
        outputs = (
            contract.answers()
            if number == len(plan) - 1
            else (TensorSpec(f"t{number}", "float32", (BATCH, number + 2)),)
        )
        stage = Stage(
            name=f"s{number}", per=per, group=2 if per == "group" else 1, inputs=(made[0][0],), outputs=outputs
        )
        inputs = [
            TensorSpec(source.name, source.dtype, shape_at(source, maker, stage, contract.frames))
            for source, maker in (made[index % len(made)] for index in wanted)
        ]
        stages.append(stage.model_copy(update={"inputs": tuple({spec.name: spec for spec in inputs}.values())}))
        made.append((outputs[0], stages[-1]))
    check_stages(stages, contract)
    return stages


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, list[tuple[str, list[int]]]]:
    frames = draw(st.sampled_from([1, 2, 4]))
    levels = ["frame", "window"] if frames == 1 else ["frame", "group", "window"]
    pers = sorted(draw(st.lists(st.sampled_from(levels), min_size=1, max_size=4)), key=levels.index)
    every = st.lists(st.integers(0, 9), min_size=1, max_size=3)
    return frames, [(per, draw(every)) for per in [*pers, "window"]]


@given(plan=plans(), opsets=st.lists(st.sampled_from([13, 17, 18, 20]), min_size=5, max_size=5))
@settings(max_examples=8)
def test_whatever_stages_take_their_graphs_are_chained_by_the_files(
    plan: Any, opsets: list[int], tmp_path_factory: Any
) -> None:
    frames, stages_plan = plan
    contract = Contract(
        task="risk", pixel=PixelSpec(4, 4), time=TimeSpec(frames) if frames > 1 else None, targets=(TARGET,)
    )
    stages, folder = wired(contract, stages_plan), tmp_path_factory.mktemp("stages")
    files = {
        stage.name: stage_file(stage, folder / f"{stage.name}.onnx", opset, number)
        for number, (stage, opset) in enumerate(zip(stages, opsets, strict=False))
    }
    graphs, windows = plain_graphs(stages, files, contract), windows_of(contract, 3)
    write_vendor_folder(graphs, contract, windows, folder / "out")
    folders = [folder / "out" / graph.name if len(graphs) > 1 else folder / "out" for graph in graphs]
    logits = [assert_files_agree(each) for each in folders][-1]
    np.testing.assert_allclose(logits, answers_of(stages, files, windows), atol=1e-4)
    assert_readme_agrees(folder / "out", folders)


def test_graphs_of_different_opsets_are_joined(tmp_path: Path) -> None:
    """The second graph contains a node that has no equivalent in opset 17."""
    contract = Contract(task="risk", pixel=PIXEL, targets=(TARGET,))
    stages = wired(contract, [("frame", [0]), ("window", [0, 1])])
    files = {
        stage.name: stage_file(stage, tmp_path / f"{stage.name}.onnx", opset, 0)
        for stage, opset in zip(stages, (17, 20), strict=True)
    }
    model = onnx.load(files["s1"])
    model.graph.node[-1].attribute.append(helper.make_attribute("approximate", "tanh"))
    onnx.save(model, files["s1"])
    (graph,) = plain_graphs(stages, files, contract)
    assert [opset.version for opset in graph.model.opset_import] == [20]


def test_graphs_that_cannot_be_joined_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = Contract(task="risk", pixel=PIXEL, targets=(TARGET,))
    stages = wired(contract, [("frame", [0]), ("window", [1])])
    files = {stage.name: stage_file(stage, tmp_path / f"{stage.name}.onnx", 17, 0) for stage in stages}
    model = onnx.load(files["s1"])
    model.graph.node[-1].op_type = "Nothing"
    monkeypatch.setattr(
        "vidrisk.export.vendor.plain.lower_opset", lambda each: model if each.graph.name == "s1" else each
    )
    with pytest.raises(
        RuntimeFailure, match="stages s0, s1 cannot be joined into one graph: No Op registered for Nothing"
    ):
        plain_graphs(stages, files, contract)


def test_refuses_what_no_toolchain_takes(tmp_path: Path) -> None:
    contract = Contract(task="risk", pixel=PIXEL, targets=(TARGET,))
    first, last = wired(contract, [("frame", [0]), ("window", [1])])
    constant = first.model_copy(
        update={"inputs": (*first.inputs, TensorSpec("prompt", "float32", (4,))), "constants": ("prompt",)}
    )
    with pytest.raises(SettingsError, match="a model with constants beside its graphs"):
        plain_graphs([constant, last], {}, contract)
    named = first.model_copy(update={"outputs": (TensorSpec("image", "float32", (BATCH, 2)),)})
    with pytest.raises(SettingsError, match="an output 'image' of a stage"):
        plain_graphs([named, last], {}, contract)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = Contract(task="risk", pixel=PIXEL, time=TimeSpec(CLIP), targets=(TARGET,))
    stages = wired(contract, [("frame", [0]), ("window", [1])])
    files = {stage.name: stage_file(stage, tmp_path / f"{stage.name}.onnx", 17, 0) for stage in stages}
    graphs, windows, out = plain_graphs(stages, files, contract), windows_of(contract), tmp_path / "new" / "out"
    with pytest.raises(DataError, match="no calibration frames"):
        write_vendor_folder(graphs, contract, windows[:0], out)
    with pytest.raises(DataError, match=r"calibration windows are uint8 \(2, 8, 8, 3\); allowed: uint8 \(4, 8, 8, 3\)"):
        write_vendor_folder(graphs, contract, windows[:, :2], out)
    with monkeypatch.context() as patch:
        patch.setattr("vidrisk.export.vendor.folder.readme", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_vendor_folder(graphs, contract, windows, out)
    assert list(out.parent.iterdir()) == []
    write_vendor_folder(graphs, contract, windows, out)
    assert [path.name for path in out.parent.iterdir()] == ["out"] and out.stat().st_mode & 0o777 == 0o755
    with pytest.raises(BundleError, match="exists already"):
        write_vendor_folder(graphs, contract, windows, out)
