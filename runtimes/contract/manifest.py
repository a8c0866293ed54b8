"""``bundle.json``: stages, variants and sealed files of a bundle, in schema 2 or 1.

In a newer minor version, unknown keys are ignored at every level. In this version or an older one, an unknown key is an
error. Other major versions are refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from vidrisk.runtimes.contract.choices import VARIANTS, VariantName
from vidrisk.runtimes.contract.contract import Contract, Sealed
from vidrisk.runtimes.contract.errors import BundleError, VidriskError
from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.contract.stages import Stage, check_stages
from vidrisk.runtimes.contract.versions import model_from_record

__all__ = [
    "EXPORT_AGAIN",
    "FILE_NAME",
    "PRECISIONS",
    "SCHEMA_MINOR",
    "SCHEMA_VERSION",
    "TEXT",
    "VARIANTS",
    "WEIGHT_ONLY",
    "Engines",
    "FileName",
    "Manifest",
    "Precision",
    "Probability",
    "ReportPart",
    "SealedFile",
    "Temperature",
    "Variant",
    "VariantName",
    "manifest_from_json",
]

SCHEMA_VERSION: Literal[2] = 2
SCHEMA_MINOR = 3
TEXT = "text"  # key of a report's text graph among the files and precisions of a variant
FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,119}$"
FileName = Annotated[str, Field(pattern=FILE_NAME)]
Precision = Literal["fp32", "fp16", "int8-weight-only", "int8", "mixed", "int4"]  # in order of increasing rounding
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
WEIGHT_ONLY: frozenset[Precision] = frozenset(("int8-weight-only", "int4"))  # activations stay in floating point
Engines = Literal["any", "processor", "tensorrt"]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]  # outside these limits probabilities are meaningless or inverted
Probability = Annotated[float, Field(ge=0, le=1)]

EXPORT_AGAIN = "export the bundle again"


class SealedFile(Sealed):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Variant(Sealed):
    """One set of files for all stages, with their precisions, the gate's verdict and its measurements.

    A label whose probability is below its target's ``threshold``, or below its own in ``label_threshold``, is excluded;
    ``uncertainty`` derives from this whether an answer is certain. Older bundles have no thresholds.

    Attributes:
        files: ONNX file by stage.
        precision: by stage; ``mixed`` is INT8 with some layers in floating point. ``int8-weight-only`` and ``int4``
            (from schema 2.1) have weights of 8 or 4 bits, except in layers that ``gate.json`` may list, and
            floating-point activations.
        engines: kind of engine that the files are made for.
        waived: what the gate would have refused if the exporter had not overridden it.
        temperature: by target; logits are divided by it.
        coverage: coverage that the thresholds were fitted for.
        no_threshold: by target, why it has no threshold.
        decision: by multi-label target and label, the probability from which the label holds (from schema 2.3).
    """

    files: dict[str, FileName]
    precision: dict[str, Precision] = Field(default_factory=dict)
    engines: Engines = "any"
    passed: bool
    waived: str = ""
    gate: dict[str, float] = Field(default_factory=dict)
    temperature: dict[str, Temperature] = Field(default_factory=dict)
    threshold: dict[str, Probability] = Field(default_factory=dict)
    label_threshold: dict[str, dict[str, Probability]] = Field(default_factory=dict)
    coverage: float | None = Field(default=None, gt=0, lt=1)
    no_threshold: dict[str, str] = Field(default_factory=dict)
    decision: dict[str, dict[str, Probability]] = Field(default_factory=dict)

    @property
    def lowest_precision(self) -> Precision:
        """Precision of the stage that rounds most."""
        return max(self.precision.values(), key=PRECISIONS.index)


class ReportPart(Sealed):
    """Report generation of a bundle: its stages compute visual tokens, each variant's text graph (``TEXT``) the words.

    Attributes:
        scheme: JSON file of the scheme of levels and fields; None if the model only answers questions.
        system: system text of a conversation if there is no scheme (a scheme has its own); None for no text.
        pieces: text pieces of the chat template.
        tokenizer, embeddings: file names.
        ends: ids of the tokens that end an answer; the one used in training comes first.
        positions: maximum number of tokens of a sequence, prompt and answer together.
        answer_tokens: maximum number of tokens of an answer.
    """

    scheme: FileName | None = None
    system: str | None = None
    pieces: ChatPieces
    tokenizer: FileName
    embeddings: FileName
    ends: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(min_length=1)
    positions: int = Field(ge=16)
    answer_tokens: int = Field(ge=1)


class Manifest(Sealed):
    """Content of ``bundle.json``.

    Attributes:
        stages: stages of the model, in execution order.
        constants: file of the constant inputs (``constants``); None if no stage has any.
        golden: whether the files include golden samples (``golden``); False if the exporter left them out, None in
            bundles that predate them.
        report: report generation (from schema 2.2); None if the model predicts labels.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    schema_minor: int = Field(default=SCHEMA_MINOR, ge=0)
    contract: Contract
    stages: tuple[Stage, ...]
    variants: dict[VariantName, Variant]
    constants: FileName | None = None
    files: dict[FileName, SealedFile]
    made_with: dict[str, str] = Field(default_factory=dict)
    created: str = ""
    source: dict[str, str] = Field(default_factory=dict)
    golden: bool | None = None
    report: ReportPart | None = None

    def stage(self, name: str) -> Stage:
        """Find a stage by its name.

        Raises:
            BundleError: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise BundleError(f"the bundle has no stage {name!r}", allowed=", ".join(stage.name for stage in self.stages))


def manifest_from_json(raw: bytes, path: Path) -> Manifest:
    """Read and check a manifest of this schema, of an older one, or of a newer minor version.

    Args:
        raw: content of the file.
        path: path of the file, for messages.

    Raises:
        BundleError: it is not a manifest, it contradicts itself, or another major version wrote it.
    """
    try:
        data: Any = json.loads(raw)
        version = data["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path} is not a manifest: {error}", fix="copy the bundle again, whole") from error
    if type(version) is not int or version not in (1, SCHEMA_VERSION):  # true and 1.0 equal 1
        raise BundleError(
            f"{path.parent.name} has schema version {version!r}",
            allowed=f"1, {SCHEMA_VERSION}",
            fix="use the version of vidrisk that made it or a newer one, or export it again",
        )
    try:
        data = _of_schema_2(data) if version == 1 else data
    except (AttributeError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is not a manifest of schema 1: {error!r}", fix=EXPORT_AGAIN) from error
    try:
        minor = data.get("schema_minor", 0)
        manifest = model_from_record(Manifest, data, is_newer=type(minor) is int and minor > SCHEMA_MINOR)
        check_stages(manifest.stages, manifest.contract)
    except ValidationError as error:
        raise BundleError(f"{path}: {_describe_error(error)}", fix=EXPORT_AGAIN) from error
    except VidriskError as error:
        raise BundleError(f"{path}: {error}", fix=EXPORT_AGAIN) from error
    if (manifest.report is None) != (manifest.contract.task != "report"):
        has = "a report part" if manifest.report is not None else "no report part"
        raise BundleError(f"{path}: a manifest of task {manifest.contract.task!r} with {has}", fix=EXPORT_AGAIN)
    if manifest.report is not None:
        part = manifest.report
        lacking = [
            name for name in (part.scheme, part.tokenizer, part.embeddings) if name and name not in manifest.files
        ]
        if lacking:
            raise BundleError(f"{path}: no sealed file {lacking[0]}, which its report needs", fix=EXPORT_AGAIN)
    for name, variant in manifest.variants.items():
        _check_variant(f"{path}: variant {name}", variant, manifest)
    needs_constants = any(stage.constants for stage in manifest.stages)
    if needs_constants and manifest.constants not in manifest.files:
        raise BundleError(f"{path}: its stages take constants, but no sealed file holds them", fix=EXPORT_AGAIN)
    return manifest


def _describe_error(error: ValidationError) -> str:
    first = error.errors()[0]
    value = f", not {str(first['input'])[:80]!r}" if first["type"] == "literal_error" else ""
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}{value}"


def _check_variant(where: str, variant: Variant, manifest: Manifest) -> None:
    stages = [stage.name for stage in manifest.stages] + ([TEXT] if manifest.report is not None else [])
    if set(variant.files) != set(stages) or not set(variant.files.values()) <= set(manifest.files):
        raise BundleError(f"{where} names files that the manifest does not seal", fix=EXPORT_AGAIN)
    if not all(
        file.endswith(".onnx") for file in variant.files.values()
    ):  # only .onnx files are checked for further files they read
        raise BundleError(f"{where} names a graph that is not an .onnx file", fix=EXPORT_AGAIN)
    if set(variant.precision) != set(stages):
        raise BundleError(
            f"{where} has precisions of the stages {_join_names(variant.precision)}",
            allowed=_join_names(stages),
            fix=EXPORT_AGAIN,
        )
    for target, own in variant.label_threshold.items():
        known = manifest.contract.target(target)
        if known is None or target not in variant.threshold or not set(own) <= set(known.labels):
            raise BundleError(f"{where} has thresholds of labels that {target!r} does not have", fix=EXPORT_AGAIN)
    for name, decided in variant.decision.items():
        known = manifest.contract.target(name)
        if known is None or not known.multi_label or set(decided) != set(known.labels):
            raise BundleError(f"{where} has decisions of labels that {name!r} does not have", fix=EXPORT_AGAIN)


def _join_names(names: Collection[str]) -> str:
    return ", ".join(names) or "none"


def _of_schema_2(data: dict[str, Any]) -> dict[str, Any]:
    """Convert a manifest of schema 1 to schema 2.

    Schema 1 has an encoder per frame and a head per window; its variants are named after the encoder's precision.

    Raises:
        KeyError, TypeError, AttributeError: it is not a manifest of schema 1.
    """
    graphs = data["graphs"]
    if set(graphs) != {"encoder", "head"}:
        raise TypeError(f"graphs {_join_names(graphs)}")
    stages = [{"name": name, "per": per, **graphs[name]} for name, per in (("encoder", "frame"), ("head", "window"))]
    variants = {
        name: {"precision": {"encoder": name, "head": "fp32"}, **variant} for name, variant in data["variants"].items()
    }
    rest = {key: value for key, value in data.items() if key not in ("graphs", "schema_version")}
    return {**rest, "schema_version": SCHEMA_VERSION, "stages": stages, "variants": variants}
