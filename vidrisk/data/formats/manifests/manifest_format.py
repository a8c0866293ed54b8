"""vidrisk's own manifests as formats to convert to: CSV, JSONL and Parquet.

``load_table`` reads them without a format name.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vidrisk.data.formats.fields import task_of_columns
from vidrisk.data.formats.format import Format, Listed, Part, Reading, Writing
from vidrisk.data.io import rows_from_manifest, write_table
from vidrisk.data.manifest import table_from_manifest
from vidrisk.data.table import Table

CARRIES: frozenset[Part] = frozenset(
    {
        "clips",
        "photos",
        "intervals",
        "frame intervals",
        "multi-label",
        "no label",
        "several targets",
        "splits",
        "groups",
        "order of used labels",
        "texts",
        "extra",
    }
)


def manifest_format(name: str, title: str) -> Format:
    """Return the format of manifests with a suffix of this name; it never claims a source."""
    return Format(
        name,
        f"vidrisk's manifest as {title}",
        ("action", "risk", "action+risk"),
        f"only by name: a .{name} with a path",
        lambda source: False,
        read_manifest,
        write=write_manifest,
        carries=CARRIES,
        suffix=f".{name}",
    )


def read_manifest(source: Path, reading: Reading) -> Listed:
    """Read a manifest; empty cells of extra columns are not kept."""
    task = task_of_columns(rows_from_manifest(source).header, reading.task)
    table = table_from_manifest(source, task, multi_label=bool(reading.multi_label))
    samples = tuple(
        replace(sample, extra={name: text for name, text in sample.extra.items() if text}) for sample in table.samples
    )
    return Listed(table.root, samples, (), ("",), table.label_order, table.notes)


def write_manifest(table: Table, destination: Path, writing: Writing) -> None:
    """Write a manifest; its folder must be above all files."""
    write_table(table, destination)
