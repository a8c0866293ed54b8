"""``vidrisk ask``: one question about photos, or a conversation on a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vidrisk.cli.infer import AnswerTokens, TextModel, TextServerUrl, Threads
from vidrisk.runtimes.contract.choices import RuntimeChoice, VariantChoice


def ask(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle that writes reports.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PHOTO…] [QUESTION]", help="Photos, and a question; without one, a conversation on a terminal."
        ),
    ] = None,
    runtime: Annotated[
        RuntimeChoice, typer.Option(help="Engine of the vision graph; auto takes the fastest on this machine.")
    ] = "auto",
    variant: Annotated[
        VariantChoice, typer.Option(help="Precision; auto takes the smallest that passed the gate.")
    ] = "auto",
    threads: Threads = None,
    answer_tokens: AnswerTokens = None,
    text_server: TextServerUrl = None,
    text_model: TextModel = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Ask a bundle that writes reports a free-form question about photos; the answer is printed as it is generated.

    In a conversation, /new starts another one about the same photos; /exit or Ctrl-D ends it.
    """
    from vidrisk.cli.chat import chat, print_answer
    from vidrisk.cli.infer_reports import server_from_options
    from vidrisk.inference.ask_photos import photos_and_question, read_pictures
    from vidrisk.inference.open_reporter import open_reporter
    from vidrisk.runtimes.contract.errors import SettingsError

    photos, question = photos_and_question(words or ())
    if question is None and (json_output or not sys.stdin.isatty()):
        raise SettingsError(
            "no question", fix=f'vidrisk ask {bundle} PHOTO "QUESTION"; a conversation needs a terminal'
        )
    with open_reporter(
        bundle,
        runtime=runtime,
        variant=variant,
        threads=threads,
        sequences=1,
        answer_tokens=answer_tokens,
        server=server_from_options(text_server, text_model),
    ) as reporter:
        pictures = read_pictures(reporter, photos)
        if question is None:
            chat(reporter, pictures)
        else:
            print_answer(reporter, pictures, question, as_json=json_output)
