"""Bundles: the folder that a device needs, sealed by the sha256 of every file in it.

    bundle.json             the manifest (``manifest``)
    encoder.fp32.onnx       one graph per stage and variant; variants may share a file
    encoder.int8.onnx
    encoder.….onnx.data     weights of a graph too large for one file
    head.fp32.onnx
    constants.safetensors   inputs of stages that never change (``constants``)
    gate.json, gate.html    accuracy lost at every step of the export
    golden.zip              samples with the outputs of every variant (``golden``)

``Bundle.open`` refuses a changed or missing file, an unknown schema version, a file name that could escape the folder,
stages that do not match, constants of the wrong type or shape, a graph that would read an unsealed file, and a graph
that is not an ONNX file.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vidrisk.runtimes.contract.constants import CONSTANTS, Arrays, read_constants
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import BundleError
from vidrisk.runtimes.contract.manifest import (
    EXPORT_AGAIN,
    FILE_NAME,
    SCHEMA_VERSION,
    VARIANTS,
    Engines,
    FileName,
    Manifest,
    Precision,
    Probability,
    SealedFile,
    Temperature,
    Variant,
    VariantName,
    manifest_from_json,
)
from vidrisk.runtimes.contract.onnx_file import NotOnnxError, external_files
from vidrisk.runtimes.contract.outputs import refuse_below_file
from vidrisk.runtimes.contract.stages import Stage

__all__ = [
    "CONSTANTS",
    "FILE_NAME",
    "MANIFEST",
    "SCHEMA_VERSION",
    "VARIANTS",
    "Bundle",
    "Engines",
    "FileName",
    "Manifest",
    "Precision",
    "Probability",
    "SealedFile",
    "Temperature",
    "Variant",
    "VariantName",
    "check_vacant",
    "sha256_of",
    "write_bundle",
]

MANIFEST = "bundle.json"


@dataclass(frozen=True)
class Bundle:
    """Verified bundle directory. Create one with ``Bundle.open`` or ``write_bundle``."""

    root: Path
    manifest: Manifest
    digest: str

    @property
    def contract(self) -> Contract:
        return self.manifest.contract

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.manifest.stages

    @property
    def passed(self) -> tuple[VariantName, ...]:
        """Variants that passed the gate, in the order of ``VARIANTS``."""
        return tuple(
            name for name in VARIANTS if name in self.manifest.variants and self.manifest.variants[name].passed
        )

    def path(self, stage: str, variant: VariantName) -> Path:
        """Return the file of one stage in one variant.

        Raises:
            BundleError: the bundle has no such variant, or no such stage.
        """
        if variant not in self.manifest.variants:
            raise BundleError(f"{self.root.name} has no variant {variant!r}", allowed=", ".join(self.manifest.variants))
        return self.root / self.manifest.variants[variant].files[self.manifest.stage(stage).name]

    def constants(self) -> Arrays:
        """Return the constant inputs of all stages by input name.

        Raises:
            BundleError: the file was changed since the bundle was opened.
            MissingExtra: safetensors is not installed.
        """
        if self.manifest.constants is None:
            return {}
        return read_constants(self.root / self.manifest.constants, self.stages)

    @classmethod
    def open(cls, root: str | Path) -> Bundle:
        """Read and verify a bundle.

        Raises:
            BundleError: there is no bundle, or it is damaged, incomplete, of a newer schema, or has a file name that
                escapes the folder.
        """
        root = Path(root)
        manifest, digest = _read_manifest(root)
        for name, sealed in manifest.files.items():
            path = root / name
            if path.is_symlink() or not path.is_file():
                raise BundleError(f"{root.name} lacks {name}", fix="copy the bundle again, whole")
            if path.stat().st_size != sealed.bytes or sha256_of(path) != sealed.sha256:
                raise BundleError(
                    f"{name} in {root.name} was changed after export (sha256 differs)",
                    fix="copy the bundle again, or export it again",
                )
            if not name.endswith(".onnx"):
                continue
            try:
                foreign = external_files(path) - set(manifest.files)
            except NotOnnxError as error:
                raise BundleError(f"{name} in {root.name} is not an ONNX file: {error}", fix=EXPORT_AGAIN) from error
            if foreign:
                raise BundleError(
                    f"{name} in {root.name} takes weights from {min(foreign)!r}, which the manifest does not seal",
                    allowed="files of the bundle",
                    fix="export it again",
                )
        bundle = cls(root, manifest, digest)
        bundle.constants()  # they are small, and errors should surface now
        return bundle


def _read_manifest(root: Path) -> tuple[Manifest, str]:
    path = root / MANIFEST
    if not path.is_file():
        why = f"has no {MANIFEST}" if root.exists() else "does not exist"
        raise BundleError(f"{root} is not a bundle: it {why}", fix="vidrisk export RUN -o BUNDLE")
    raw = path.read_bytes()
    return manifest_from_json(raw, path), hashlib.sha256(raw).hexdigest()


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
        SettingsError: it lies below a file.
    """
    refuse_below_file(root)
    if root.exists():
        raise BundleError(f"{root} exists already", fix="choose another folder, or delete it first")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Create a folder atomically: yield a temporary one, renamed to ``out`` on success and deleted on failure.

    Raises:
        BundleError: ``out`` exists.
    """
    check_vacant(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield staging
        staging.chmod(0o755)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_bundle(root: str | Path, manifest: Manifest, files: Mapping[str, Path]) -> Bundle:
    """Write a bundle atomically: it appears at ``root`` complete and verified, or not at all.

    Args:
        root: folder to create; it must not exist yet.
        manifest: everything but ``files``, whose hashes are filled in here.
        files: name inside the bundle → file to copy there.

    Raises:
        BundleError: ``root`` exists, or a file name is not allowed in a bundle.
    """
    root = Path(root)
    for name in files:  # before the first copy: a name such as /x or ../x would be written outside
        if not re.fullmatch(FILE_NAME, name) or name.endswith("\n") or name == MANIFEST:
            raise BundleError(
                f"file name {name!r} in a bundle", allowed=f"letters, digits, '.', '_' and '-', not {MANIFEST}"
            )
    with whole_folder(root) as staging:
        sealed = {name: _copy_sealed(source, staging / name) for name, source in files.items()}
        text = manifest.model_copy(update={"files": sealed}).model_dump_json(indent=2)
        (staging / MANIFEST).write_text(text + "\n", encoding="utf-8")
        bundle = Bundle.open(staging)  # reads all files again
    return replace(bundle, root=root)


def _copy_sealed(source: Path, to: Path) -> SealedFile:
    """Copy a file and return the hash and size of the copied bytes."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as read, to.open("xb") as written:
        while block := read.read(1 << 20):
            digest.update(block)
            written.write(block)
            size += len(block)
    return SealedFile(sha256=digest.hexdigest(), bytes=size)
