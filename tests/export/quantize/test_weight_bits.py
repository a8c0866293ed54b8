"""Tests of the choice of bits, groups and float32 blocks by a judge's measurements, and of its bounded cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vidrisk.calibration.files import save_graph
from vidrisk.calibration.graph import attribute
from vidrisk.calibration.journal import Journal
from vidrisk.calibration.nbits import WeightGrid
from vidrisk.calibration.points import CLOSEST, FASTEST, NOT_FASTER, Budget, Outcome
from vidrisk.calibration.tensors import size_bytes
from vidrisk.calibration.weight_only import Packing, WeightPacker
from vidrisk.export.quantize import weight_bits
from vidrisk.export.quantize.quantized import Quantized
from vidrisk.export.quantize.weight_bits import pack_stage
from vidrisk.runtimes.contract.errors import DataError, RuntimeFailure

SIDE, LAYERS, SAMPLES = 128, 9, 1000
NEVER = 1e9


def quiet(what: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Counted:
    """A judge that counts its calls: every packed product costs samples, by bits and group, and takes its time.

    Attributes:
        noise: lost samples of a product, by (bits, group); those whose names match ``weak`` lose ten times as many.
        seconds_of: relative time of a product, by bits; 1 is floating point's.
    """

    noise: Callable[[int, int], float]
    seconds_of: Callable[[int], float] = lambda bits: 0.8
    weak: str = "-"
    runtime: str = "onnxruntime"
    others: tuple[Any, ...] = ()
    rival: Any = None
    asked: list[str] = field(default_factory=list)

    @property
    def identity(self) -> dict[str, Any]:
        return {"runtime": self.runtime}

    def _lost(self, model: onnx.ModelProto) -> float:
        lost = 0.0
        for node in model.graph.node:
            if node.op_type == "MatMulNBits":
                each = self.noise(attribute(node, "bits", 0), attribute(node, "block_size", 0))
                lost += each * (10 if re.search(self.weak, node.name) else 1)
        return lost

    def probe(self, model: onnx.ModelProto) -> tuple[float, float]:
        self.asked.append("probe")
        return self._lost(model) / SAMPLES, self._lost(model) / SAMPLES

    def sqnr_db(self, model: onnx.ModelProto) -> float:
        return float(-10 * np.log10(self.probe(model)[0] + 1e-9))

    def outcome(self, model: onnx.ModelProto) -> Outcome:
        self.asked.append("outcome")
        lost = min(round(self._lost(model)), SAMPLES)
        return Outcome("0" * lost + "1" * (SAMPLES - lost), ("-" * lost + "=" * (SAMPLES - lost),))

    def seconds(self, models: Sequence[onnx.ModelProto | None], rounds: int) -> list[list[float]]:
        self.asked.append("seconds")
        return [
            [
                sum(
                    self.seconds_of(attribute(node, "bits", 0)) if node.op_type == "MatMulNBits" else 1
                    for node in model.graph.node
                )
                if model
                else float(LAYERS)
            ]
            * rounds
            for model in models
        ]


@pytest.fixture
def packer(tmp_path: Path) -> WeightPacker:
    return packer_of(["mlp"] * LAYERS, tmp_path)


def packer_of(kinds: Sequence[str], tmp_path: Path) -> WeightPacker:
    """Return a packer of a graph with one product per layer, each of the given kind."""
    names = ["x", *(f"h{i}" for i in range(1, LAYERS)), "y"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"layers.{i}.{kind}/MatMul")
        for i, kind in enumerate(kinds)
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SIDE]) for name in ("x", "y")]
    weights = [
        numpy_helper.from_array(np.random.default_rng(i).standard_normal((SIDE, SIDE), np.float32), f"w{i}")
        for i in range(LAYERS)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    save_graph(model, tmp_path / "text.onnx")
    return WeightPacker(model, tmp_path / "weights")


def search(
    packer: WeightPacker, judge: Counted, tmp_path: Path, lost: int = 10, seconds: float = NEVER, **settings: Any
) -> Quantized:
    budget = Budget((lost + 0.5) / SAMPLES * 100, min_agreement=0, seconds=seconds, is_strict=True)
    judges: Any = {"onnxruntime": judge}
    return pack_stage(tmp_path / "text.onnx", packer, judges, budget, tmp_path / "cache", quiet, **settings)


def bits_of(found: Quantized) -> list[int]:
    return [attribute(node, "bits", 32) for node in found.model.graph.node]


def group_of(found: Quantized) -> int:
    return int(
        next(attribute(node, "block_size", 0) for node in found.model.graph.node if node.op_type == "MatMulNBits")
    )


def test_of_equally_fast_ones_the_smallest_is_taken(packer: WeightPacker, tmp_path: Path) -> None:
    found = search(packer, Counted(lambda bits, group: 0), tmp_path)
    assert bits_of(found) == [4] * LAYERS and group_of(found) == 128 and found.precision == "int4" and found.is_mixed
    assert [(point.recipe, point.inside) for point in found.search.points] == [
        ("int4 weights in groups of 128", True),
        ("int8 weights in groups of 128", True),
    ]
    assert found.search.reason == FASTEST and found.search.best.recipe == "int4 weights in groups of 128"
    assert [str(trial.recipe) for trial in found.trials if trial.chosen] == ["int4 weights in groups of 128"]
    assert found.search.best.size_bytes == sum(map(size_bytes, found.model.graph.initializer))


def test_a_width_that_is_faster_beyond_chance_is_taken(packer: WeightPacker, tmp_path: Path) -> None:
    found = search(packer, Counted(lambda bits, group: 0, lambda bits: 0.9 if bits == 4 else 0.5), tmp_path)
    assert bits_of(found) == [8] * LAYERS and found.precision == "int8-weight-only" and not found.is_mixed


def test_groups_are_as_small_as_the_budget_asks(packer: WeightPacker, tmp_path: Path) -> None:
    found = search(
        packer, Counted(lambda bits, group: group / 40 if bits == 4 else 0), tmp_path, lost=round(64 / 40 * LAYERS)
    )
    assert bits_of(found) == [4] * LAYERS and group_of(found) == 64
    assert [str(trial.recipe) for trial in found.trials] == [
        "int4 weights in groups of 128",
        "int4 weights in groups of 64",
        "int8 weights in groups of 128",
    ]


def test_what_8_bits_alone_can_do_is_done_in_8_bits(packer: WeightPacker, tmp_path: Path) -> None:
    found = search(packer, Counted(lambda bits, group: 50 if bits == 4 else 1), tmp_path)
    assert bits_of(found) == [8] * LAYERS and not found.search.best.float_blocks


def test_layers_that_cost_most_stay_in_float32(packer: WeightPacker, tmp_path: Path) -> None:
    """One layer that loses ten times as much as the others in either width stays in float32."""
    judge = Counted(lambda bits, group: 3 if bits == 4 else 1.5, weak=r"layers\.4\.")
    found = search(packer, judge, tmp_path, lost=8 * 3)
    assert (
        found.search.best.float_blocks == ("layers.4",) and found.search.best.recipe == "int4 weights in groups of 32"
    )
    assert bits_of(found) == [4] * 4 + [32] + [4] * 4
    assert [row.block for row in found.search.rows if row.precision == "float"] == ["layers.4"]
    assert {row.precision for row in found.search.rows} == {"float", "int4"}
    assert found.search.rows[4].noise_share == pytest.approx(30 / 54)
    assert found.search.best.in_words == "int4 weights in groups of 32, 1 blocks in floating point"


def test_kinds_of_layers_that_cost_most_are_in_8_bits(tmp_path: Path) -> None:
    """Three products of one kind lose ten times as much in 4 bits as the others, and get 8 bits."""
    packer = packer_of(["up", "gate", "down"] * 3, tmp_path)
    assert list(packer.kinds) == ["layers.*.up", "layers.*.gate", "layers.*.down"]
    judge = Counted(lambda bits, group: 2 if bits == 4 else 0, weak="down")
    found = search(packer, judge, tmp_path, lost=6 * 2)
    assert bits_of(found) == [4, 4, 8] * 3 and group_of(found) == 128 and found.precision == "int4"
    assert (
        found.search.best.recipe == "int4 weights in groups of 128, int8 in layers.*.down"
        and not found.search.best.float_blocks
    )
    assert found.search.best.size_bytes == sum(map(size_bytes, found.model.graph.initializer))
    tried = [str(trial.recipe) for trial in found.trials]
    assert "int4 weights in groups of 32, int8 in layers.*.down" in tried and "int8 weights in groups of 128" in tried
    judge.asked.clear()
    assert search(packer, judge, tmp_path, lost=6 * 2).search == found.search and judge.asked == []
    refused = search(packer, judge, tmp_path, lost=6 * 2, refused={found.search.best.choice})
    assert refused.search.best.recipe == "int4 weights in groups of 64, int8 in layers.*.down"


def test_kinds_take_turns_until_it_is_enough(tmp_path: Path) -> None:
    packer = packer_of(["up", "gate", "down"] * 3, tmp_path)
    judge = Counted(lambda bits, group: 2 if bits == 4 else 0, weak="down|gate")
    found = search(packer, judge, tmp_path, lost=3 * 2)
    assert bits_of(found) == [4, 8, 8] * 3
    alone = search(packer, Counted(judge.noise, weak=judge.weak, runtime="other"), tmp_path, lost=1)
    assert bits_of(alone) == [8] * LAYERS  # all kinds in 8 bits are 8 bits


def test_a_refused_choice_gives_way_to_another(packer: WeightPacker, tmp_path: Path) -> None:
    judge = Counted(lambda bits, group: 0)
    first = search(packer, judge, tmp_path)
    second = search(packer, judge, tmp_path, refused={first.search.best.choice: "worse"})
    assert (bits_of(second), group_of(second)) == ([4] * LAYERS, 64)
    refused = {(f"int4 weights in groups of {group}",) for group in (128, 64, 32)}
    assert bits_of(search(packer, judge, tmp_path, refused=refused)) == [8] * LAYERS


def test_what_is_measured_once_is_not_measured_again(packer: WeightPacker, tmp_path: Path) -> None:
    judge = Counted(lambda bits, group: 3 if bits == 4 else 1.5, weak=r"layers\.4\.")
    first = search(packer, judge, tmp_path, lost=8 * 3)
    judge.asked.clear()
    again = search(packer, judge, tmp_path, lost=8 * 3)
    assert judge.asked == [] and again.search == first.search


def test_what_is_known_is_not_packed_again_but_for_the_result(
    packer: WeightPacker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search(packer, Counted(lambda bits, group: 0), tmp_path)
    made, pack = [], packer.pack

    def packed(packing: Packing, *kept: Any) -> onnx.ModelProto:
        made.append(str(packing))
        return pack(packing, *kept)

    monkeypatch.setattr(packer, "pack", packed)
    again = search(packer, Counted(lambda bits, group: 0), tmp_path)
    assert again.search == first.search and made == [first.search.best.recipe]


def test_noise_of_a_kind_is_measured_once_for_each_grid(packer: WeightPacker) -> None:
    judge: Any = Counted(lambda bits, group: group)
    found = weight_bits._Search(packer, {}, judge, Budget(1, 0, NEVER), Journal(), quiet, ())
    (kind,) = packer.kinds
    for group in (128, 32, 128):
        assert found._noise(WeightGrid(4, group), kind) == pytest.approx(LAYERS * group / SAMPLES)
    assert judge.asked == ["probe"] * 2


def test_without_time_each_width_is_judged_once_at_most(packer: WeightPacker, tmp_path: Path) -> None:
    judge = Counted(lambda bits, group: 50)
    found = search(packer, judge, tmp_path, seconds=0)
    assert judge.asked.count("outcome") == 2 and found.search.reason == CLOSEST and judge.asked.count("probe") == 1
    quick = Counted(lambda bits, group: 0, runtime="other")
    assert bits_of(search(packer, quick, tmp_path, seconds=0)) == [4] * LAYERS and quick.asked.count("outcome") == 1


def test_what_is_not_faster_is_said_and_the_smallest_of_it_taken(packer: WeightPacker, tmp_path: Path) -> None:
    found = search(packer, Counted(lambda bits, group: 0, lambda bits: 1.0), tmp_path)
    assert found.search.reason == NOT_FASTER and bits_of(found) == [4] * LAYERS


def test_a_grid_that_a_runtime_misreads_is_left_out_and_the_log_says_why(
    packer: WeightPacker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weight_bits, "reading_fault", lambda runtime, grid: "no zero points" if grid.bits == 4 else "")
    assert bits_of(search(packer, Counted(lambda bits, group: 0), tmp_path)) == [8] * LAYERS
    assert "int4 weights in groups of 64 are left out: onnxruntime: no zero points" in caplog.text
    monkeypatch.setattr(weight_bits, "reading_fault", lambda runtime, grid: "no")
    with pytest.raises(RuntimeFailure, match="the runtimes here read no packed weights"):
        search(packer, Counted(lambda bits, group: 0), tmp_path)


def test_a_graph_without_weights_to_pack_is_refused(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    with pytest.raises(DataError, match=r"text\.onnx has no weights to pack; .*do without INT8"):
        search(WeightPacker(model, tmp_path), replace(Counted(lambda bits, group: 0)), tmp_path)
