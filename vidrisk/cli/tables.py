"""Options of all commands that read a manifest."""

from __future__ import annotations

from typing import Annotated

import typer

Encoding = Annotated[
    str | None,
    typer.Option(
        "--encoding",
        metavar="NAME",
        show_default="UTF-8, or a recognised Chinese encoding",
        help="Code page of a CSV or JSONL manifest, such as gb18030, big5, shift_jis, euc-kr or cp1252.",
    ),
]
Sheet = Annotated[
    str | None,
    typer.Option(
        "--sheet",
        metavar="NAME",
        show_default="the one with a table",
        help="Sheet of an Excel manifest; Data!3 also gives the row of its header.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse identical content in two splits or with two labels, groups in two splits, and data sets that list "
        "missing files, instead of warning.",
    ),
]
MultiLabel = Annotated[
    bool,
    typer.Option(
        "--multi-label",
        help="A sample may have any number of classes: cells hold lists, or labels separated by semicolons.",
    ),
]
