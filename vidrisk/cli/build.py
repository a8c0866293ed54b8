"""``vidrisk build``: the TensorRT engines of a bundle, for the local GPU or for other GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidrisk.runtimes.contract.choices import EngineName, VariantName


def build(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", show_default=False, help="Bundle that `vidrisk export --trt` made.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            show_default="the engine cache",
            help="Folder for the engines; copied into the engine cache of a device, they are used there.",
        ),
    ] = None,
    engine: Annotated[
        EngineName | None, typer.Option(show_default="the installed one", help="Library to build with.")
    ] = None,
    compute_capability: Annotated[
        str,
        typer.Option(
            metavar="8.6,8.9",
            show_default="of the GPU here",
            help="Build ahead of time for these GPUs; needs tensorrt-rtx, but no GPU.",
        ),
    ] = "",
    variant: Annotated[
        VariantName | None, typer.Option(show_default="all that passed", help="Only this precision.")
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="MIN,OPT,MAX", help="Rows per call that the engines take; they are tuned for OPT.")
    ] = "1,8,64",
    dla: Annotated[
        bool,
        typer.Option("--dla", help="Use a Jetson's deep-learning accelerator, and the GPU for unsupported layers."),
    ] = False,
    portable: Annotated[
        bool,
        typer.Option(
            "--portable",
            help="For all GPUs since Ampere except Jetson's, and later versions of TensorRT; may be slower.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build the missing engines of a bundle.

    `infer`, `eval` and `bench` build missing engines too; this command does it in advance.

    An engine is valid for one kind of GPU and one version of TensorRT. Its layers are described beside it, in
    .layers.json. Ctrl-C stops at the builder's next step; finished engines are kept.
    """
    from vidrisk.cli.build_view import batches_from_text, capabilities_from_text, print_engines
    from vidrisk.cli.console import progress_bar, say_aside
    from vidrisk.doctor.known import lines_before_build
    from vidrisk.runtimes.contract.bundle import Bundle
    from vidrisk.runtimes.tensorrt.build.engines import BuildOptions, build_engines
    from vidrisk.runtimes.tensorrt.cache import EngineStore

    options = BuildOptions(
        batches_from_text(batch), capabilities_from_text(compute_capability), dla=dla, portable=portable
    )
    opened, variants = Bundle.open(bundle), [variant] if variant else None
    for line in lines_before_build(opened, options, engine, variants):
        say_aside(f"known trouble: {line}")
    with progress_bar(lines=True) as advance:
        engines = build_engines(
            opened,
            options,
            kind=engine,
            variants=variants,
            store=EngineStore(out) if out else None,
            on_progress=advance,
        )
    print_engines(engines, as_json=json)
