"""``vidrisk demo``: the whole main job on real data from a package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="New folder for everything the demo makes.")
    ] = Path("demo"),
    reports: Annotated[
        bool,
        typer.Option(
            "--reports",
            help="Instead, train SmolLM2-135M to write reports about the photos, which takes a quarter of an hour.",
        ),
    ] = False,
) -> None:
    """Train, export, infer and report on real solar-cell photos, then on a small action task made from them."""
    from vidrisk.cli.console import progress_bar
    from vidrisk.cli.demo_view import print_demo
    from vidrisk.runtimes.contract.errors import require

    for module, extra in (("elpv_dataset", "demo"), ("torch", "train"), ("onnxscript", "export")):
        require(module, extra)
    if reports:
        for module, extra in (("onnxruntime_genai", "text-export"), ("llguidance", "text")):
            require(module, extra)
        from vidrisk.cli.compare_view import print_comparison
        from vidrisk.demo_reports import run_demo_reports

        with progress_bar() as advance:
            made = run_demo_reports(out, advance)
        print_comparison(made.comparison, made.page, as_json=False)
        return
    from vidrisk.demo import run_demo

    with progress_bar() as advance:
        result = run_demo(out, advance)
    print_demo(result)
