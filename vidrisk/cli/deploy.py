"""``vidrisk deploy``: a folder that installs a bundle as a service on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def deploy(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", show_default=False, help="Bundle that `vidrisk export` made.")
    ],
    target: Annotated[
        Literal["jetson-orin", "jetson-thor", "x86-gpu", "cpu"],
        typer.Option(show_default=False, help="Kind of machine."),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", show_default=False, help="New folder to write.")
    ],
    wheels: Annotated[
        bool, typer.Option("--wheels", help="Include all Python packages, so that the machine needs no network.")
    ] = False,
    python: Annotated[
        str | None,
        typer.Option(
            metavar="X.Y",
            show_default="the target's",
            help="Python of the machine, for --wheels: 3.10 with JetPack 6, 3.12 with 7.",
        ),
    ] = None,
    inbox: Annotated[
        str, typer.Option(metavar="PATH", help="Folder to watch on the machine.")
    ] = "/var/lib/vidrisk/inbox",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a folder to copy to a machine and install there with its install.sh.

    It holds vidrisk, the bundle, a service that predicts the files in the inbox, a Dockerfile, and an uninstall.sh.
    """
    from dataclasses import asdict
    from json import dumps
    from shlex import quote

    from vidrisk.cli.console import progress_bar, say, say_json
    from vidrisk.deploy.deployment import write_deployment

    with progress_bar() as advance:
        made = write_deployment(bundle, target, out, wheels=wheels, python=python, inbox=inbox, on_progress=advance)
    if json:
        say_json(dumps({**asdict(made), "folder": str(made.folder)}, ensure_ascii=False))
        return
    brought = (
        f"with {made.wheels} wheels, pinned by hash"
        if wheels
        else "packages from its index, in the versions of that day"
    )
    say(f"{made.bundle} for {target}, {made.bytes / 1e6:.1f} MB, {brought} → {made.folder}")
    say(f"licences of the contents: {made.folder / 'LICENSES.txt'}")
    folder, script = quote(str(made.folder)), quote(f"./{made.folder.name}/install.sh")
    say(f"next: scp -r {folder} USER@MACHINE: && ssh -t USER@MACHINE sudo {script}")
