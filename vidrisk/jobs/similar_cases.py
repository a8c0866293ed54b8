"""Similar cases of photos: one run with kept features yields an index of labelled photos, another run queries it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidrisk.data.cases import Case, Cases, PhotoFile
from vidrisk.decode.messages import READ_STATES
from vidrisk.files.cache import key_of
from vidrisk.inference.neighbours import CaseIndex, LabelledPhoto, Neighbour, index_from_features
from vidrisk.jobs.ledger import read_ledger
from vidrisk.jobs.pair_reports import pair_reports
from vidrisk.jobs.saved_features import read_features
from vidrisk.jobs.summary import Summary, read_summary
from vidrisk.runtimes.contract.errors import DataError

NEIGHBOURS = 3


class SimilarCases:
    """Lookup of the most similar labelled cases for photos of a run.

    Args:
        index: of the labelled cases.
        out: output folder of a run over the photos, with kept features, by the model that the index was made with.
        count: maximum number of cases per photo.

    Raises:
        SettingsError: a run of another model.
        DataError: the run has not ended.
    """

    def __init__(self, index: CaseIndex, out: str | os.PathLike[str], count: int = NEIGHBOURS) -> None:
        self._index, self._out, self._count = index, Path(out), count
        self._encoder = encoder_from_summary(read_summary(out))
        index.refuse_other_encoder(self._encoder)
        self._rows = {row.path: row.id for row in read_ledger(out) if row.state in READ_STATES}
        self._own = {photo.path: photo.case for photo in index.photos if photo.path}

    def of(self, path: str, case: str = "") -> tuple[Neighbour, ...]:
        """Return the most similar cases, the most similar first; none if the run has not seen the photo.

        Args:
            path: absolute.
            case: id of the photo's own case, which is left out.

        Raises:
            DataError: the run has kept no features, or they are damaged.
            SpecError: the features have another width than those of the index.
        """
        if path not in self._rows:
            return ()
        feature = _mean_feature(self._out, self._rows[path])
        return self._index.nearest(feature[None], self._encoder, self._count, (case or self._own.get(path, ""),))[0]


def index_from_run(out: str | os.PathLike[str], cases: Cases) -> CaseIndex:
    """Make an index of labelled cases from the features that a run over their photos has kept.

    Raises:
        DataError: the run has not ended or has kept no features, or none of its photos belongs to a case.
    """
    encoder = encoder_from_summary(read_summary(out))
    rows = [row for row in read_ledger(out) if row.state in READ_STATES]
    pairing = pair_reports([(row.path, "") for row in rows], cases.cases)
    pairs = [(row, cases.cases[place]) for row, place in zip(rows, pairing.cases, strict=True) if place is not None]
    if not pairs:
        raise DataError(
            f"none of {len(rows)} photos of {out} belongs to a case in {cases.root.name}",
            fix="give a run over the photos that the table names",
        )
    features = np.stack([_mean_feature(Path(out), row.id) for row, _ in pairs])
    return index_from_features(features, [_make_labelled_photo(row.path, case) for row, case in pairs], encoder)


def encoder_from_summary(summary: Summary) -> str:
    """Return a digest of the encoder that computed the features of a run: of its bundle and variant."""
    return key_of("encoder", summary.provenance["digest"], summary.variant)


def _make_labelled_photo(path: str, case: Case) -> LabelledPhoto:
    name = next(
        (photo.name for photo in case.photos if isinstance(photo, PhotoFile) and str(photo.path) == path),
        Path(path).name,
    )
    return LabelledPhoto(case.id, name, path, {field: text for field, text in case.fields.items() if text})


def _mean_feature(out: Path, row_id: int) -> npt.NDArray[np.float64]:
    features, _ = read_features(out, row_id)
    mean: npt.NDArray[np.float64] = np.asarray(features, np.float64).mean(axis=0)
    return mean
