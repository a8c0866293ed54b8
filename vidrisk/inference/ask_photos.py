"""Arguments of a question: separating photos from the question, and reading the photos for the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vidrisk.data.cases import Case, PhotoFile
from vidrisk.decode.pool import DecodePool, default_workers
from vidrisk.frames.media import kind_from_suffix, name_of
from vidrisk.inference.prompt_builders import Picture
from vidrisk.inference.reporter import Reporter
from vidrisk.inference.reports import is_read
from vidrisk.runtimes.contract.errors import SettingsError, UnreadableError

MOST_PHOTOS = 64
EACH_ALONE = "give infer a question, which is asked about each photo of a folder separately"


def photos_and_question(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Split words into photos and the question, which is None if the last word is a photo, too.

    The last word is a photo if a file of that name exists, or if it ends like a photo's name and holds no white space.

    Raises:
        SettingsError: a folder among the photos, or in place of the question.
    """
    if folders := [word for word in words if os.path.isdir(word)]:  # noqa: PTH112 (never raises)
        raise SettingsError(
            f"{name_of(folders[0])} is a folder", allowed="photos, all of which the question is about", fix=EACH_ALONE
        )
    *photos, last = words or ("",)
    looks_so = kind_from_suffix(last) is not None and len(last.split()) == 1
    if not words or os.path.isfile(last) or looks_so:  # noqa: PTH113 (never raises)
        return list(words), None
    return photos, last


def read_pictures(reporter: Reporter, photos: Sequence[str]) -> tuple[Picture, ...]:
    """Read photos in the form that a reporter's model takes.

    Raises:
        UnreadableError: one cannot be read.
        SettingsError: more than ``MOST_PHOTOS``.
        RuntimeFailure: decode workers cannot be started.
    """
    if len(photos) > MOST_PHOTOS:
        raise SettingsError(
            f"{len(photos)} photos", allowed=f"up to {MOST_PHOTOS} in front of a question", fix=EACH_ALONE
        )
    if not photos:
        return ()
    case = Case("", tuple(PhotoFile(Path(photo).absolute(), photo) for photo in photos), {})
    with DecodePool(min(default_workers(), len(photos))) as pool:
        ((_, pictures),) = reporter.prompts.read([case], pool)
    for photo, picture in zip(photos, pictures, strict=True):
        if not is_read(picture):
            raise UnreadableError(
                f"{name_of(photo)} cannot be read ({picture.state}): {picture.reason}", state=picture.state
            )
    return pictures
