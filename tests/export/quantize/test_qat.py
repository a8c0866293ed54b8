"""Tests of quantization-aware training: it recovers what 8 bits lost, and leaves plain modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vidrisk.calibration import PROFILES, Profile, observe_statistics, qdq_from_float, ranges_from_statistics
from vidrisk.export.convert.graphs import export_onnx
from vidrisk.export.convert.merge import merge_trained
from vidrisk.export.quantize.qat import QatOptions, _loss, batches_of, fine_tune_by_qat, layers_to_quantize
from vidrisk.export.trained import Trained
from vidrisk.runtimes.contract.errors import DataError, SettingsError

Make = Callable[..., Any]
Ranges = dict[str, tuple[float, float]]
SHORT = QatOptions(steps=3, batch_size=12, rank=2)
SIDE = 32


def ranges_of(encoder: nn.Module, frames: np.ndarray) -> Ranges:
    """Return the range of every layer's input, by the path of the layer."""
    found: Ranges = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, inputs, path=path: found.update({path: (float(inputs[0].min()), float(inputs[0].max()))})
        )
        for path, layer in encoder.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        encoder(torch.from_numpy(frames).flatten(0, 1))
    for hook in hooks:
        hook.remove()
    return found


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@dataclasses.dataclass(frozen=True)
class Case:
    """An encoder of plain layers, its head, and the data that quantization-aware training needs."""

    trained: Trained
    merged: nn.Module
    head: nn.Module
    ranges: Ranges
    clips: np.ndarray

    def finished(
        self, options: QatOptions = SHORT, profile: Profile = PROFILES["cpu"], keep_float: tuple[str, ...] = ()
    ) -> tuple[nn.Module, nn.Module]:
        return fine_tune_by_qat(self.merged, self.head, self.ranges, profile, keep_float, self.clips, options)


@pytest.fixture
def make_case(make_trained: Make) -> Callable[..., Case]:
    def make(encoder: nn.Module, side: int = SIDE, samples: int = 24) -> Case:
        merged = merge_trained(encoder)
        trained, data = make_trained(merged, side, samples=samples)
        return Case(trained, merged, trained.sources["head"], ranges_of(merged, data.frames), data.frames)

    return make


@pytest.fixture
def small(make_case: Callable[..., Case], small_encoder: Make) -> Case:
    return make_case(small_encoder())


def features(encoder: nn.Module, case: Case) -> Tensor:
    with torch.inference_mode():
        result: Tensor = encoder(torch.from_numpy(case.clips).flatten(0, 1))
    return result


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_no_step_changes_nothing(small: Case, profile: Profile) -> None:
    encoder, head = small.finished(QatOptions(steps=0), profile)
    assert torch.equal(features(encoder, small), features(small.merged, small))
    assert all(torch.equal(value, small.head.state_dict()[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize("family", ["efficientnet-lite0", "vit", "siglip_vision_model"])
def test_the_result_is_plain_and_the_original_untouched(
    make_case: Callable[..., Case], adapted_encoder: Make, family: str
) -> None:
    case = make_case(adapted_encoder(family), 64, samples=6)
    before = state(case.merged), state(case.head)
    encoder, head = case.finished(dataclasses.replace(SHORT, steps=2))
    for made, original, values in zip((encoder, head), (case.merged, case.head), before, strict=True):
        assert list(made.state_dict()) == list(values)
        assert all(torch.equal(original.state_dict()[name], value) for name, value in values.items())
        assert [type(part) for part in made.modules()] == [type(part) for part in original.modules()]
        assert not any(
            part._forward_pre_hooks or parametrize.is_parametrized(part)
            for model in (made, original)
            for part in model.modules()
        )
        assert not made.training
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[0][name])}
    assert moved == {f"{path}.weight" for path in case.ranges}
    assert (features(encoder, case) - features(case.merged, case)).abs().max() > 0


@dataclasses.dataclass(frozen=True)
class Rounded:
    """The INT8 graph of an encoder, calibrated as in every export, and run by ONNX Runtime."""

    session: Any
    ranges: Ranges

    def features(self, frames: np.ndarray) -> Tensor:
        flat = frames.reshape(-1, *frames.shape[2:])
        return torch.from_numpy(self.session.run(["features"], {"frames": flat})[0]).reshape(*frames.shape[:2], -1)


def rounded(
    encoder: nn.Module,
    trained: Trained,
    frames: np.ndarray,
    profile: Profile,
    path: Path,
    keep_float: tuple[str, ...] = (),
) -> Rounded:
    stage = trained.specs[0]
    flat = frames.reshape(-1, *frames.shape[2:])
    export_onnx(encoder, [torch.from_numpy(flat[:2])], stage.inputs, stage.outputs, path)
    model = onnx.load(str(path))
    ranges = ranges_from_statistics(
        observe_statistics(model, [{"frames": flat}]), "minmax", symmetric=profile.symmetric
    )
    nodes = {node.input[1].removesuffix(".weight"): node for node in model.graph.node if node.op_type == "Conv"}
    int8 = qdq_from_float(model, ranges, profile, keep_float=[nodes[path].name for path in keep_float])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(int8.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Rounded(session, {path: ranges[node.input[0]] for path, node in nodes.items()})


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
@pytest.mark.parametrize("keep_float", [(), ("layers.0", "layers.2")], ids=["all int8", "two in float"])
def test_it_trains_on_what_the_int8_graph_computes(
    make_case: Callable[..., Case], small_encoder: Make, profile: Profile, keep_float: tuple[str, ...], tmp_path: Path
) -> None:
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def __init__(self, head: nn.Module) -> None:
            super().__init__()
            self.head = head

        def forward(self, features: Tensor) -> tuple[Tensor, ...]:
            seen.append(features.detach())
            answer: tuple[Tensor, ...] = self.head(features)
            return answer

    case = make_case(small_encoder(outlier=20))
    int8 = rounded(case.merged, case.trained, case.clips, profile, tmp_path / "small.onnx", keep_float)
    fine_tune_by_qat(
        case.merged,
        Watching(case.head),
        int8.ranges,
        profile,
        keep_float,
        case.clips[:1],
        dataclasses.replace(SHORT, steps=1),
    )
    teacher, student = seen
    expected = int8.features(case.clips[:1])
    rounding = float((teacher - expected).abs().max())
    assert rounding > 1e-4
    # The profiles for processors round biases and the average, too; where weights have 7 bits, their steps are twice as
    # coarse.
    assert float((student - expected).abs().max()) < (0.2 if profile.largest_weight < 127 else 0.1) * rounding


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_it_raises_the_agreement_where_8_bits_hurt(
    make_case: Callable[..., Case], small_encoder: Make, clips: Make, profile: Profile, tmp_path: Path
) -> None:
    case = make_case(small_encoder(outlier=100), samples=96)
    unseen = clips(256, 3, SIDE, seed=9)
    before = rounded(case.merged, case.trained, case.clips, profile, tmp_path / "before.onnx")
    options = QatOptions(steps=60, lr=5e-3, batch_size=48)
    encoder, head = fine_tune_by_qat(case.merged, case.head, before.ranges, profile, (), case.clips, options)
    after = rounded(encoder, case.trained, case.clips, profile, tmp_path / "after.onnx")
    with torch.inference_mode():
        wanted = case.head(case.merged(torch.from_numpy(unseen).flatten(0, 1)).unflatten(0, unseen.shape[:2]))[
            0
        ].argmax(1)
        plain, healed = (
            float((model(graph.features(unseen))[0].argmax(1) == wanted).float().mean())
            for model, graph in ((case.head, before), (head, after))
        )
    assert plain < 0.7
    assert healed > plain + 0.1


def test_the_same_seed_gives_the_same_weights(small: Case) -> None:
    (first, first_head), (again, again_head), (other, _) = (
        small.finished(dataclasses.replace(SHORT, seed=seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert all(torch.equal(value, again_head.state_dict()[name]) for name, value in first_head.state_dict().items())
    assert not all(torch.equal(value, other.state_dict()[name]) for name, value in first.state_dict().items())


def test_only_quantised_layers_are_trained(small: Case) -> None:
    encoder, head = small.finished(keep_float=("layers.0", "layers.2"))
    after = encoder.state_dict()
    moved = [name for name, value in small.merged.state_dict().items() if not torch.equal(value, after[name])]
    assert moved == ["layers.1.weight", "layers.3.weight"]
    assert any(not torch.equal(value, head.state_dict()[name]) for name, value in small.head.state_dict().items())


def test_keeping_a_module_keeps_the_layers_in_it_and_no_others() -> None:
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(11))
    ranges = {f"blocks.{i}.0": (0.0, 1.0) for i in range(11) if i != 4}
    assert list(layers_to_quantize(model, ranges, ["blocks.1"])) == [
        f"blocks.{i}.0" for i in range(11) if i not in (1, 4)
    ]
    with pytest.raises(SettingsError, match=r"no layer of Module is left to quantise; fix: keep fewer"):
        layers_to_quantize(model, ranges, ["blocks"])


@given(count=st.integers(1, 12), moments=st.integers(1, 4), batch=st.integers(1, 12), steps=st.integers(0, 10))
@settings(max_examples=50, deadline=None)
def test_every_clip_is_seen_equally_often(count: int, moments: int, batch: int, steps: int) -> None:
    numbered = np.arange(count, dtype=np.uint8)[:, None].repeat(moments, axis=1)
    options = QatOptions(steps=steps, batch_size=batch)
    batches = [one[:, 0].tolist() for one in batches_of(numbered, options, torch.Generator())]
    seen = np.bincount([index for one in batches for index in one], minlength=count)
    assert [len(one) for one in batches] == [min(max(1, batch // moments), count)] * steps
    assert seen.max() - seen.min() <= 1


def test_a_broken_loss_is_one_line(small: Case) -> None:
    with torch.no_grad():
        small.merged.get_parameter("layers.3.bias")[0] = float("nan")
    with pytest.raises(
        SettingsError, match=r"step 1 of quantisation-aware fine-tuning has a loss that is not finite; fix: "
    ):
        small.finished()


def test_nothing_to_train_on(small: Case) -> None:
    with pytest.raises(DataError, match="no clip"):
        fine_tune_by_qat(small.merged, small.head, small.ranges, PROFILES["cpu"], (), small.clips[:0], SHORT)


@pytest.mark.parametrize("broken", [{"steps": -1}, {"lr": 0.0}, {"lr": float("nan")}, {"batch_size": 0}, {"rank": 0}])
def test_options_that_make_no_sense(broken: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="allowed: steps ≥ 0"):
        QatOptions(**{"steps": 1, **broken})


def test_progress_is_told(small: Case) -> None:
    told: list[tuple[str, int, int]] = []
    fine_tune_by_qat(
        small.merged,
        small.head,
        small.ranges,
        PROFILES["cpu"],
        (),
        small.clips,
        SHORT,
        lambda *progress: told.append(progress),
    )
    assert told == [("quantisation-aware fine-tuning", step, 3) for step in range(3)]


def test_labels_that_hold_in_any_number_are_matched_one_by_one() -> None:
    """A shift common to all logits means nothing if exactly one label holds, and counts if any number can hold."""
    teacher = torch.tensor([[2.0, -1.0, 0.5]]), torch.zeros(1, 1, 2).normal_(generator=torch.Generator().manual_seed(0))
    moved = (teacher[0] + 1).requires_grad_()
    losses = {places: _loss((teacher[1], (moved,)), (teacher[1], (teacher[0],)), places) for places in ((), (0,))}
    assert float(losses[()].detach()) == pytest.approx(0, abs=1e-6)
    probabilities, wanted = moved.detach().sigmoid(), teacher[0].sigmoid()
    expected = sum(
        float((q * (q / p).log()).sum()) for q, p in ((wanted, probabilities), (1 - wanted, 1 - probabilities))
    )
    assert float(losses[(0,)].detach()) == pytest.approx(expected, rel=1e-4)
    torch.autograd.backward(losses[(0,)])
    assert moved.grad is not None and (moved.grad > 0).all()
