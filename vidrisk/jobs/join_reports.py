"""Join of a classifier's run with a run that wrote reports about the same photos."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from vidrisk.data.cases import Case, PhotoFile, PhotoSource
from vidrisk.data.scheme import Scheme
from vidrisk.files.cache import key_of
from vidrisk.inference.predictions import PREDICTIONS, Prediction, read_predictions
from vidrisk.jobs.compared import Lead
from vidrisk.jobs.folder import refuse_folders_without
from vidrisk.jobs.photo_names import PhotoNames
from vidrisk.runtimes.contract.errors import DataError
from vidrisk.runtimes.contract.printable import printable

_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Leads:
    """A classifier's answers, by photo.

    Attributes:
        by_path: by absolute path.
        level_names: of the scheme.
    """

    by_path: Mapping[str, Lead]
    names: PhotoNames[str]
    level_names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Leads({len(self.by_path)} photos)"

    @property
    def digest(self) -> str:
        """Hex sha256 of the level of every photo."""
        return key_of("leads", *chain.from_iterable(sorted((path, lead.level) for path, lead in self.by_path.items())))

    def path_of(self, path: str, photos: Iterable[PhotoSource] = ()) -> str | None:
        """Return the path under which the classifier has seen an input or one of its photos, or None.

        Of several photos, the first that the classifier has seen is taken; a match by name counts only if it is unique.
        """
        for each in (path, *(str(photo.path) if isinstance(photo, PhotoFile) else photo.name for photo in photos)):
            if each in self.by_path:
                return each
            named = self.names.find(each) if each else ()
            if len(named) == 1:
                return named[0]
        return None

    def level_of(self, case: Case) -> str:
        """Return the scheme's level that the classifier gives a case.

        Returns:
            '' if the classifier has not seen the case, or gives a level of another scheme.
        """
        path = self.path_of("", case.photos)
        level = "" if path is None else self.by_path[path].level
        return level if level in self.level_names else ""


def read_leads(out: str | os.PathLike[str], scheme: Scheme) -> Leads:
    """Read a classifier's run; of an input with several windows, the most severe one counts.

    Raises:
        DataError: no run there, a damaged line, or a classifier that gives no level of the scheme.
    """
    refuse_folders_without(Path(out) / PREDICTIONS)
    return leads_from_predictions(read_predictions(out), scheme, str(Path(out).resolve()))


def leads_from_predictions(predictions: Iterable[Prediction], scheme: Scheme, source: str) -> Leads:
    """Return a classifier's answers; log a warning if some of its levels are not in the scheme.

    Raises:
        DataError: no prediction has a level of the scheme; ``source`` is named.
    """
    chosen: dict[str, Prediction] = {}
    for prediction in predictions:
        before = chosen.get(prediction.path)
        if before is None or _urgency(prediction) > _urgency(before):
            chosen[prediction.path] = prediction
    leads = {path: lead_from_prediction(prediction, scheme) for path, prediction in chosen.items()}
    if not any(lead.level in scheme.level_names for lead in leads.values()):
        raise DataError(
            f"the classifier's run in {source} gives no level of the scheme {scheme.name}",
            allowed=", ".join(scheme.level_names),
            fix="give the run of a classifier that was trained on these levels",
        )
    others = [lead.level for lead in leads.values() if lead.level and lead.level not in scheme.level_names]
    if others:
        _log.warning(
            "the classifier's run in %s gives %d of %d inputs a level that the scheme %s does not have, such as %s: "
            "the level is ignored for these inputs",
            source,
            len(others),
            len(leads),
            scheme.name,
            printable(repr(others[0])),
        )
    return Leads(leads, PhotoNames((path, path, path) for path in leads), tuple(scheme.level_names))


def lead_from_prediction(prediction: Prediction, scheme: Scheme) -> Lead:
    """Return a prediction as a lead: its level, by the scheme's name, with its probability."""
    written = prediction.level if prediction.level is not None else prediction.label
    level = scheme.level_from_text(written)
    # A label of another target may have the same name.
    score = prediction.targets.get("level", {}).get(written, prediction.score)
    return Lead(
        level.name if level else written,
        score,
        prediction.uncertain,
        prediction.defect or "",
        prediction.risk,
        prediction.advice,
        prediction.description,
    )


def _urgency(prediction: Prediction) -> tuple[float, float]:
    return (-1.0 if prediction.severity is None else prediction.severity, prediction.score)
