"""The Typer application, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, NoReturn

import typer

from vidrisk import __version__
from vidrisk.cli import data
from vidrisk.cli.bench import bench
from vidrisk.cli.build import build
from vidrisk.cli.demo import demo
from vidrisk.cli.deploy import deploy
from vidrisk.cli.doctor import doctor
from vidrisk.cli.evaluate import evaluate
from vidrisk.cli.export import export
from vidrisk.cli.infer import infer
from vidrisk.cli.train import train
from vidrisk.cli.watch import watch

VERBOSITY = ("-v", "-vv", "--verbose")
CTRL_C = 130  # what Typer makes of KeyboardInterrupt; EXIT_INTERRUPTED in vidrisk.runtimes.errors

app = typer.Typer(name="vidrisk", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
app.command()(train)
app.command(name="eval")(evaluate)
app.command()(export)
app.command()(build)
app.command()(infer)
app.command()(watch)
app.command()(bench)
app.command()(deploy)
app.add_typer(data.app, name="data")
app.command()(doctor)
app.command()(demo)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vidrisk {__version__}")
        raise typer.Exit


@app.callback()
def _vidrisk(
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; -vv says everything.")] = 0,
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")] = False,
) -> None:
    """A folder of labelled clips or defect photos in; a verified INT8 model and a report per folder out."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("vidrisk").setLevel(level)


def main() -> None:
    """Run the command line. Every expected failure is one line on stderr and an exit code (README: Exit codes)."""
    arguments = sys.argv[1:]
    verbosity = [argument for argument in arguments if argument in VERBOSITY]  # welcome before and behind the command
    try:
        app(verbosity + [argument for argument in arguments if argument not in VERBOSITY])
    except SystemExit as end:
        if end.code == CTRL_C:
            typer.echo("error: stopped by Ctrl-C", err=True)
        raise
    except Exception as error:
        from vidrisk.runtimes.errors import EXIT_ERROR, VidriskError  # here: --help must stay quick

        if isinstance(error, VidriskError):
            _fail(str(error), error.exit_code)
        if isinstance(error, BrokenPipeError):
            sys.exit(EXIT_ERROR)
        if isinstance(error, OSError):
            _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", EXIT_ERROR)
        raise


def _fail(line: str, code: int) -> NoReturn:
    typer.echo(f"error: {line}", err=True)
    sys.exit(code)
