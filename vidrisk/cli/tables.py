"""Options of every command that reads a manifest."""

from __future__ import annotations

from typing import Annotated

import typer

Encoding = Annotated[
    str | None,
    typer.Option(
        "--encoding",
        metavar="NAME",
        show_default="UTF-8, or Chinese text that is recognised",
        help="Code page of a CSV or JSONL manifest, such as gb18030, big5, shift_jis, euc-kr or cp1252.",
    ),
]
Sheet = Annotated[
    str | None,
    typer.Option(
        "--sheet",
        metavar="NAME",
        show_default="the one with a table",
        help="Sheet of an Excel manifest; Data!3 also names the row of its header.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse data with one content in two splits or of two labels, groups in two splits, and data sets that list "
        "files which are not there, instead of warning.",
    ),
]
MultiLabel = Annotated[
    bool,
    typer.Option(
        "--multi-label",
        help="Any number of classes may hold for a sample: cells hold lists, or labels between semicolons.",
    ),
]
