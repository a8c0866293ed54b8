"""Every family goes through the real export to a bundle.

The hops are exact, the vision stage is in INT8, and each runtime gives torch's answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from vlm_runs import Trained

from vidrisk.calibration.half import half_from_float
from vidrisk.calibration.half_check import check_half
from vidrisk.export.convert.merge import merge_trained
from vidrisk.export.gate.report import GateReport
from vidrisk.export.trained import ExportOptions
from vidrisk.jobs.export import export_run, stages_from_model
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.bundle import Bundle
from vidrisk.runtimes.registry import file_runtimes
from vidrisk.runtimes.tensorrt.api import find_installed_kinds
from vidrisk.runtimes.tensorrt.build.builder import BuildOptions
from vidrisk.runtimes.tensorrt.build.engines import build_engines
from vidrisk.runtimes.tensorrt.build.parse import parse_graphs
from vidrisk.runtimes.tensorrt.cache import EngineStore

pytestmark = pytest.mark.slow(minutes=3)
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "composed", "photos of qwen2_5_vl", "photos of qwen3_vl")
PER = {
    "qwen2_5_vl": ("group", 2),
    "qwen3_vl": ("group", 2),
    "composed": ("frame", 1),
    "photos of qwen2_5_vl": ("frame", 1),
    "photos of qwen3_vl": ("frame", 1),
}
every_family = pytest.mark.parametrize("case", FAMILIES)


@dataclass(frozen=True)
class Exported:
    trained: Trained
    bundle: Bundle
    report: GateReport

    @property
    def quantized(self) -> str:
        return next(name for name in self.bundle.passed if name != "fp32")

    def feeds(self, batch: int = 2) -> dict[str, dict[str, Any]]:
        """Return the inputs of each stage, as the float stages before it compute them in torch."""
        frames = self.trained.frames(batch)
        vision, text, head = stages_from_model(self.trained.run.load_classifier(), self.bundle.contract)
        group = vision.stage.group
        pixels = frames.flatten(0, 1) if group == 1 else frames.reshape(-1, group, *frames.shape[2:])
        with torch.inference_mode():
            visual = vision.source(pixels)
            visual = visual.reshape(batch, -1, *visual.shape[1:])
            state = text.source(visual, *(torch.from_numpy(text.constants[name]) for name in text.stage.constants))
        seen = {"visual": visual.numpy()} if len(head.stage.inputs) == 2 else {}
        return {
            "vision": {"frames": pixels.numpy()},
            "text": {"visual": visual.numpy(), **text.constants},
            "head": {"state": state.numpy(), **seen},
        }


@pytest.fixture(scope="session")
def exported(trained: Callable[[str], Trained], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    @functools.cache
    def make(case: str) -> Exported:
        was = trained(case)
        options = ExportOptions(
            int8=True, quantize=frozenset({"vision"}), max_drop=60, max_confidence_drop=100, search_s=0, allow_drop=True
        )
        return Exported(was, *export_run(was.run.root, tmp_path_factory.mktemp("bundles") / "b", options))

    return make


@every_family
def test_every_hop_is_exact_and_the_vision_stage_is_in_int8(exported: Callable[[str], Exported], case: str) -> None:
    bundle, report = exported(case).bundle, exported(case).report
    assert [stage.name for stage in bundle.stages] == ["vision", "text", "head"]
    vision, text, head = bundle.stages
    assert (vision.per, vision.group) == PER[case] and (text.per, head.per) == ("window", "window")
    assert text.constants == ("prompt", "positions", "past") and (len(head.inputs) == 2) is (case == "qwen3_vl")
    precision = bundle.manifest.variants[exported(case).quantized].precision
    assert precision["vision"] in ("int8", "mixed") and precision["text"] == precision["head"] == "fp32"
    exact = [hop for hop in report.hops if hop.variant in ("merged", "fp32")]
    assert {hop.runtime for hop in exact} == {"torch", *file_runtimes()}
    assert all(hop.passed and hop.largest_logit_difference < 1e-4 for hop in exact)
    assert all(hop.passed for hop in report.hops)


@every_family
def test_each_runtime_answers_as_torch_does(exported: Callable[[str], Exported], case: str) -> None:
    from vidrisk.inference.model import open_classifier

    was = exported(case)
    expected = was.trained.logits().numpy()
    (target,) = was.bundle.contract.targets
    for runtime in file_runtimes():
        for variant, tolerance in (("fp32", 1e-4), (was.quantized, 0.5 * np.ptp(expected))):
            with open_classifier(was.bundle.root, runtime=runtime, variant=variant, threads=1) as classifier:
                found = classifier.logits_from_frames(was.trained.frames().numpy(), 4)[target.name]
            np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0, err_msg=f"{runtime} {variant}")


@every_family
def test_merging_for_an_export_leaves_the_model_alone(trained: Callable[[str], Trained], case: str) -> None:
    model = trained(case).run.load_classifier()
    before = trained(case).logits(model)
    for stage in stages_from_model(model, trained(case).run.contract):
        merged = merge_trained(stage.source)
        assert not any("lora" in name or "token_adapter" in name for name, _ in merged.named_modules())
    assert torch.equal(trained(case).logits(model), before)


@every_family
@pytest.mark.skipif(not find_installed_kinds(), reason="no TensorRT is installed: pip install 'vidrisk[tensorrt-rtx]'")
def test_tensorrt_reads_every_stage_and_half_precision_keeps_it(
    exported: Callable[[str], Exported], tmp_path: Path, case: str
) -> None:
    was = exported(case)
    paths = []
    for name, feed in was.feeds(8).items():
        single = was.bundle.path(name, "fp32")
        model = onnx.load(str(single))
        assert check_half(model, [feed]).cosine >= 0.999, name
        half = tmp_path / f"{name}.onnx"
        onnx.save_model(half_from_float(model), str(half))
        paths += [single, half]
    parsed = parse_graphs(paths, lambda what, done, total: None)
    assert parsed.libraries and not parsed.refusals


@pytest.mark.slow(minutes=2)
@pytest.mark.skipif("tensorrt-rtx" not in find_installed_kinds(), reason="pip install 'vidrisk[tensorrt-rtx]'")
def test_a_bundle_for_any_target_has_an_engine_of_every_stage(
    trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    was = trained("qwen2_5_vl")
    options = ExportOptions(
        int8=True, fp16=True, target="any", max_drop=60, max_confidence_drop=100, search_s=0, allow_drop=True
    )
    bundle, report = export_run(was.run.root, tmp_path / "b", options)
    assert all(hop.passed for hop in report.hops)
    halves = bundle.manifest.variants["fp16"].precision
    assert halves["vision"] == halves["text"] == "fp16"
    of_tensorrt = next(each for each in bundle.manifest.variants.values() if each.engines == "tensorrt")
    assert of_tensorrt.precision["vision"] in ("int8", "mixed") and of_tensorrt.precision["text"] == "fp16"
    engines = build_engines(
        bundle,
        BuildOptions(compute_capabilities=("8.6",)),
        kind="tensorrt-rtx",
        store=EngineStore(tmp_path / "engines"),
    )
    assert {engine.stage for engine in engines if "fp16" in engine.variants} == {"vision", "text", "head"}


def test_a_photo_is_its_own_window(exported: Callable[[str], Exported], train: Callable[..., Trained]) -> None:
    was = exported("photos of qwen2_5_vl")
    assert was.bundle.contract.time is None and was.trained.frames().shape[1] == 1
    layout, constants = was.trained.model.fixed.layout, was.bundle.constants()
    assert layout.is_visual.sum() == 6
    assert constants["positions"].shape == (3, layout.length - layout.leading)
    assert constants["past"].shape == (
        3,
        2,
        2,
        layout.leading,
        16,
    )  # layers, keys and values, heads, tokens, width of a head


def test_weights_in_half_precision_are_exported_in_full(train: Callable[..., Trained], tmp_path: Path) -> None:
    """Weights that training held in half precision are read back and exported in float32."""
    was = train("composed", "vlm.weights=bfloat16")
    trainable = {p.dtype for p in was.model.parameters() if p.requires_grad}
    assert trainable == {torch.float32} and was.model.backbone.decoder.embed_tokens.weight.dtype == torch.bfloat16
    model = Run.open(was.run.root).load_classifier()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    expected = was.logits()
    torch.testing.assert_close(was.logits(model), expected, rtol=0, atol=0.05 * float(expected.abs().max()))
    bundle, report = export_run(was.run.root, tmp_path / "b", ExportOptions(max_drop=60, golden=False))
    assert bundle.passed == ("fp32",) and all(hop.passed for hop in report.hops if hop.variant != "trained")
