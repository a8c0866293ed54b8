"""Tests of lists of stages in export, gate, INT8 and bundle.

Frame → group of 2 → window, with a constant, in three precisions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.export import export_bundle
from vidrisk.export.gate.judge import weighty_stages
from vidrisk.export.gate.outputs import Validation
from vidrisk.export.plans import plans_of
from vidrisk.export.quantize.feeds import StageFeeds
from vidrisk.export.trained import ExportOptions, Trained, TrainedStage
from vidrisk.runtimes import Bundle, Contract, PixelSpec, Target, TensorSpec, TimeSpec
from vidrisk.runtimes.chain import chain_runners
from vidrisk.runtimes.contract.errors import DataError, SettingsError, SpecError
from vidrisk.runtimes.contract.stages import BATCH, PIXELS, Stage
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, file_runtimes

SIDE, FRAMES, SAMPLES = 32, 4, 24
CONTRACT = Contract(
    task="action",
    pixel=PixelSpec(SIDE, SIDE),
    time=TimeSpec(FRAMES),
    targets=(Target(name="action", labels=("run", "sit", "fall")),),
)
PROMPT = np.linspace(-1, 1, 16, dtype=np.float32)
Frames = npt.NDArray[np.uint8]


class Look(nn.Module):
    """Stage from a frame to a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 16, 4, stride=4), nn.Conv2d(16, 16, 3, padding=1)])

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.float().permute(0, 3, 1, 2) / 64 - 1.5
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Pair(nn.Module):
    """Stage from the feature maps of two frames and a constant to features of the pair."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(32, 16, 3, padding=1), *(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))]
        )

    def forward(self, maps: Tensor, prompt: Tensor) -> Tensor:
        x = maps.flatten(1, 2)
        for layer in self.layers:
            x = torch.relu(layer(x)) + prompt[:, None, None]
        return x.mean(dim=(2, 3))


class Answer(nn.Module):
    """Stage from the features of all pairs of a window to logits; the order of the pairs matters."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(16 * FRAMES // 2, 3)

    def forward(self, features: Tensor) -> tuple[Tensor]:
        return (self.classifier(features.flatten(1)),)


STAGES = (
    Stage(
        name="look",
        per="frame",
        inputs=(TensorSpec(PIXELS, "uint8", (BATCH, SIDE, SIDE, 3)),),
        outputs=(TensorSpec("maps", "float32", (BATCH, 16, 8, 8)),),
    ),
    Stage(
        name="pair",
        per="group",
        group=2,
        constants=("prompt",),
        inputs=(TensorSpec("maps", "float32", (BATCH, 2, 16, 8, 8)), TensorSpec("prompt", "float32", (16,))),
        outputs=(TensorSpec("features", "float32", (BATCH, 16)),),
    ),
    Stage(
        name="answer",
        per="window",
        inputs=(TensorSpec("features", "float32", (BATCH, FRAMES // 2, 16)),),
        outputs=CONTRACT.answers(),
    ),
)


@dataclass(frozen=True)
class Windows:
    """Calibration windows in memory."""

    clips: Frames
    digest: str = "windows"

    @property
    def count(self) -> int:
        return len(self.clips) * FRAMES

    def __iter__(self) -> Iterator[Frames]:
        return iter(self.clips.reshape(-1, SIDE, SIDE, 3))

    def windows(self) -> Iterator[Frames]:
        return iter(self.clips)


def answers_of(modules: list[Any], clips: Frames) -> npt.NDArray[np.float32]:
    """Return the logits of the modules, called one after another without vidrisk."""
    look, pair, answer = modules
    with torch.inference_mode():
        maps = look(torch.from_numpy(clips).flatten(0, 1))
        features = pair(maps.unflatten(0, (-1, 2)), torch.from_numpy(PROMPT))
        return np.asarray(answer(features.unflatten(0, (len(clips), -1)))[0])


@pytest.fixture(scope="module")
def toy(clips: Callable[..., Any]) -> tuple[Trained, Validation, list[Any]]:
    torch.manual_seed(3)
    modules: list[Any] = [Look().eval(), Pair().eval(), Answer().eval()]
    for layer in (*modules[0].modules(), *modules[1].modules()):
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    frames = clips(SAMPLES, FRAMES, SIDE)
    with torch.no_grad():  # logits of mean 0 and deviation 2
        logits, answer = torch.from_numpy(answers_of(modules, frames)), modules[2].classifier
        scale = 2 / logits.std(dim=0)
        answer.bias.copy_((answer.bias - logits.mean(dim=0)) * scale)
        answer.weight.mul_(scale[:, None])
    stages = tuple(
        TrainedStage(stage, module, {"prompt": PROMPT} if stage.constants else {})
        for stage, module in zip(STAGES, modules, strict=True)
    )
    truth = answers_of(modules, frames).argmax(1).astype(np.int64)
    assert len(set(truth)) == 3
    return (
        Trained(stages, CONTRACT),
        Validation(frames, {"action": truth}, [f"clip {i}" for i in range(SAMPLES)]),
        modules,
    )


@pytest.fixture(scope="module")
def made(toy: Any, clips: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Any]:
    """Return an export for a GPU: the middle stage in INT8, the first one in FP16, the last one in float32."""
    trained, validation, _ = toy
    folder = tmp_path_factory.mktemp("toy")
    options = ExportOptions(
        int8=True, fp16=True, target="gpu", max_drop=50, max_confidence_drop=50, quantize=frozenset({"pair"})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDRISK_CACHE", str(folder / "cache"))
        return export_bundle(trained, folder / "b", validation, Windows(clips(20, FRAMES, SIDE, seed=9)), options)


def test_three_stages_in_three_precisions_become_a_bundle(made: Any) -> None:
    bundle, report = made
    assert Bundle.open(bundle.root) == bundle
    assert [stage.model_copy(update={"macs": None}) for stage in bundle.stages] == list(STAGES)
    macs = {stage.name: stage.macs for stage in bundle.stages}
    assert macs == {"look": 64 * 16 * 3 * 16 + 64 * 16 * 16 * 9, "pair": 64 * 16 * (32 + 3 * 16) * 9, "answer": 32 * 3}
    name = bundle.passed[-1]
    precision = bundle.manifest.variants[name].precision
    assert (precision["look"], precision["answer"]) == ("fp16", "fp32") and precision["pair"] == name in (
        "int8",
        "mixed",
    )
    assert bundle.manifest.variants["fp16"].precision == {"look": "fp16", "pair": "fp16", "answer": "fp32"}
    assert {node.op_type for node in onnx.load(str(bundle.path("pair", name))).graph.node} >= {"QuantizeLinear"}
    assert not {node.op_type for node in onnx.load(str(bundle.path("look", name))).graph.node} & {"QuantizeLinear"}
    np.testing.assert_array_equal(bundle.constants()["prompt"], PROMPT)
    quantized = [hop for hop in report.hops if hop.variant == name]
    assert [(cut.stage, cut.output) for cut in quantized[0].cuts] == [("look", "maps"), ("pair", "features")]
    look, pair = quantized[0].cuts
    assert look.largest_difference < 1e-2 < pair.largest_difference and pair.cosine > 0.95
    gate = json.loads((bundle.root / "gate.json").read_text(encoding="utf-8"))
    assert [stage["name"] for stage in gate["stages"]] == ["look", "pair", "answer"]
    assert sum(stage["share"] for stage in gate["stages"]) == pytest.approx(1)
    assert gate["precision"][name] == precision
    assert any(library.startswith("tensorrt-rtx") for library in report.parsed_by)
    assert "look per frame, pair per group of 2, answer per window" in (bundle.root / "gate.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("runtime", file_runtimes())
def test_every_runtime_computes_what_torch_does(made: Any, toy: Any, clips: Callable[..., Any], runtime: str) -> None:
    bundle, (_, _, modules) = made[0], toy
    for count in (1, 2, 3):  # windows of different content
        windows = clips(count, FRAMES, SIDE, seed=40 + count)
        expected = answers_of(modules, windows)
        for variant, tolerance in (("fp32", 1e-3), (bundle.passed[-1], 1.0)):  # of logits whose deviation is 2
            with ExitStack() as stack:
                constants = bundle.constants()
                runners = [
                    stack.enter_context(
                        BUNDLE_RUNTIMES[runtime](
                            bundle.path(stage.name, variant),
                            stage.inputs,
                            stage.outputs,
                            constants={name: constants[name] for name in stage.constants},
                        )
                    )
                    for stage in bundle.stages
                ]
                found = chain_runners(bundle.stages, runners, FRAMES).infer({PIXELS: windows})["action_logits"]
            assert np.abs(found - expected).max() < tolerance, (runtime, variant, count)


def test_stages_that_are_onnx_files_are_exported_like_modules(toy: Any, tmp_path: Path) -> None:
    trained, validation, _ = toy
    as_files = []
    for each in trained.stages:
        path = tmp_path / f"{each.stage.name}-of-somebody.onnx"
        export_onnx(each.source, each.inputs(2), each.stage.inputs, each.stage.outputs, path)
        as_files.append(replace(each, source=path))
    bundle, report = export_bundle(
        replace(trained, stages=tuple(as_files)), tmp_path / "b", validation, None, ExportOptions()
    )
    assert [hop.name for hop in report.hops] == ["merged → onnx fp32"] * 2  # nothing to merge
    assert bundle.manifest.variants["fp32"].files == {name: f"{name}.fp32.onnx" for name in ("look", "pair", "answer")}
    with pytest.raises(SettingsError, match=r"an ExportedProgram of stage 'look', which comes from an ONNX file"):
        export_bundle(
            replace(trained, stages=tuple(as_files)), tmp_path / "c", validation, None, ExportOptions(also=("torch",))
        )


def test_a_later_stage_is_calibrated_on_what_the_float_stages_make(
    toy: Any, clips: Callable[..., Any], tmp_path: Path
) -> None:
    trained, _, modules = toy
    files = {}
    for each in trained.stages:
        files[each.stage.name] = tmp_path / f"{each.stage.name}.onnx"
        export_onnx(each.source, each.inputs(2), each.stage.inputs, each.stage.outputs, files[each.stage.name])
    samples = Windows(clips(5, FRAMES, SIDE, seed=9))
    look, pair, answer = (StageFeeds(CONTRACT, STAGES, stage, files, trained.constants, samples) for stage in STAGES)
    assert (look.is_per_frame, pair.is_per_frame, answer.is_per_frame) == (True, False, False)
    assert (look.count, pair.count) == (20, 5)
    maps = modules[0](torch.from_numpy(samples.clips).flatten(0, 1)).detach()
    found = [feed for _, feed in pair.batches()]
    assert [len(feed["maps"]) for feed in found] == [2] * 5  # two groups of each window
    np.testing.assert_allclose(np.concatenate([feed["maps"] for feed in found]), maps.unflatten(0, (-1, 2)), atol=1e-5)
    assert all(np.array_equal(feed["prompt"], PROMPT) for feed in found)
    features = np.concatenate([feed["features"] for _, feed in answer.batches()])
    assert features.shape == (5, 2, 16)
    assert len({tuple(stage.digest) for stage in (look, pair, answer)}) == 3
    short = replace(pair, samples=Windows(clips(5, FRAMES, 16)))
    with pytest.raises(
        DataError, match=r"a calibration window is uint8 \(4, 16, 16, 3\); allowed: uint8 \(4, 32, 32, 3\)"
    ):
        next(short.batches())


def test_a_finish_wants_an_encoder_of_frames(toy: Any, clips: Callable[..., Any], tmp_path: Path) -> None:
    trained, validation, _ = toy
    options = ExportOptions(int8=True, qat_steps=2, quantize=frozenset({"pair"}))
    with pytest.raises(SettingsError, match="quantisation-aware fine-tuning of this model; allowed: two torch modules"):
        export_bundle(trained, tmp_path / "b", validation, Windows(clips(20, FRAMES, SIDE, seed=9)), options)


def test_constants_that_are_missing_or_do_not_fit(toy: Any) -> None:
    pair = toy[0].stages[1]
    with pytest.raises(SpecError, match="stage 'pair' has no value for its constant 'prompt'"):
        replace(pair, constants={})
    with pytest.raises(SpecError, match="prompt has shape"):
        replace(pair, constants={"prompt": PROMPT[:3]})
    with pytest.raises(SpecError, match="prompt is float64"):
        replace(pair, constants={"prompt": PROMPT.astype(np.float64)})


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        ({"look": 1000, "pair": 10, "answer": 5}, ("look",)),  # 4000, 20 and 5 of a window's work
        ({"look": 1000, "pair": 2000, "answer": 30}, ("look", "pair")),
        ({"look": 10, "pair": 10, "answer": 100_000}, ("answer",)),
        ({"look": 0, "pair": 0, "answer": 0}, ("look",)),
    ],
)
def test_stages_that_do_nearly_all_the_work(work: dict[str, int], expected: tuple[str, ...]) -> None:
    assert weighty_stages(STAGES, work, FRAMES) == expected


def with_packed_answer(trained: Trained) -> Trained:
    return replace(trained, stages=(*trained.stages[:2], replace(trained.stages[2], quantization="weights")))


@pytest.mark.slow(minutes=1)
def test_packed_weights_are_for_processors_and_fp16_is_in_their_place_on_a_gpu(
    toy: Any, clips: Callable[..., Any], tmp_path: Path
) -> None:
    trained, validation, _ = toy
    options = ExportOptions(
        int8=True,
        target="any",
        max_drop=50,
        max_confidence_drop=50,
        allow_drop=True,
        search_s=5,
        quantize=frozenset(("pair", "answer")),
    )
    calibration = Windows(clips(20, FRAMES, SIDE, seed=9))
    bundle, report = export_bundle(with_packed_answer(trained), tmp_path / "b", validation, calibration, options)
    variants = bundle.manifest.variants
    of_processors, of_tensorrt = (
        next(name for name, each in variants.items() if each.engines == engines)
        for engines in ("processor", "tensorrt")
    )
    assert of_processors == "mixed" or variants[of_processors].precision["answer"] == "int8-weight-only"
    assert variants[of_processors].precision["answer"] in ("int4", "int8-weight-only")
    assert variants[of_tensorrt].precision["answer"] == "fp16"
    assert of_tensorrt.removesuffix("-tensorrt") == variants[of_tensorrt].precision["pair"]
    kinds = {
        name: {node.op_type for node in onnx.load(str(bundle.path("answer", name))).graph.node}
        for name in (of_processors, of_tensorrt)
    }
    assert "MatMulNBits" in kinds[of_processors] and not kinds[of_tensorrt] & {"MatMulNBits", "QuantizeLinear"}
    assert (
        report.calibration["answer for TensorRT"]
        == "not quantised: packed weights are for processors, and FP16 is for GPUs"
    )
    assert report.calibration["answer: recipe"].startswith("int") and report.calibration["pair: recipe"]
    assert report.calibration["frames"] == 80 and {
        report.calibration["profile"],
        report.calibration["profile-tensorrt"],
    } == {plans_of("cpu")[0].profile.name, "tensorrt"}


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize(("only", "allow_drop"), [(None, False), ("int8", False), ("int8", True)])
def test_packed_weights_that_are_slower_ship_beside_floating_point(
    toy: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    only: Any,
    allow_drop: bool,
) -> None:
    """A request for INT8 alone gets INT8 together with the faster floating point, not instead of it."""
    from vidrisk.export.gate import keeper
    from vidrisk.export.gate.report import Speed

    real = keeper.race

    def slow(*arguments: Any) -> Any:
        laps, speeds = real(*arguments)
        laps = [replace(lap, bytes=lap.bytes // 4) if lap.variant != "fp32" else lap for lap in laps]
        return laps, [
            Speed(speed.variant, speed.runtime, speed.float_runtime, 0.8, 0.7, 0.9, speed.turns) for speed in speeds
        ]

    monkeypatch.setattr(keeper, "race", slow)
    trained, validation, _ = toy
    options = ExportOptions(
        int8=True,
        max_drop=50,
        max_confidence_drop=50,
        search_s=5,
        quantize=frozenset({"answer"}),
        only=only,
        allow_drop=allow_drop,
    )
    with caplog.at_level("WARNING"):
        bundle, _ = export_bundle(with_packed_answer(trained), tmp_path / "b", validation, None, options)
    assert len(bundle.passed) == 2 and "fp32" in bundle.passed
    assert sum("is slower than floating point, and" in line for line in caplog.messages) == 1


@pytest.mark.slow(minutes=1)
def test_packed_weights_need_no_calibration_samples(toy: Any, tmp_path: Path) -> None:
    trained, validation, _ = toy
    packed = with_packed_answer(trained)
    options = ExportOptions(
        int8=True, max_drop=50, max_confidence_drop=50, allow_drop=True, search_s=5, quantize=frozenset({"answer"})
    )
    bundle, report = export_bundle(packed, tmp_path / "b", validation, None, options)
    name = bundle.passed[-1]
    assert bundle.manifest.variants[name].precision["answer"] in ("int4", "int8-weight-only")
    assert set(report.calibration) <= {"recipe", "in float32"} and report.selection is not None
    for refused, what in ((replace(options, quantize=frozenset(("pair", "answer"))), packed), (options, trained)):
        with pytest.raises(DataError, match="no calibration frames"):
            export_bundle(what, tmp_path / "c", validation, None, refused)


@pytest.mark.slow(minutes=1)
def test_a_model_of_packed_weights_alone_is_fp16_on_a_gpu(toy: Any, tmp_path: Path) -> None:
    trained, validation, _ = toy
    black = Windows(np.zeros((20, FRAMES, SIDE, SIDE, 3), np.uint8))  # they calibrate nothing
    options = ExportOptions(
        int8=True, target="gpu", max_drop=50, max_confidence_drop=50, quantize=frozenset({"answer"})
    )
    bundle, report = export_bundle(with_packed_answer(trained), tmp_path / "b", validation, black, options)
    assert bundle.passed == ("fp32", "fp16") and bundle.manifest.variants["fp16"].precision["answer"] == "fp16"
    left_out = next(verdict for verdict in report.verdicts if not verdict.shipped)
    assert (left_out.variant, left_out.reason) == (
        "int8",
        "not quantised: packed weights are for processors, and FP16 is for GPUs",
    )
    assert "int8 was left out:" in (bundle.root / "gate.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", ["gpu", "any"])
def test_int8_alone_is_refused_where_packed_weights_leave_nothing_for_tensorrt(
    toy: Any, tmp_path: Path, target: Any
) -> None:
    trained, validation, _ = toy
    options = ExportOptions(
        int8=True,
        target=target,
        only="int8",
        max_drop=50,
        max_confidence_drop=50,
        search_s=1,
        quantize=frozenset({"answer"}),
    )
    with pytest.raises(
        SettingsError, match=f"int8 alone for the target {target}, .*packed: TensorRT .*; allowed: .* target cpu"
    ):
        export_bundle(with_packed_answer(trained), tmp_path / "c", validation, None, options)
    assert not list(tmp_path.iterdir())
