"""Labelled data: class folders and CSV, Excel, JSONL or Parquet manifests become one typed table, its split and targets."""

from vidrisk.data.io import write_table
from vidrisk.data.leaks import check_leaks
from vidrisk.data.load import load_table
from vidrisk.data.sheet import contact_sheet
from vidrisk.data.split import ratios_from_text, split_table
from vidrisk.data.table import Sample, Table
from vidrisk.data.targets import guidance_from_table, targets_from_table

__all__ = [
    "Sample",
    "Table",
    "check_leaks",
    "contact_sheet",
    "guidance_from_table",
    "load_table",
    "ratios_from_text",
    "split_table",
    "targets_from_table",
    "write_table",
]
