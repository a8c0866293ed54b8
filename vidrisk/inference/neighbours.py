"""Nearest labelled cases of a photo: exact cosine similarity of features, with numpy, and the index file.

cases.npz    vectors float32 (N, D) of length 1, and JSON in bytes that describes their photos; no pickle
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidrisk.files.lines import json_from_value
from vidrisk.files.paths import path_from_stored, stored_from_path
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import DataError, SettingsError, SpecError, VidriskError

Vectors = npt.NDArray[np.float32]

ROWS_AT_A_TIME = 256  # queries whose similarities to all photos are held in memory at once


@dataclass(frozen=True)
class LabelledPhoto:
    """One photo of a labelled case.

    Attributes:
        case: id of its case.
        photo: name, relative to the folder of the data.
        path: absolute path at the time of indexing; '' if it has no file of its own.
        fields: fields of the case, by name, without empty ones.
    """

    case: str
    photo: str
    path: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Neighbour:
    """A labelled photo similar to the query; ``similarity`` is the cosine of their features, -1 to 1."""

    case: str
    photo: str
    path: str
    fields: Mapping[str, str]
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """Return the form stored in rows of reports."""
        return {**asdict(self), "path": stored_from_path(self.path), "similarity": round(self.similarity, 6)}


@dataclass(frozen=True, eq=False, repr=False)
class CaseIndex:
    """Features of labelled photos.

    Attributes:
        vectors: ``float32 (N, D)``, each of length 1.
        photos: the photo of each vector.
        encoder: digest of the encoder that computed the features; they are comparable only with features of the same
            one.
    """

    vectors: Vectors
    photos: tuple[LabelledPhoto, ...]
    encoder: str

    def __post_init__(self) -> None:
        if (
            self.vectors.ndim != 2
            or self.vectors.dtype != np.float32
            or len(self.vectors) != len(self.photos)
            or not self.photos
        ):
            raise SpecError(
                f"vectors {self.vectors.dtype} {self.vectors.shape} of {len(self.photos)} photos",
                allowed="float32 (N, D) of N photos, at least one",
            )
        lengths = np.linalg.norm(self.vectors, axis=1)
        if not np.allclose(lengths, 1, atol=1e-3):
            raise SpecError("vectors that are not of length 1", fix="make the index by index_from_features")

    def __len__(self) -> int:
        return len(self.photos)

    def __repr__(self) -> str:
        return f"CaseIndex({len(self)} photos, {self.vectors.shape[1]} features, encoder {self.encoder[:12]})"

    def nearest(
        self, features: npt.NDArray[np.floating[Any]], encoder: str, count: int = 3, without: Sequence[str] = ()
    ) -> list[tuple[Neighbour, ...]]:
        """Return the most similar cases of each query, best first; a case is ranked by its most similar photo.

        Args:
            features: ``(Q, D)``; a query that is zero or not finite has no neighbours.
            encoder: digest of the encoder that computed them.
            count: most cases per query.
            without: per query the id of a case to exclude, such as its own; '' excludes none.

        Raises:
            SettingsError: features of another encoder.
            SpecError: features of another width.
        """
        self.refuse_other_encoder(encoder)
        if (
            features.ndim != 2
            or features.shape[1] != self.vectors.shape[1]
            or (without and len(without) != len(features))
        ):
            raise SpecError(
                f"features {features.shape}, {len(without)} cases to leave out",
                allowed=f"(Q, {self.vectors.shape[1]}), none or Q of these",
            )
        found: list[tuple[Neighbour, ...]] = []
        for start in range(0, len(features), ROWS_AT_A_TIME):
            queries, usable = normalize_rows(features[start : start + ROWS_AT_A_TIME])
            similarities = queries @ self.vectors.T
            for place, row in enumerate(similarities):
                own = without[start + place] if without else ""
                found.append(self._best(row, count, own) if usable[place] else ())
        return found

    def refuse_other_encoder(self, encoder: str) -> None:
        """Check that features come from the encoder that the index was made with.

        Raises:
            SettingsError: they do not.
        """
        if encoder != self.encoder:
            raise SettingsError(
                f"features of encoder {encoder[:12]}…, the index of cases has those of {self.encoder[:12]}…",
                fix="make the index with the model that is used",
            )

    def _best(self, similarities: Vectors, count: int, own: str) -> tuple[Neighbour, ...]:
        best: dict[str, Neighbour] = {}
        for place in np.argsort(-similarities, kind="stable"):
            if len(best) == count:
                break
            photo = self.photos[place]
            if photo.case not in best and (not own or photo.case != own):
                similarity = float(np.clip(similarities[place], -1, 1))
                best[photo.case] = Neighbour(photo.case, photo.photo, photo.path, photo.fields, similarity)
        return tuple(best.values())


def normalize_rows(features: npt.NDArray[np.floating[Any]]) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """Return rows scaled to length 1, ``float32 (N, D)``, and which rows are usable.

    Rows that are zero or not finite are unusable, and zero in the result.
    """
    rows = np.asarray(features, np.float64)
    usable: npt.NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1), np.bool_)
    rows = np.where(usable[:, None], rows, 1)
    rows /= np.abs(rows).max(axis=1, keepdims=True)  # squares of large numbers overflow
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(usable[:, None], rows, 0).astype(np.float32), usable


def index_from_features(
    features: npt.NDArray[np.floating[Any]], photos: Sequence[LabelledPhoto], encoder: str
) -> CaseIndex:
    """Make an index of the photos with usable features.

    Raises:
        DataError: no photo has any.
        SpecError: the numbers of features and photos differ.
    """
    if features.ndim != 2 or len(features) != len(photos):
        raise SpecError(f"features {features.shape} of {len(photos)} photos", allowed="(N, D) of N photos")
    vectors, usable = normalize_rows(features) if len(features) else (features.astype(np.float32), np.zeros(0, bool))
    if not usable.any():
        raise DataError(f"none of {len(photos)} photos has features", fix="use a run over the labelled photos")
    return CaseIndex(
        vectors[usable], tuple(photo for photo, is_usable in zip(photos, usable, strict=True) if is_usable), encoder
    )


def write_index(index: CaseIndex, path: Path) -> None:
    """Write an index.

    Raises:
        VidriskError: the file cannot be written.
    """
    photos = [{**asdict(photo), "path": stored_from_path(photo.path)} for photo in index.photos]
    text = json_from_value(versions.CASE_INDEX.stamp({"encoder": index.encoder, "photos": photos}))
    try:
        with path.open("wb") as file:
            np.savez(file, vectors=index.vectors, text=np.frombuffer(text.encode(), np.uint8))
    except OSError as error:
        raise VidriskError(
            f"{path} cannot be written: {error.strerror or error}", fix="choose another place"
        ) from error


def read_index(path: Path) -> CaseIndex:
    """Read an index.

    Raises:
        DataError: the file does not exist, is damaged, of another version, or not an index.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            vectors, text = arrays["vectors"], arrays["text"].tobytes()
        record = versions.CASE_INDEX.read(json.loads(text), ("encoder", "photos"), ("encoder", "photos"))
        photos = tuple(_photo(value) for value in record["photos"])
        return CaseIndex(vectors, photos, str(record["encoder"]))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", fix="vidrisk data index RUN TABLE -o FILE") from error
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        zipfile.BadZipFile,
        SpecError,
    ) as error:
        raise DataError(f"{path.name} is no index of cases: {error}", fix="make it again") from error


def _photo(value: Any) -> LabelledPhoto:
    fields = {str(name): str(text) for name, text in value["fields"].items()}
    return LabelledPhoto(str(value["case"]), str(value["photo"]), path_from_stored(str(value["path"])), fields)
