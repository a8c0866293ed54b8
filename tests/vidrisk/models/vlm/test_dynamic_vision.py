"""A vision tower with a dynamic grid equals transformers' own tower, whatever is packed together."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import peft
import pytest
import torch
import transformers
from vlms import QWEN, WIDTH

from vidrisk.export.convert.graphs import MAX_OPSET
from vidrisk.export.dynamic import judge_dynamic_graph, write_dynamic_graph
from vidrisk.export.trained import DynamicGraph
from vidrisk.models.vlm.dynamic_vision import dynamic_vision_from_tower
from vidrisk.runtimes.contract.errors import GateRefused, RuntimeFailure
from vidrisk.runtimes.contract.specs import PixelSpec, TensorSpec
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES
from vidrisk.runtimes.runner import Arrays
from vidrisk.runtimes.tensorrt.api import find_installed_kinds
from vidrisk.runtimes.tensorrt.build.parse import parse_graphs
from vidrisk.runtimes.vision_grid import patches_from_frames, vision_inputs_from_grid

Make = Callable[..., Path]
Grids = list[tuple[int, int, int]]
PIXEL = PixelSpec(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
# In patches; windows of Qwen2.5-VL are 4 x 4 of them, the table of Qwen3-VL is 8 x 8.
GRIDS: dict[str, Grids] = {
    "unequal windows": [(1, 14, 18)],
    "equal windows": [(1, 8, 8)],
    "two images": [(1, 20, 14), (1, 6, 10)],
    "several frames": [(4, 12, 10)],
    "a tiny one": [(1, 2, 4)],
    "two of one size": [(1, 4, 6), (1, 4, 6)],
    "videos and an image": [(2, 10, 6), (1, 2, 2), (3, 4, 18)],
}
BLOCKED = "import sys\nfor name in ('torch', 'transformers', 'vidrisk', 'onnx'):\n    sys.modules[name] = None\n"


@dataclass(frozen=True)
class Written:
    """A tower with an adapter, and the folder that was written from it."""

    tower: Any
    graph: DynamicGraph
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "vision.onnx"

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "vision.json").read_text(encoding="utf-8"))
        return found

    def feed(self, grids: Grids) -> Arrays:
        patches = sum(moments * height * width for moments, height, width in grids)
        pixels = np.random.default_rng(patches).normal(size=(patches, self.graph.inputs[0].shape[1])).astype(np.float32)
        return {"pixel_values": pixels, **vision_inputs_from_grid(grids, **self.settings["grid"])}

    @torch.inference_mode()
    def expected(self, pixels: npt.NDArray[Any], grids: Sequence[Sequence[int]]) -> list[npt.NDArray[Any]]:
        """Return the tokens that transformers' own forward computes."""
        output = self.tower(torch.from_numpy(pixels), grid_thw=torch.tensor(grids))
        return [tokens.numpy() for tokens in (output.pooler_output, *getattr(output, "deepstack_features", ()))]


def tower_of(folder: Path, model_type: str, dtype: str = "float32") -> Any:
    model = getattr(transformers, f"{QWEN[model_type]}ForConditionalGeneration").from_pretrained(folder, dtype=dtype)
    return model.eval().model.visual


def adapt(tower: Any) -> None:
    """Add an adapter with random weights that change the output."""
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["qkv"]), tower)
    torch.manual_seed(1)
    for name, parameter in tower.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tower.eval()


@pytest.fixture(scope="module", params=QWEN)
def written(request: pytest.FixtureRequest, qwen_folder: Make, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder, tower = tmp_path_factory.mktemp(request.param), tower_of(qwen_folder(request.param), request.param)
    plain = dynamic_vision_from_tower(tower, PIXEL)
    adapt(tower)
    graph = dynamic_vision_from_tower(tower, PIXEL)
    for case, (_, expected) in graph.cases.items():
        assert np.abs(expected["tokens"] - plain.cases[case][1]["tokens"]).max() > 0.01  # the adapter matters
    write_dynamic_graph(graph, folder)
    return Written(tower, graph, folder)


@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_grid_gives_the_tokens_of_transformers(written: Written, runtime: str) -> None:
    with BUNDLE_RUNTIMES[runtime](written.file, written.graph.inputs, written.graph.outputs, threads=1) as runner:
        for name, grids in GRIDS.items():
            feed = written.feed(grids)
            expected = written.expected(feed["pixel_values"], grids)
            found = list(runner.infer(feed).values())
            tokens = sum(moments * height * width for moments, height, width in grids) // 4
            assert len(found) == len(expected) == len(written.graph.outputs)
            for computed, wanted in zip(found, expected, strict=True):
                assert computed.shape == (tokens, WIDTH) and wanted.std() > 0.1
                assert np.abs(computed - wanted).max() < 1e-4, name


@pytest.mark.slow
def test_what_else_is_in_a_call_changes_nothing(written: Written) -> None:
    """Images and moments do not affect one another, so any way to pack them gives the same tokens."""
    feed, alone = written.feed([(2, 10, 6), (1, 4, 8)]), []
    with BUNDLE_RUNTIMES["onnxruntime"](written.file, written.graph.inputs, written.graph.outputs, threads=1) as runner:
        together = runner.infer(feed)["tokens"]
        for grid, begin in (((1, 10, 6), 0), ((1, 10, 6), 60), ((1, 4, 8), 120)):
            rows = feed["pixel_values"][begin : begin + grid[1] * grid[2]]
            indices = vision_inputs_from_grid([grid], **written.settings["grid"])
            alone.append(runner.infer({"pixel_values": rows, **indices})["tokens"])
    np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-5)


@pytest.mark.slow
def test_the_graph_says_what_it_takes_and_old_readers_read_it(written: Written) -> None:
    model = onnx.load(written.file)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": MAX_OPSET}
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {spec.name: list(spec.shape) for spec in (*written.graph.inputs, *written.graph.outputs)}
    assert shapes["position_ids"] == ["4*tokens", 2] and shapes["tokens"] == ["tokens", WIDTH]
    assert not any("lora" in weight.name for weight in model.graph.initializer)


@pytest.mark.slow
@pytest.mark.skipif(
    not find_installed_kinds() and os.environ.get("VIDRISK_REQUIRE_TRT") != "1",
    reason="no TensorRT is installed: pip install 'vidrisk[tensorrt-rtx]'",
)
def test_tensorrt_reads_the_graph(written: Written) -> None:
    parsed = parse_graphs([written.file], lambda *_: None)
    assert parsed.libraries and parsed.refusals == {}


def wrong_order(feed: Arrays) -> Arrays:
    return {**feed, "window_index": feed["window_index"][::-1].copy()}


def one_segment(feed: Arrays) -> Arrays:
    return {**feed, "cu_seqlens": feed["cu_seqlens"][[0, -1]]}


def equal_windows(feed: Arrays) -> Arrays:
    ends = feed["cu_window_seqlens"]
    return {**feed, "cu_window_seqlens": np.linspace(0, ends[-1], len(ends), dtype=np.int64)}


def turned_places(feed: Arrays) -> Arrays:
    return {**feed, "position_ids": feed["position_ids"][:, ::-1].copy()}


def nearest_entry(feed: Arrays) -> Arrays:
    return {
        **feed,
        "interp_weights": (feed["interp_weights"] == feed["interp_weights"].max(1, keepdims=True)).astype(np.float32),
    }


FAULTS: list[tuple[str, Callable[[Arrays], Arrays], str]] = [
    ("qwen2_5_vl", wrong_order, "unequal windows"),
    ("qwen2_5_vl", equal_windows, "unequal windows"),
    ("qwen2_5_vl", one_segment, "two images"),
    ("qwen2_5_vl", turned_places, "equal windows"),
    ("qwen3_vl", one_segment, "several frames"),
    ("qwen3_vl", nearest_entry, "two images"),
    ("qwen3_vl", turned_places, "one token"),
]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_planted_faults_are_refused(written: Written, runtime: str) -> None:
    """A wrong input that follows from the grid, such as a wrong order of windows, is refused with the graph."""
    planted = [
        (fault, case)
        for model_type, fault, case in FAULTS
        if (model_type == "qwen2_5_vl") == ("window_index" in {spec.name for spec in written.graph.inputs})
    ]
    assert len(planted) >= 3
    judge_dynamic_graph(written.graph, written.file, runtime)
    for fault, case in planted:
        feed, expected = written.graph.cases[case]
        broken = replace(written.graph, cases={case: (fault(feed), expected)})
        with pytest.raises(
            GateRefused,
            match=rf"refused vision.onnx, nothing was written: for {case}, {runtime} computes tokens "
            r"that is \S+ off where values reach \S+; \S+ is allowed; fix: this is a fault",
        ):
            judge_dynamic_graph(broken, written.file, runtime)


@pytest.mark.slow
def test_what_is_not_finite_is_refused(written: Written) -> None:
    feed, expected = written.graph.cases["one token"]
    pixels = np.full_like(feed["pixel_values"], np.nan)
    with pytest.raises(GateRefused, match="tokens that is nan off"):
        judge_dynamic_graph(
            replace(written.graph, cases={"one token": ({**feed, "pixel_values": pixels}, expected)}),
            written.file,
            "onnxruntime",
        )


def test_a_graph_that_keeps_the_length_of_its_example_is_no_graph(tmp_path: Path) -> None:
    """A graph with an output length that torch traced as a constant is refused, because its shape is wrong."""

    class Fixed(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (pixel_values.sum() * torch.ones(2, 12),)

    pixels = np.zeros((8, 3), np.float32)
    graph = DynamicGraph(
        "fixed",
        Fixed(),
        (TensorSpec("pixel_values", "float32", ("4*tokens", 3)),),
        (TensorSpec("tokens", "float32", ("tokens", 12)),),
        {"one": ({"pixel_values": pixels}, {"tokens": pixels.reshape(2, 12)})},
        {},
    )
    with pytest.raises(RuntimeFailure, match=r"the exported graph has .*tokens: float32\[2, 12\]"):
        write_dynamic_graph(graph, tmp_path)


@pytest.mark.parametrize("model_type", QWEN)
def test_a_tower_in_bfloat16_is_written_in_float32(model_type: str, qwen_folder: Make) -> None:
    tower = tower_of(qwen_folder(model_type), model_type, "bfloat16")
    graph = dynamic_vision_from_tower(tower, PIXEL)
    assert {parameter.dtype for parameter in graph.module.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.bfloat16}
    feed, expected = graph.cases["two images"]
    with torch.inference_mode():
        found = graph.module(*(torch.from_numpy(feed[spec.name]) for spec in graph.inputs))
    np.testing.assert_allclose(found[0].numpy(), expected["tokens"], atol=1e-4)


@pytest.mark.slow
def test_twelve_lines_without_torch_run_the_folder(written: Written, tmp_path: Path) -> None:
    """The README's own script runs without torch, here on random pictures instead of zeros."""
    text = (written.folder / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in script.splitlines() if line]) <= 12
    noisy = script.replace("np.zeros(", "noise(").replace(
        "settings =",
        (
            "def noise(shape, dtype): return np.random.default_rng(len(shape)).integers(0, 256, shape, dtype)\nsettings ="
        ),
    )
    saved = tmp_path / "tokens.npy"
    code = f"{BLOCKED}{noisy}\nnp.save({str(saved)!r}, tokens)\nnp.savez({str(tmp_path / 'fed.npz')!r}, grid=grid, **feed)\n"
    end = subprocess.run(
        [sys.executable, "-c", code], cwd=written.folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert end.returncode == 0, end.stderr
    fed = np.load(tmp_path / "fed.npz")
    expected = written.expected(fed["pixel_values"], fed["grid"].tolist())[0]
    assert end.stdout.strip() == str(expected.shape)
    assert np.abs(np.load(saved) - expected).max() < 1e-4
    side = written.settings["pixels"]["patch"] * 2
    video = np.random.default_rng(4).integers(0, 256, (6, side, 3 * side, 3), np.uint8)
    np.testing.assert_array_equal(
        fed["pixel_values"][-36:], patches_from_frames(video, **written.settings["pixels"])[0]
    )


@pytest.mark.slow
def test_the_readme_says_what_goes_in_and_comes_out(written: Written) -> None:
    text = (written.folder / "README.md").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) < 200 and "{" not in text.replace('{"pixel_values"', "")
    for spec in (*written.graph.inputs, *written.graph.outputs):
        assert f"| `{spec.name}` | {spec.dtype} | " in text
    files = set(re.findall(r"^\| `([\w.]+)` \| [^|]+ \|$", text, re.MULTILINE))
    assert files == {path.name for path in written.folder.iterdir() if path.is_file()} - {"README.md"}
    assert written.settings["pixels"]["mean"] == list(PIXEL.mean) and written.settings["pixels"]["std"] == list(
        PIXEL.std
    )


@pytest.mark.slow(minutes=1)
def test_a_tower_that_outgrows_one_file_keeps_its_weights_beside_it(
    qwen_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tower that is too large for one file has its weights in a second file.

    This applies to towers of published sizes: protobuf ends at 2 GiB.
    """
    monkeypatch.setattr("vidrisk.calibration.files.MAX_INLINE_BYTES", 1000)
    graph = dynamic_vision_from_tower(tower_of(qwen_folder("qwen2_5_vl"), "qwen2_5_vl"), PIXEL)
    (tmp_path / "tower").mkdir()
    write_dynamic_graph(graph, tmp_path / "tower")
    assert {path.name for path in (tmp_path / "tower").iterdir()} == {
        "vision.onnx",
        "vision.onnx.data",
        "vision_grid.py",
        "vision.json",
        "README.md",
    }
    assert (tmp_path / "tower" / "vision.onnx.data").stat().st_size > 4 * (
        tmp_path / "tower" / "vision.onnx"
    ).stat().st_size
