"""Label Studio's exports JSON and JSON-MIN (https://labelstud.io): choices for files, and labels of parts of videos.

    [{"id": 1, "data": {"video": "/data/local-files/?d=cam7.mp4"}, "annotations": [{"result": [
        {"id": "a", "from_name": "action", "to_name": "video", "type": "timelinelabels",
         "value": {"ranges": [{"start": 1, "end": 48}], "timelinelabels": ["fall"]}}]}]}]

Of several annotations of a task, the last one that was not cancelled is used; ``predictions`` of a task are never
labels. A control with the name of a target (``columns``) is that target. Data of a task, texts and numbers are columns;
those of a region belong to its part of the video. With crops every rectangle on a photo is a photo of its own.
"""

from __future__ import annotations

from pathlib import Path

from vidrisk.data.formats.addressed_files import AddressedFiles
from vidrisk.data.formats.format import Format, Listed, Reading, format_counts
from vidrisk.data.formats.label_studio.labelled import LabelledTasks
from vidrisk.data.formats.label_studio.results import tasks_of
from vidrisk.data.formats.label_studio.tasks import write_label_studio
from vidrisk.data.formats.lists import head_of
from vidrisk.data.formats.statements import crops_from_statements, samples_from_statements, targets_of_controls

SNIFFED_BYTES = 2**16


def is_label_studio(source: Path) -> bool:
    """Return whether a file is an export, judging by its first record."""
    if source.suffix.lower() != ".json":
        return False
    head = head_of(source, SNIFFED_BYTES).decode("utf-8-sig", "ignore")
    full = '"annotations"' in head and '"result"' in head and ('"from_name"' in head or '"data"' in head)
    flat = '"annotation_id"' in head and '"annotator"' in head
    return head.lstrip().startswith("[") and (full or flat)


def read_label_studio(path: Path, reading: Reading) -> Listed:
    """Read every labelled task."""
    media = AddressedFiles(path.parent, reading.media)
    labelled = LabelledTasks(reading, media)
    tasks = tasks_of(path, labelled.counts)
    if reading.crops:
        boxes = [box for task in tasks for box in labelled.boxes(task)]
        targets, taken = targets_of_controls(labelled.controls, reading, "the controls")
        found = crops_from_statements(boxes, targets, media.files, reading)
    else:
        statements = [one for task in tasks for one in labelled.statements(task)]
        targets, taken = targets_of_controls(labelled.controls, reading, "the controls")
        found = samples_from_statements(statements, targets, media.files, reading, ("video", "image"))
    return Listed(
        found.root,
        found.samples,
        found.absent,
        media.looked_in,
        notes=(*found.notes, *taken, *format_counts(labelled.counts)),
    )


FORMAT = Format(
    "label-studio",
    "Label Studio",
    ("action", "risk", "action+risk"),
    "an export as JSON or JSON-MIN",
    is_label_studio,
    read_label_studio,
    options=frozenset({"rate", "crops"}),
    write=write_label_studio,
    suffix=".json",
    carries=frozenset(
        {
            "clips",
            "photos",
            "intervals",
            "multi-label",
            "no label",
            "several targets",
            "splits",
            "groups",
            "texts",
            "extra",
        }
    ),
)
