"""``vidrisk verify``: whether a bundle gives the same answers here as on the machine that exported it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidrisk.runtimes.contract.choices import RuntimeName, VariantName


def verify(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", show_default=False, help="Bundle that `vidrisk export` made.")
    ],
    runtime: Annotated[
        RuntimeName | None,
        typer.Option(
            show_default="all installed ones", help="Only this engine. TensorRT engines are built once, first."
        ),
    ] = None,
    variant: Annotated[
        VariantName | None, typer.Option(show_default="all that passed", help="Only this precision.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run the golden samples of a bundle on every engine, and compare the answers with those of the export.

    Also count the precisions in which the layers really run. Exit code 3 if answers differ; 4 if not everything could
    be compared: a bundle without golden samples, or an engine that does not work.
    """
    from vidrisk.cli.console import progress_bar
    from vidrisk.cli.verify_view import print_verification
    from vidrisk.runtimes.contract.errors import EXIT_SOME_FAILED, AnswersDiffer
    from vidrisk.verify import verify_bundle
    from vidrisk.verify.kept import keep

    with progress_bar(lines=True) as advance:
        found = verify_bundle(bundle, runtime=runtime, variant=variant, on_progress=advance)
    keep(found)
    print_verification(found, as_json=json)
    if found.faults:
        names = ", ".join(dict.fromkeys(fault.name for fault in found.faults))
        raise AnswersDiffer(
            f"{found.bundle} does not answer here as it did where it was exported: {names}", report=found
        )
    if not found.is_whole:
        raise typer.Exit(EXIT_SOME_FAILED)
