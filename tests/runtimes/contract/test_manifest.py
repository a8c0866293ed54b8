"""Tests that ``bundle.json`` can grow.

Older files are read, newer minor versions accepted, and a contradiction is an error of one line.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manifests import rewrite_manifest

from vidrisk.runtimes import Bundle, Contract, Manifest, Stage, TensorSpec, Variant, open_runner, write_bundle
from vidrisk.runtimes.contract.bundle import CONSTANTS, MANIFEST
from vidrisk.runtimes.contract.constants import write_constants
from vidrisk.runtimes.contract.errors import BundleError
from vidrisk.runtimes.contract.manifest import SCHEMA_MINOR
from vidrisk.runtimes.contract.stages import check_stages
from vidrisk.runtimes.golden import GOLDEN, read_golden

OLD = Path(__file__).parents[1] / "fixtures" / "schema1"


@pytest.mark.parametrize("name", ["clips", "photos"])
def test_a_bundle_of_schema_1_is_read_into_stages(name: str) -> None:
    bundle = Bundle.open(OLD / name)
    assert [(stage.name, stage.per) for stage in bundle.stages] == [("encoder", "frame"), ("head", "window")]
    assert bundle.stages[0].macs == 8 * 8 * 3 * 4
    for variant in bundle.passed:
        assert bundle.manifest.variants[variant].precision == {"encoder": variant, "head": "fp32"}
        assert bundle.manifest.variants[variant].engines == "any"
    assert bundle.constants() == {}
    golden = read_golden(bundle)  # whose contract digest is the one of then
    assert golden is not None and golden.told.contract == bundle.contract.digest_of_schema_1 != bundle.contract.digest


@pytest.mark.parametrize("name", ["clips", "photos"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_bundle_of_schema_1_answers_as_it_did(name: str, runtime: str) -> None:
    bundle = Bundle.open(OLD / name)
    golden = read_golden(bundle)
    assert golden is not None
    for variant in bundle.passed:
        with (
            open_runner(bundle, "encoder", runtime=runtime, variant=variant) as encoder,
            open_runner(bundle, "head", runtime=runtime, variant=variant) as head,
        ):
            flat = golden.frames.reshape(-1, *golden.frames.shape[2:])
            features = encoder.infer({"frames": flat})["features"].reshape(
                len(golden.frames), bundle.contract.frames, -1
            )
            answers = head.infer({"features": features})
        for target, logits in golden.logits(variant).items():
            np.testing.assert_allclose(answers[f"{target}_logits"], logits, atol=1e-4 if variant == "fp32" else 0.05)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["graphs"].pop("head"), "not a manifest of schema 1: .*graphs encoder"),
        (lambda d: d["graphs"].update(tail={}), "graphs encoder, head, tail"),
        (lambda d: d.pop("graphs"), "is not a manifest of schema 1: KeyError"),
        (lambda d: d.update(graphs=None), "is not a manifest of schema 1: TypeError"),
        (lambda d: d.update(variants=[]), "is not a manifest of schema 1: AttributeError"),
        (lambda d: d.update(sneaky=1), "sneaky"),
        (lambda d: d["contract"].update(encoder="window"), "encoder"),
    ],
)
def test_a_manifest_of_schema_1_that_is_none(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    shutil.copytree(OLD / "clips", tmp_path / "old")
    path = tmp_path / "old" / MANIFEST
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))
    with pytest.raises(BundleError, match=said) as caught:
        Bundle.open(tmp_path / "old")
    assert len(str(caught.value).splitlines()) == 1


def strange(described: dict[str, Any]) -> None:
    """Return unknown keys of a future version, at every level."""
    described["tomorrow"] = {"a": [1]}
    for part in (
        described["contract"],
        described["contract"]["pixel"],
        described["contract"]["time"],
        described["contract"]["targets"][0],
        described["stages"][0],
        described["stages"][1]["inputs"][0],
        described["variants"]["int8"],
        described["files"]["head.fp32.onnx"],
    ):
        part["tomorrow"] = 1
    described["variants"]["int4"] = described["variants"]["int8"]


def test_unknown_keys_of_a_newer_minor_version_are_ignored(
    make_bundle: Callable[..., Bundle], contract: Contract
) -> None:
    made = make_bundle()
    path = rewrite_manifest(
        made, lambda described: (strange(described), described.update(schema_minor=SCHEMA_MINOR + 1))
    )
    opened = Bundle.open(path)
    assert opened.contract == contract and opened.stages == made.stages
    assert opened.manifest.variants == made.manifest.variants and opened.manifest.schema_minor == SCHEMA_MINOR + 1
    with open_runner(opened, "encoder", runtime="onnxruntime", variant="int8") as runner:
        assert runner.infer({"frames": np.zeros((1, *contract.pixel.frame_shape), np.uint8)})["features"].shape == (
            1,
            6,
        )


def test_golden_samples_of_a_newer_minor_version_are_read(tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(OLD / "clips", tmp_path / "b"))
    manifest = bundle.manifest.model_copy(update={"schema_minor": SCHEMA_MINOR + 1})
    with zipfile.ZipFile(bundle.root / GOLDEN) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    described = json.loads(entries["golden.json"])
    described["variants"]["int4"] = {**described["variants"]["int8"], "tomorrow": 1}
    entries["golden.json"] = json.dumps({**described, "tomorrow": 1}).encode()
    with zipfile.ZipFile(bundle.root / GOLDEN, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    golden = read_golden(Bundle(bundle.root, manifest, bundle.digest))
    assert golden is not None and set(golden.told.variants) == {"fp32", "int8"}
    with pytest.raises(BundleError, match=r"golden\.json: .*(tomorrow|int4)"):
        read_golden(bundle)


def test_packed_weights_are_precisions_of_a_stage(make_bundle: Callable[..., Bundle]) -> None:
    def change(described: dict[str, Any]) -> None:
        described["variants"]["int8"]["precision"] = {"encoder": "int8-weight-only", "head": "int4"}
        described["variants"]["fp32"]["precision"]["encoder"] = "int8-weight-only"

    variants = Bundle.open(rewrite_manifest(make_bundle(), change)).manifest.variants
    assert (variants["int8"].lowest_precision, variants["fp32"].lowest_precision) == ("int4", "int8-weight-only")


def test_a_bundle_of_schema_2_0_is_read(make_bundle: Callable[..., Bundle]) -> None:
    made = make_bundle()
    opened = Bundle.open(rewrite_manifest(made, lambda described: described.update(schema_minor=0)))
    assert opened.manifest.schema_minor == 0 and opened.manifest.variants == made.manifest.variants


def test_unknown_keys_of_this_minor_version_are_refused(make_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match=r"tomorrow|int4"):
        Bundle.open(rewrite_manifest(make_bundle(), strange))


def test_what_a_newer_minor_version_lacks_is_refused(make_bundle: Callable[..., Bundle]) -> None:
    def change(described: dict[str, Any]) -> None:
        described["schema_minor"] = SCHEMA_MINOR + 1
        del described["contract"]["targets"]

    with pytest.raises(BundleError, match=r"contract\.targets"):
        Bundle.open(rewrite_manifest(make_bundle(), change))


def take_constant(stage: dict[str, Any], name: str) -> None:
    stage["inputs"].append({"name": name, "dtype": "float32", "shape": [3]})
    stage["constants"] = [name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stages: stages[0].update(per="clip"), "stages.0.per: .*not 'clip'"),
        (
            lambda stages: stages[1]["inputs"][0]["shape"].__setitem__(2, 7),
            "stage 'head' takes .*7.*, and stage 'encoder' gives",
        ),
        (
            lambda stages: stages[1]["inputs"][0].update(dtype="float16"),
            "stage 'head' takes .*float16.*, and stage 'encoder' gives",
        ),
        (
            lambda stages: stages[1]["inputs"][0].update(name="other"),
            "stage 'head' takes 'other', which no earlier stage gives",
        ),
        (lambda stages: stages[0].update(per="window"), "stage 'encoder' takes .*, and the contract gives"),
        (lambda stages: stages.pop(), "last stage 'encoder' gives"),
        (lambda stages: stages.clear(), "a model without stages"),
        (lambda stages: stages[0].update(constants=["frames"]), "constant TensorSpec"),
        (lambda stages: stages[0].update(name="../x"), "stages.0.name"),
        (
            lambda stages: take_constant(stages[1], "frames"),
            "stage 'head' has a constant 'frames', which is the name of the pixels",
        ),
        (
            lambda stages: take_constant(stages[0], "action_logits"),
            "stage 'head' gives 'action_logits', which is a constant",
        ),
    ],
)
def test_stages_that_do_not_meet_are_one_line(
    make_bundle: Callable[..., Bundle], change: Callable[[list[Any]], None], said: str
) -> None:
    with pytest.raises(BundleError, match=said) as caught:
        Bundle.open(rewrite_manifest(make_bundle(), lambda described: change(described["stages"])))
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def with_constants(
    graphs: dict[str, Stage], contract: Contract, onnx_files: dict[str, Path], tmp_path: Path
) -> Callable[..., Bundle]:
    """Return a bundle whose head takes the constant ``bias``, float32[3], from a file with the given content."""

    def make(arrays: dict[str, Any] | None) -> Bundle:
        head = graphs["head"]
        stages = (
            graphs["encoder"],
            head.model_copy(
                update={"inputs": (*head.inputs, TensorSpec("bias", "float32", (3,))), "constants": ("bias",)}
            ),
        )
        check_stages(stages, contract)
        files = {"encoder.onnx": onnx_files["encoder"], "head.onnx": onnx_files["head"]}
        if arrays is not None:
            write_constants(tmp_path / CONSTANTS, arrays)
            files[CONSTANTS] = tmp_path / CONSTANTS
        variant = Variant(
            files={"encoder": "encoder.onnx", "head": "head.onnx"},
            precision={"encoder": "fp32", "head": "fp32"},
            passed=True,
        )
        return write_bundle(
            tmp_path / "b",
            Manifest(
                contract=contract,
                stages=stages,
                variants={"fp32": variant},
                files={},
                constants=CONSTANTS if arrays is not None else None,
            ),
            files,
        )

    return make


def test_constants_are_read_by_the_name_of_the_input(with_constants: Callable[..., Bundle]) -> None:
    bias = np.array([1, 2, 3], np.float32)
    constants = with_constants({"bias": bias}).constants()
    assert list(constants) == ["bias"] and constants["bias"].dtype == np.float32
    np.testing.assert_array_equal(constants["bias"], bias)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (None, "its stages take constants, but no sealed file holds them"),
        ({}, "lacks 'bias', which stage 'head' takes; allowed: float32"),
        ({"other": np.zeros(3, np.float32)}, "lacks 'bias'"),
        (
            {"bias": np.zeros(4, np.float32)},
            r"'bias' in constants.safetensors is float32\[4\], but stage 'head' takes float32\[3\]",
        ),
        ({"bias": np.zeros(3, np.float16)}, r"is float16\[3\], but stage 'head' takes float32\[3\]"),
    ],
)
def test_constants_that_do_not_fit_are_one_line(
    with_constants: Callable[..., Bundle], arrays: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=said) as caught:
        with_constants(arrays)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "b").exists()


def test_a_file_that_holds_no_constants(with_constants: Callable[..., Bundle]) -> None:
    from vidrisk.runtimes.contract.constants import read_constants

    bundle = with_constants({"bias": np.zeros(3, np.float32)})
    for content in (b"", b"PK\x03\x04", b"\xff" * 64):
        (bundle.root / CONSTANTS).write_bytes(content)
        with pytest.raises(BundleError, match="cannot be read as constants"):
            read_constants(bundle.root / CONSTANTS, bundle.stages)
        with pytest.raises(BundleError, match="was changed"):
            Bundle.open(bundle.root)
