"""The Typer application, and the conversion of errors to one line and an exit code."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, NoReturn

import typer

from vidrisk import __version__
from vidrisk.cli import data
from vidrisk.cli.ask import ask
from vidrisk.cli.bench import bench
from vidrisk.cli.build import build
from vidrisk.cli.compare import compare
from vidrisk.cli.console import PrintableFormatter, say, say_error
from vidrisk.cli.demo import demo
from vidrisk.cli.deploy import deploy
from vidrisk.cli.doctor import doctor
from vidrisk.cli.evaluate import evaluate
from vidrisk.cli.export import export
from vidrisk.cli.infer import infer
from vidrisk.cli.interrupt import end_at_second_interrupt
from vidrisk.cli.remedies import line_from_error
from vidrisk.cli.streams import find_lost_output, restart_in_utf8, settle_streams
from vidrisk.cli.train import train
from vidrisk.cli.verify import verify
from vidrisk.cli.watch import watch
from vidrisk.runtimes.contract.errors import EXIT_ERROR, EXIT_INTERRUPTED, VidriskError

VERBOSITY = ("-v", "-vv", "--verbose")

app = typer.Typer(
    name="vidrisk",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command(name="eval")(evaluate)
app.command()(export)
app.command()(build)
app.command()(infer)
app.command()(ask)
app.command()(compare)
app.command()(watch)
app.command()(bench)
app.command()(verify)
app.command()(deploy)
app.add_typer(data.app, name="data")
app.command()(doctor)
app.command()(demo)


def _print_version(asked: bool) -> None:
    if asked:
        say(f"vidrisk {__version__}")
        raise typer.Exit


@app.callback()
def _vidrisk(
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Print more messages; -vv prints all.")
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Turn a folder of labelled clips or defect photos into a verified INT8 model and a report per folder."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("vidrisk").setLevel(level)


def main() -> None:
    """Run the command line.

    Every expected failure is one line on stderr and an exit code (README: Exit codes).
    """
    restart_in_utf8()
    settle_streams()
    try:
        with end_at_second_interrupt():
            _run(sys.argv[1:])
    finally:
        lost = find_lost_output()
        if lost:
            _fail(f"cannot write to standard output: {lost.strerror}", EXIT_ERROR)


def _run(arguments: list[str]) -> None:
    verbosity = [argument for argument in arguments if argument in VERBOSITY]  # allowed before and after the command
    try:
        app(verbosity + [argument for argument in arguments if argument not in VERBOSITY])
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:  # Typer's exit code for KeyboardInterrupt
            say_error("stopped by Ctrl-C")
        raise
    except VidriskError as error:
        _fail(line_from_error(error), error.exit_code)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", EXIT_ERROR)


def _fail(line: str, code: int) -> NoReturn:
    say_error(line)
    sys.exit(code)
