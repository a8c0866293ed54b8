"""A bundle: one folder that a device needs, sealed by the sha256 of every file in it.

    bundle.json             the manifest below
    encoder.fp32.onnx       one graph per variant; variants may share a file
    encoder.int8.onnx
    encoder.….onnx.data     weights of a graph that is too large for one file
    head.fp32.onnx
    gate.json, gate.html    what every hop of the export lost

``Bundle.open`` refuses a changed or missing file, an unknown schema version, a name that could leave the folder, and a graph
that would read another file.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from vidrisk.runtimes.contract import Contract, Sealed
from vidrisk.runtimes.errors import BundleError, VidriskError
from vidrisk.runtimes.onnx_file import external_files
from vidrisk.runtimes.specs import TensorSpec

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "bundle.json"
FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,119}$"
FileName = Annotated[str, Field(pattern=FILE_NAME)]
VariantName = Literal["fp32", "fp16", "int8", "mixed"]
VARIANTS: tuple[VariantName, ...] = get_args(VariantName)
GRAPHS = ("encoder", "head")


class SealedFile(Sealed):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Graph(Sealed):
    """Inputs and outputs of one graph, and the multiply-accumulates of one sample of its batch; the same in every variant.

    ``macs`` is None where they could not be counted, and in bundles from before they were.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    macs: int | None = Field(default=None, ge=0)


class Variant(Sealed):
    """One precision of the model: which file each graph takes, whether it passed the gate, and what the gate measured.

    ``temperature`` and ``threshold`` are per target name: logits are divided by the one, and a top probability under the
    other is reported as uncertain. ``waived`` says what the gate would have refused, had the exporter not insisted.
    """

    files: dict[str, FileName]
    passed: bool
    waived: str = ""
    gate: dict[str, float] = Field(default_factory=dict)
    temperature: dict[str, float] = Field(default_factory=dict)
    threshold: dict[str, float] = Field(default_factory=dict)


class Manifest(Sealed):
    schema_version: Literal[1] = SCHEMA_VERSION
    contract: Contract
    graphs: dict[Literal["encoder", "head"], Graph]
    variants: dict[VariantName, Variant]
    files: dict[FileName, SealedFile]
    made_with: dict[str, str] = Field(default_factory=dict)
    created: str = ""
    source: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle directory. Make one with ``Bundle.open`` or ``write_bundle``."""

    root: Path
    manifest: Manifest
    digest: str

    @property
    def contract(self) -> Contract:
        return self.manifest.contract

    @property
    def passed(self) -> tuple[VariantName, ...]:
        """Variants that passed the gate, in the order fp32, fp16, int8, mixed."""
        return tuple(name for name in VARIANTS if name in self.manifest.variants and self.manifest.variants[name].passed)

    def path(self, graph: str, variant: VariantName) -> Path:
        """File of one graph in one variant.

        Raises:
            BundleError: the bundle has no such variant.
        """
        if variant not in self.manifest.variants:
            raise BundleError(f"{self.root.name} has no variant {variant!r}", allowed=", ".join(self.manifest.variants))
        return self.root / self.manifest.variants[variant].files[graph]

    @classmethod
    def open(cls, root: str | Path) -> Bundle:
        """Read and verify a bundle.

        Raises:
            BundleError: no bundle there, damaged, incomplete, of a newer schema, or with a name that leaves the folder.
        """
        root = Path(root)
        manifest, digest = _read_manifest(root)
        for name, sealed in manifest.files.items():
            path = root / name
            if path.is_symlink() or not path.is_file():
                raise BundleError(f"{root.name} lacks {name}", fix="copy the bundle again, whole")
            if path.stat().st_size != sealed.bytes or sha256_of(path) != sealed.sha256:
                raise BundleError(f"{name} in {root.name} was changed after export (sha256 differs)",
                                  fix="copy the bundle again, or export it again")
            foreign = external_files(path) - set(manifest.files) if name.endswith(".onnx") else set()
            if foreign:
                raise BundleError(f"{name} in {root.name} takes weights from {min(foreign)!r}, which the manifest does not seal",
                                  allowed="files of the bundle", fix="export it again")
        return cls(root, manifest, digest)


def _read_manifest(root: Path) -> tuple[Manifest, str]:
    path = root / MANIFEST
    if not path.is_file():
        raise BundleError(f"{root} is no bundle: it has no {MANIFEST}", fix="vidrisk export RUN -o BUNDLE")
    raw = path.read_bytes()
    try:
        data: Any = json.loads(raw)
        version = data["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path} is not a manifest: {error}", fix="copy the bundle again, whole") from error
    if version != SCHEMA_VERSION:
        raise BundleError(f"{root.name} has schema version {version}", allowed=str(SCHEMA_VERSION),
                          fix="use the vidrisk that made it, or a newer one, or export again")
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path}: {where}: {first['msg']}", fix="export the bundle again") from error
    except VidriskError as error:
        raise BundleError(f"{path}: {error}", fix="export the bundle again") from error
    wanted = {"encoder": manifest.contract.encoder_inputs(), "head": manifest.contract.head_outputs()}
    if set(manifest.graphs) != set(GRAPHS) or manifest.graphs["encoder"].inputs != wanted["encoder"] or (
            manifest.graphs["head"].outputs != wanted["head"]):
        raise BundleError(f"{path}: the graphs are not those that the contract needs", allowed="encoder and head",
                          fix="export the bundle again")
    for name, variant in manifest.variants.items():
        if set(variant.files) != set(manifest.graphs) or not set(variant.files.values()) <= set(manifest.files):
            raise BundleError(f"{path}: variant {name} names files that the manifest does not seal",
                              fix="export the bundle again")
        if not all(file.endswith(".onnx") for file in variant.files.values()):  # what else they read is checked for these alone
            raise BundleError(f"{path}: variant {name} names a graph that is no .onnx file", fix="export the bundle again")
    return manifest, hashlib.sha256(raw).hexdigest()


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_vacant(root: Path) -> None:
    """Refuse to write a bundle over anything.

    Raises:
        BundleError: ``root`` exists.
    """
    if root.exists():
        raise BundleError(f"{root} exists already", fix="choose another folder, or delete it first")


def write_bundle(root: str | Path, manifest: Manifest, files: Mapping[str, Path]) -> Bundle:
    """Write a bundle in one step: it appears at ``root`` whole and verified, or not at all.

    Args:
        root: folder to make; it must not exist yet.
        manifest: everything but ``files``, whose hashes are filled in here.
        files: name inside the bundle → file to copy there.

    Raises:
        BundleError: ``root`` exists, or a name is none that a bundle may hold.
    """
    root = Path(root)
    check_vacant(root)
    for name in files:  # before the first copy: a name such as /x or ../x would be written outside
        if not re.fullmatch(FILE_NAME, name) or name.endswith("\n") or name == MANIFEST:
            raise BundleError(f"file name {name!r} in a bundle", allowed=f"letters, digits, '.', '_' and '-', not {MANIFEST}")
    root.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        for name, source in files.items():
            shutil.copyfile(source, staging / name)
        sealed = {name: SealedFile(sha256=sha256_of(staging / name), bytes=(staging / name).stat().st_size)
                  for name in files}
        text = manifest.model_copy(update={"files": sealed}).model_dump_json(indent=2)
        (staging / MANIFEST).write_text(text + "\n", encoding="utf-8")
        Bundle.open(staging)
        staging.chmod(0o755)
        staging.rename(root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Bundle.open(root)
