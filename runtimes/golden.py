"""Golden samples: reference inputs and outputs recorded at export, to be compared on the device.

    golden.zip      golden.json        outputs of every variant, the graphs they come from and their temperatures
                    0.0.webp, 0.1.webp …   sample 0, its moments: decoded frames, lossless

The bundle seals the file like its other files. Its content is validated all the same, because whoever replaces the file
can also seal it again. Nothing is unpacked to disk, nothing in it is compressed twice, and the contract fixes the
number and the size of the pictures.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat, ValidationError

from vidrisk.runtimes.contract.bundle import Bundle, FileName, Temperature, VariantName
from vidrisk.runtimes.contract.contract import Contract, Sealed
from vidrisk.runtimes.contract.errors import AnswersDiffer, BundleError, VidriskError
from vidrisk.runtimes.contract.manifest import SCHEMA_MINOR
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.contract.versions import model_from_record

GOLDEN = "golden.zip"
DESCRIPTION = "golden.json"
MAX_SAMPLES = 32
MAX_FRAMES = 112  # of all samples together, or of a single one: engines should finish within seconds
MAX_DECODED_BYTES = 1 << 29
MAX_DESCRIPTION_BYTES = 1 << 24
MAX_ENTRY_BYTES = 1 << 10  # overhead of an archive entry besides its content
MAX_ROUNDING = 1e-3  # difference between a recorded probability and the one computed from its logits
EXPORT_AGAIN = "copy the bundle again, or export it again"

FloatArray = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]
Rows = tuple[tuple[FiniteFloat, ...], ...]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class Spread(Sealed):
    """Deviation of another runtime from the expected outputs.

    Attributes:
        largest, mean: largest and mean difference of a probability.
        logits: the largest of ``logit_errors``.
    """

    largest: Share
    mean: Share
    logits: Annotated[FiniteFloat, Field(ge=0)]


class Expected(Sealed):
    """Outputs of one variant.

    Attributes:
        files: sha256 of the files of its stages, by name.
        temperature: by target, as in the manifest.
        logits, probabilities: by target, one row per sample; probabilities include the temperature.
        spread: by name, for each other runtime that was run.
    """

    files: dict[FileName, Sha256]
    temperature: dict[str, Temperature]
    logits: dict[str, Rows]
    probabilities: dict[str, Rows]
    spread: dict[str, Spread] = Field(default_factory=dict)


class Description(Sealed):
    """Content of ``golden.json``.

    Attributes:
        contract: digest of the model's contract.
        runtime, engine: the runtime that computed the outputs, and its version.
    """

    version: Literal[1] = 1
    contract: Sha256
    runtime: str
    engine: str
    samples: int = Field(ge=1, le=MAX_SAMPLES)
    variants: dict[VariantName, Expected]


@dataclass(frozen=True)
class Golden:
    """Validated golden samples. ``frames`` are ``uint8 (N, T, H, W, 3)``."""

    frames: Frames
    told: Description

    def logits(self, variant: VariantName) -> dict[str, FloatArray]:
        """Return the logits by target, each ``float32 (N, C)``."""
        return {target: np.asarray(rows, np.float32) for target, rows in self.told.variants[variant].logits.items()}

    def probabilities(self, variant: VariantName) -> dict[str, FloatArray]:
        return {
            target: np.asarray(rows, np.float32) for target, rows in self.told.variants[variant].probabilities.items()
        }


def logit_errors(logits: FloatArray, expected: FloatArray, *, multi_label: bool = False) -> npt.NDArray[np.float64]:
    """Return the distance of each row from the expected row, relative to the RMS norm of the expected rows.

    A constant offset of all logits of a row carries no information; it is subtracted first, except for multi-label
    targets. The error of a row that is not finite is 1.
    """
    is_finite = np.isfinite(logits).all(axis=1, keepdims=True)
    found, wanted = (
        each - (0 if multi_label else each.mean(axis=1, keepdims=True))
        for each in (np.where(is_finite, logits, 0).astype(np.float64), expected.astype(np.float64))
    )
    length = np.sqrt(np.square(wanted).sum(axis=1).mean())
    errors = np.linalg.norm(found - wanted, axis=1) / max(length, np.finfo(np.float32).tiny)
    return np.where(is_finite.ravel(), errors, 1.0)


def most_samples(contract: Contract) -> int:
    """Return the maximum number of samples of the contract's size; 0 if a single one is too large."""
    fit = MAX_DECODED_BYTES // (contract.frames * math.prod(contract.pixel.frame_shape))
    return min(MAX_SAMPLES, max(MAX_FRAMES // contract.frames, 1), fit)


def webp_from_frame(frame: Frames) -> bytes:
    """Compress ``uint8 (H, W, 3)`` without loss."""
    from PIL import Image  # only where golden samples are

    file = io.BytesIO()
    Image.fromarray(frame).save(
        file, "WEBP", lossless=True, method=1
    )  # 4 saves 4 % in twice the time, 6 no more in fifty times
    return file.getvalue()


def write_golden(path: Path, told: Description, pictures: Sequence[Sequence[bytes]]) -> None:
    """Write golden samples; equal samples produce equal bytes.

    Args:
        path: the zip file to write.
        told: content of ``golden.json``.
        pictures: by sample and moment, as returned by ``webp_from_frame``.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(DESCRIPTION), told.model_dump_json())
        for sample, moments in enumerate(pictures):
            for moment, picture in enumerate(moments):
                archive.writestr(zipfile.ZipInfo(_name(sample, moment)), picture)


def read_golden(bundle: Bundle) -> Golden | None:
    """Read the golden samples of a bundle, or return None if it has none.

    Raises:
        BundleError: the file is not one that an export writes.
        AnswersDiffer: the samples belong to another model.
    """
    if GOLDEN not in bundle.manifest.files:
        return None
    try:
        _check_size(bundle)
        with zipfile.ZipFile(bundle.root / GOLDEN) as archive:
            told = _read_description(bundle, archive)
            shape = (told.samples, bundle.contract.frames, *bundle.contract.pixel.frame_shape)
            names = {_name(sample, moment) for sample in range(shape[0]) for moment in range(shape[1])}
            if sorted(archive.namelist()) != sorted({DESCRIPTION, *names}):
                raise _refusal(bundle, f"it does not hold exactly the {len(names)} pictures of {shape[0]} samples")
            frames = np.empty(shape, np.uint8)
            for sample, moment in np.ndindex(shape[:2]):
                frames[sample, moment] = _frame(bundle, archive, _name(sample, moment))
    except VidriskError:
        raise
    except Exception as error:  # zipfile and Pillow raise a dozen types for invalid data
        raise _refusal(bundle, str(error) or type(error).__name__) from error
    return Golden(frames, told)


def _name(sample: int, moment: int) -> str:
    return f"{sample}.{moment}.webp"


def _refusal(bundle: Bundle, why: str) -> BundleError:
    return BundleError(f"{GOLDEN} in {bundle.root.name} is not a valid file of golden samples: {why}", fix=EXPORT_AGAIN)


def _check_size(bundle: Bundle) -> None:
    """Refuse an archive whose list of entries alone would exhaust memory."""
    pictures = most_samples(bundle.contract) * bundle.contract.frames
    limit = MAX_DESCRIPTION_BYTES + pictures * (_most_picture_bytes(bundle.contract) + MAX_ENTRY_BYTES)
    held = bundle.manifest.files[GOLDEN].bytes
    if held > limit:
        raise _refusal(bundle, f"it has {held} bytes; {pictures} pictures take at most {limit}")


def _most_picture_bytes(contract: Contract) -> int:
    """Return twice the size of a picture of noise."""
    return 2 * math.prod(contract.pixel.frame_shape) + 4096


def _content(bundle: Bundle, archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
        raise _refusal(bundle, f"{name} is compressed, or larger than {limit} bytes")
    return archive.read(info)


def _read_description(bundle: Bundle, archive: zipfile.ZipFile) -> Description:
    if DESCRIPTION not in archive.namelist():
        raise _refusal(bundle, f"it has no {DESCRIPTION}")
    raw = _content(bundle, archive, DESCRIPTION, MAX_DESCRIPTION_BYTES)
    try:
        told = model_from_record(Description, json.loads(raw), is_newer=bundle.manifest.schema_minor > SCHEMA_MINOR)
    except ValidationError as error:
        first = error.errors()[0]
        raise _refusal(bundle, f"{DESCRIPTION}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if not bundle.contract.is_digest(told.contract):
        raise AnswersDiffer(
            f"the golden samples in {bundle.root.name} belong to another model: contract "
            f"{told.contract[:12]}…, not {bundle.contract.digest[:12]}…",
            fix=EXPORT_AGAIN,
        )
    if told.samples > most_samples(bundle.contract):
        raise _refusal(bundle, f"{told.samples} samples are more than {most_samples(bundle.contract)}")
    if set(told.variants) != set(bundle.manifest.variants):
        raise AnswersDiffer(
            f"the golden samples in {bundle.root.name} belong to another model: variants "
            f"{', '.join(told.variants)}, not {', '.join(bundle.manifest.variants)}",
            fix=EXPORT_AGAIN,
        )
    for name, expected in told.variants.items():
        why = _find_fault(expected, bundle.contract, told.samples)
        if why:
            raise _refusal(bundle, f"{name}: {why}")
    return told


def _find_fault(expected: Expected, contract: Contract, samples: int) -> str:
    """Return what is wrong with the outputs of a variant; empty if nothing is."""
    by_target: Mapping[str, Any]
    for what, by_target in (("logits", expected.logits), ("probabilities", expected.probabilities)):
        if set(by_target) != {target.name for target in contract.targets}:
            return f"{what} are of the targets {', '.join(by_target)}, not of the contract's"
        for target in contract.targets:
            rows = by_target[target.name]
            if len(rows) != samples or any(len(row) != len(target.labels) for row in rows):
                return f"{what} of {target.name} are not {samples} rows of {len(target.labels)} values"
    for target in contract.targets:
        logits = np.asarray(expected.logits[target.name], np.float32)
        said = probabilities_from_logits(
            logits, expected.temperature.get(target.name, 1.0), multi_label=target.multi_label
        )
        if not np.allclose(said, np.asarray(expected.probabilities[target.name]), rtol=0, atol=MAX_ROUNDING):
            return f"the probabilities of {target.name} are not those of its logits"
    return ""


def _frame(bundle: Bundle, archive: zipfile.ZipFile, name: str) -> Frames:
    from PIL import Image

    height, width, _ = bundle.contract.pixel.frame_shape
    data = _content(bundle, archive, name, _most_picture_bytes(bundle.contract))
    with Image.open(io.BytesIO(data), formats=("WEBP",)) as picture:
        if picture.size != (width, height) or picture.mode != "RGB" or getattr(picture, "n_frames", 1) != 1:
            raise _refusal(bundle, f"{name} is not an RGB picture of {width}x{height}")
        return np.asarray(picture, np.uint8)
