"""Tests of bundles: a damaged or changed one is refused; writing is complete or leaves nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from manifests import rewrite_manifest
from pydantic import ValidationError

from vidrisk.runtimes import Bundle, Contract, Manifest, Stage, Variant, open_runner, write_bundle
from vidrisk.runtimes.contract.bundle import MANIFEST, sha256_of
from vidrisk.runtimes.contract.errors import BundleError

MakeBundle = Callable[..., Bundle]
FLOAT = {"encoder": "fp32", "head": "fp32"}


def test_round_trip(
    make_bundle: MakeBundle, contract: Contract, graphs: dict[str, Stage], onnx_files: dict[str, Path]
) -> None:
    written = make_bundle()
    opened = Bundle.open(str(written.root))
    assert opened == written
    assert opened.contract == contract
    assert opened.contract.digest == contract.digest
    assert opened.stages == tuple(graphs.values())
    assert opened.path("encoder", "int8").read_bytes() == onnx_files["encoder"].read_bytes()
    assert opened.path("head", "int8") == opened.path("head", "fp32")
    assert opened.manifest.variants["int8"].temperature == {"action": 1.5}
    assert {p.name for p in written.root.iterdir()} == {
        "bundle.json",
        "encoder.fp32.onnx",
        "encoder.int8.onnx",
        "head.fp32.onnx",
    }
    assert opened.manifest.files["head.fp32.onnx"].sha256 == hashlib.sha256(onnx_files["head"].read_bytes()).hexdigest()
    assert opened.digest == sha256_of(written.root / MANIFEST)
    assert written.root.stat().st_mode & 0o777 == 0o755


def test_digest_tells_bundles_apart(make_bundle: MakeBundle) -> None:
    assert make_bundle("one").digest == make_bundle("two").digest
    assert make_bundle("three", refused=("int8",)).digest != make_bundle("four").digest


def test_a_bundle_can_be_moved(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    moved = shutil.move(bundle.root, tmp_path / "elsewhere with spaces 模型")
    assert Bundle.open(moved).digest == bundle.digest


def test_passed_comes_in_one_order(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(variants=("mixed", "int8", "fp16", "fp32"), refused=("fp16",))
    assert bundle.passed == ("fp32", "int8", "mixed")
    with pytest.raises(BundleError, match="no variant 'fp8'; allowed: mixed, int8, fp16, fp32"):
        bundle.path("encoder", "fp8")  # type: ignore[arg-type]


def test_one_changed_byte_is_found(make_bundle: MakeBundle) -> None:
    path = make_bundle().path("encoder", "int8")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"encoder\.int8\.onnx in a\.bundle was changed after export"):
        Bundle.open(path.parent)


def test_weights_beside_a_graph_are_sealed_with_it(
    make_bundle: MakeBundle, contract: Contract, graphs: dict[str, Stage], onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    files = {"head.onnx": onnx_files["head"]}
    for name, location in (
        ("good", "encoder.onnx.data"),
        ("foreign", "/etc/hostname"),
        ("outside", "../encoder.onnx.data"),
    ):
        model = onnx.load(str(onnx_files["encoder"]))
        for tensor in model.graph.initializer:
            if tensor.name == "weights":
                (tmp_path / "encoder.onnx.data").write_bytes(tensor.raw_data)
                onnx.external_data_helper.set_external_data(tensor, location)
                tensor.ClearField("raw_data")
        (tmp_path / name).write_bytes(model.SerializeToString())
    variant = Variant(files={"encoder": "encoder.onnx", "head": "head.onnx"}, precision=FLOAT, passed=True)
    manifest = Manifest(contract=contract, stages=tuple(graphs.values()), variants={"fp32": variant}, files={})
    for name in ("foreign", "outside"):
        beside = {"encoder.onnx": tmp_path / name, "encoder.onnx.data": tmp_path / "encoder.onnx.data"}
        with pytest.raises(
            BundleError, match=r"encoder\.onnx in .* takes weights from '.*', which the manifest does not seal"
        ):
            write_bundle(tmp_path / "b", manifest, files | beside)
        assert not (tmp_path / "b").exists()
    with pytest.raises(
        BundleError, match=r"takes weights from 'encoder\.onnx\.data', which the manifest does not seal"
    ):
        write_bundle(tmp_path / "b", manifest, files | {"encoder.onnx": tmp_path / "good"})
    bundle = write_bundle(
        tmp_path / "b",
        manifest,
        files | {"encoder.onnx": tmp_path / "good", "encoder.onnx.data": tmp_path / "encoder.onnx.data"},
    )
    assert bundle.manifest.files["encoder.onnx.data"].bytes > 0
    frames = np.random.default_rng(0).integers(0, 256, (2, *contract.pixel.frame_shape), np.uint8)
    results = [
        open_runner(each, "encoder", runtime=runtime, variant="fp32").infer({"frames": frames})["features"]
        for each in (bundle, make_bundle())
        for runtime in ("onnxruntime", "openvino")
    ]
    for result in results:
        np.testing.assert_allclose(result, results[0], rtol=1e-4, atol=1e-4)
    (bundle.root / "encoder.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"b lacks encoder\.onnx\.data; fix: copy the bundle again, whole"):
        Bundle.open(bundle.root)


def test_appended_bytes_are_found(make_bundle: MakeBundle) -> None:
    path = make_bundle().path("head", "fp32")
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match="was changed"):
        Bundle.open(path.parent)


def test_missing_and_linked_files_are_found(make_bundle: MakeBundle, tmp_path: Path) -> None:
    path = make_bundle().path("encoder", "fp32")
    moved = shutil.move(path, tmp_path / "away.onnx")
    with pytest.raises(BundleError, match=r"a\.bundle lacks encoder\.fp32\.onnx; fix: copy"):
        Bundle.open(path.parent)
    path.symlink_to(moved)  # the same bytes, but outside of the bundle
    with pytest.raises(BundleError, match="lacks"):
        Bundle.open(path.parent)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError, match="lacks"):
        Bundle.open(path.parent)


def test_no_bundle_there(tmp_path: Path) -> None:
    for root, why in ((tmp_path, r"has no bundle\.json"), (tmp_path / "absent", "does not exist")):
        with pytest.raises(BundleError, match=rf"is not a bundle: it {why}; fix: vidrisk export"):
            Bundle.open(root)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"3", b'"x"', b"{}", b"\xff\xfe\x00", b"PK\x03\x04", b"[" * 100_000]
)
def test_manifest_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="is not a manifest"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("version", [3, 0, -1, "2", None, 999, True, 1.0, 2.0])
def test_other_schema_versions_are_refused_before_anything_else_is_read(make_bundle: MakeBundle, version: Any) -> None:
    def change(described: dict[str, Any]) -> None:
        described["schema_version"] = version
        described["a key of tomorrow"] = {}

    with pytest.raises(
        BundleError, match=f"schema version {version!r}; allowed: 1, 2; fix: use the version of vidrisk that made it"
    ):
        Bundle.open(rewrite_manifest(make_bundle(), change))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", -1),
        ("temperature", 1e-320),
        ("temperature", 1e-4),
        ("temperature", 1e4),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "1e999"),
        ("temperature", None),
        ("temperature", [1]),
        ("threshold", -0.1),
        ("threshold", 1.1),
        ("threshold", float("nan")),
        ("threshold", "x"),
    ],
)
def test_temperatures_and_thresholds_that_make_no_sense_are_refused(
    make_bundle: MakeBundle, name: str, value: Any
) -> None:
    def change(described: dict[str, Any]) -> None:
        described["variants"]["fp32"][name] = {"action": value}

    with pytest.raises(BundleError, match=rf"variants\.fp32\.{name}\.action.*; fix: export the bundle again"):
        Bundle.open(rewrite_manifest(make_bundle(), change))


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 1e-3), ("temperature", 1e3), ("threshold", 0), ("threshold", 1)]
)
def test_temperatures_and_thresholds_at_their_bounds(make_bundle: MakeBundle, name: str, value: float) -> None:
    def change(described: dict[str, Any]) -> None:
        described["variants"]["fp32"][name] = {"action": value}

    assert Bundle.open(rewrite_manifest(make_bundle(), change))


def test_a_bundle_of_before_opens_and_has_no_thresholds(make_bundle: MakeBundle) -> None:
    def change(described: dict[str, Any]) -> None:
        for variant in described["variants"].values():
            for name in ("threshold", "label_threshold", "coverage", "no_threshold"):
                del variant[name]

    variant = Bundle.open(rewrite_manifest(make_bundle(), change)).manifest.variants["fp32"]
    assert (variant.threshold, variant.label_threshold, variant.coverage, variant.no_threshold) == ({}, {}, None, {})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"action": {"run": -0.1}}, r"label_threshold\.action\.run"),
        ({"action": {"run": 2}}, r"label_threshold\.action\.run"),
        ({"action": 0.5}, r"label_threshold\.action"),
        ({"action": {"no such label": 0.5}}, "labels that 'action' does not have"),
        ({"no such target": {"run": 0.5}}, "labels that 'no such target' does not have"),
    ],
)
def test_thresholds_of_labels_that_make_no_sense_are_refused(make_bundle: MakeBundle, value: Any, reason: str) -> None:
    def change(described: dict[str, Any]) -> None:
        described["variants"]["fp32"] |= {"threshold": {"action": 0.2}, "label_threshold": value}

    with pytest.raises(BundleError, match=f"{reason}.*; fix: export the bundle again"):
        Bundle.open(rewrite_manifest(make_bundle(), change))


@pytest.mark.parametrize("value", [0, 1, -1, 90, float("nan"), "x"])
def test_a_coverage_that_makes_no_sense_is_refused(make_bundle: MakeBundle, value: Any) -> None:
    def change(described: dict[str, Any]) -> None:
        described["variants"]["fp32"]["coverage"] = value

    with pytest.raises(BundleError, match=r"variants\.fp32\.coverage.*; fix: export the bundle again"):
        Bundle.open(rewrite_manifest(make_bundle(), change))


@pytest.mark.parametrize("name", ["temperature", "threshold"])
def test_none_that_makes_no_sense_is_written(name: str) -> None:
    for value in (float("nan"), -1.0, 1e9):
        with pytest.raises(ValidationError):
            Variant(files={}, passed=True, **{name: {"action": value}})  # type: ignore[arg-type]


def test_what_a_manifest_is_made_of_reaches_no_terminal_as_it_stands(make_bundle: MakeBundle) -> None:
    def change(described: dict[str, Any]) -> None:
        described["a\x1b]0;title\x07\u202e"] = 1

    with pytest.raises(BundleError) as refused:
        Bundle.open(rewrite_manifest(make_bundle(), change))
    assert "\\x1b]0;title\\x07\\u202e" in str(refused.value) and str(refused.value).isprintable()


# Nothing absolute here: should the check fail, the file of that name would be overwritten.
BAD_NAMES = ["../x", "..", ".", "a/b.onnx", "a\\b.onnx", "", ".hidden", "x" * 121, "a\n", "a\0b", "~x", "名.onnx"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_leave_the_folder_are_refused(make_bundle: MakeBundle, name: str) -> None:
    def seal_absolute(described: dict[str, Any]) -> None:
        described["files"]["/" + name] = described["files"]["head.fp32.onnx"]

    def seal_it(described: dict[str, Any]) -> None:
        described["files"][name] = described["files"]["head.fp32.onnx"]

    def use_it(described: dict[str, Any]) -> None:
        described["variants"]["fp32"]["files"]["head"] = name

    for number, change in enumerate((seal_it, seal_absolute, use_it)):
        with pytest.raises(BundleError, match="should match pattern"):
            Bundle.open(rewrite_manifest(make_bundle(f"{number}.bundle"), change))


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_leave_the_folder_are_not_written(
    name: str, contract: Contract, graphs: dict[str, Stage], onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    manifest = Manifest(contract=contract, stages=tuple(graphs.values()), variants={}, files={})
    with pytest.raises(BundleError, match="file name"):
        write_bundle(tmp_path / "in" / "b", manifest, {name: onnx_files["head"]})
    assert list(tmp_path.iterdir()) == []


def test_absolute_names_and_the_manifests_own_are_not_written(
    contract: Contract, graphs: dict[str, Stage], onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    manifest = Manifest(contract=contract, stages=tuple(graphs.values()), variants={}, files={})
    for name in (str(victim), MANIFEST):
        with pytest.raises(BundleError, match="file name"):
            write_bundle(tmp_path / "b", manifest, {name: onnx_files["head"]})
    assert victim.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["victim"]


def put(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(described: dict[str, Any]) -> None:
        *path, last, value = keys
        for key in path:
            described = described[key]
        described[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("sneaky", 1), "sneaky"),
        (put("contract", "sneaky", 1), "sneaky"),
        (put("contract", "pixel", "sneaky", 1), "sneaky"),
        (put("variants", "int8", "sneaky", 1), "sneaky"),
        (put("variants", "fp8", {}), "fp8"),
        (put("graphs", {}), "graphs"),
        (put("stages", 0, "sneaky", 1), "sneaky"),
        (put("stages", 0, "outputs", 0, "sneaky", 1), "sneaky"),
        (put("variants", "int8", "precision", "head", "fp8"), "not 'fp8'"),
        (
            put("variants", "int8", "precision", {"encoder": "int8"}),
            "precisions of the stages encoder; allowed: encoder, head",
        ),
        (put("variants", "int8", "engines", "npu"), "not 'npu'"),
        (put("schema_minor", -1), "schema_minor"),
        (put("files", "head.fp32.onnx", "bytes", -1), "bytes"),
        (put("files", "head.fp32.onnx", "sha256", "abc"), "sha256"),
        (put("contract", "pixel", "height", 0), "PixelSpec size"),
        (put("contract", "targets", 0, "labels", ["a"]), "labels"),
        (put("variants", "int8", "passed", None), "passed"),
    ],
)
def test_unknown_keys_and_wrong_values_are_one_line(make_bundle: MakeBundle, change: Any, said: str) -> None:
    with pytest.raises(BundleError, match=said) as caught:
        Bundle.open(rewrite_manifest(make_bundle(), change))
    assert len(str(caught.value).splitlines()) == 1


def test_every_file_of_a_variant_must_be_sealed(make_bundle: MakeBundle) -> None:
    for number, change in enumerate(
        (
            put("variants", "fp32", "files", "encoder", "other.onnx"),
            put("variants", "fp32", "files", {"encoder": "encoder.fp32.onnx"}),
        )
    ):
        with pytest.raises(BundleError, match="variant fp32 names files that the manifest does not seal"):
            Bundle.open(rewrite_manifest(make_bundle(f"{number}.bundle"), change))


def test_out_that_exists_is_left_alone(make_bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "a.bundle").mkdir()
    (tmp_path / "a.bundle" / "mine.txt").write_text("keep")
    with pytest.raises(BundleError, match="exists already"):
        make_bundle()
    assert [p.name for p in tmp_path.rglob("*")] == ["a.bundle", "mine.txt"]


def test_a_failure_in_the_middle_leaves_nothing(
    contract: Contract, graphs: dict[str, Stage], onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    names = {"encoder": "encoder.onnx", "head": "head.onnx"}
    variant = Variant(files=names, precision=FLOAT, passed=True)
    manifest = Manifest(contract=contract, stages=tuple(graphs.values()), variants={"fp32": variant}, files={})
    with pytest.raises(FileNotFoundError):
        write_bundle(
            tmp_path / "b", manifest, {"encoder.onnx": onnx_files["encoder"], "head.onnx": tmp_path / "absent"}
        )
    with pytest.raises(BundleError, match="does not seal"):  # verified before it appears
        write_bundle(tmp_path / "b", manifest, {"encoder.onnx": onnx_files["encoder"]})
    assert list(tmp_path.iterdir()) == []


def test_manifest_is_validated_when_it_is_made(contract: Contract, graphs: dict[str, Stage]) -> None:
    with pytest.raises(ValidationError, match="passed"):
        Manifest(contract=contract, stages=tuple(graphs.values()), variants={"fp32": {"files": {}}}, files={})


OPENVINO_IR = """<?xml version="1.0"?>
<net name="head" version="11"><layers><layer id="0" name="w" type="Const" version="opset1">
<data element_type="f32" shape="1" offset="0" size="4"/><output><port id="0" precision="FP32"><dim>1</dim></port></output>
</layer></layers><edges/></net>"""


@pytest.mark.parametrize("content", [OPENVINO_IR.encode(), b"\n" + OPENVINO_IR.encode(), b"", b"\x80\x02}q\x00."])
def test_a_graph_that_is_no_onnx_file_is_refused(make_bundle: Callable[..., Bundle], content: bytes) -> None:
    """OpenVINO reads its own format under any name, with weights from an unsealed file."""
    root = make_bundle().root
    (root / "head.fp32.onnx").write_bytes(content)
    manifest = json.loads((root / MANIFEST).read_text())
    manifest["files"]["head.fp32.onnx"] = {"sha256": sha256_of(root / "head.fp32.onnx"), "bytes": len(content)}
    (root / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(
        BundleError, match=r"head\.fp32\.onnx in .* is not an ONNX file: .*; fix: export the bundle again"
    ):
        Bundle.open(root)
