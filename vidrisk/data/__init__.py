"""Labelled data: reads class folders, data sets and manifests into one table with its split and targets.

Manifests are CSV, Excel, JSONL or Parquet files.
"""

from vidrisk.data.case_split import split_cases
from vidrisk.data.cases import Case, Cases
from vidrisk.data.io import write_table
from vidrisk.data.leaks import check_leaks
from vidrisk.data.load import load_table
from vidrisk.data.load_cases import load_cases
from vidrisk.data.scheme import Scheme
from vidrisk.data.scheme_file import load_scheme
from vidrisk.data.sheet import contact_sheet
from vidrisk.data.split import ratios_from_text, split_table
from vidrisk.data.table import Sample, Table
from vidrisk.data.targets import guidance_from_table, targets_from_table

__all__ = [
    "Case",
    "Cases",
    "Sample",
    "Scheme",
    "Table",
    "check_leaks",
    "contact_sheet",
    "guidance_from_table",
    "load_cases",
    "load_scheme",
    "load_table",
    "ratios_from_text",
    "split_cases",
    "split_table",
    "targets_from_table",
    "write_table",
]
