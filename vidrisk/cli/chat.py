"""Input and output of ``vidrisk ask``: answers piece by piece, and the turns of a conversation."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from vidrisk.cli.console import say_aside, say_error, say_json
from vidrisk.cli.remedies import line_from_error
from vidrisk.inference.prompt_builders import Picture
from vidrisk.inference.reporter import Reporter
from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError
from vidrisk.runtimes.contract.printable import printable
from vidrisk.runtimes.text.requests import Answer
from vidrisk.runtimes.text.turns import Exchange

PROMPT = "> "
EXIT, NEW = "/exit", "/new"


def print_answer(reporter: Reporter, pictures: Sequence[Picture], question: str, *, as_json: bool) -> None:
    """Answer one question.

    Raises:
        RuntimeFailure: the model gives no answer.
    """
    if not as_json:
        _answer(reporter, pictures, question, ())
        return
    answer = reporter.ask(pictures, question)
    _refuse_failed(answer)
    say_json(
        json.dumps(
            {
                "answer": answer.text,
                "finish": answer.finish,
                "photos": len(pictures),
                "prompt_tokens": answer.prompt_tokens,
                "answer_tokens": answer.answer_tokens,
            },
            ensure_ascii=False,
        )
    )


def chat(reporter: Reporter, pictures: Sequence[Picture]) -> None:
    """Answer questions until ``/exit`` or the end of the input.

    If a question cannot be answered, the error is printed, and the conversation goes on.
    """
    history: list[Exchange] = []
    while True:
        try:
            question = input(PROMPT).strip()
        except EOFError:
            sys.stdout.write("\n")
            return
        if question == EXIT:
            return
        if question == NEW:
            history.clear()
        elif question:
            try:
                answer = _answer(reporter, pictures, question, history)
            except (SettingsError, RuntimeFailure) as error:
                say_error(line_from_error(error))
                continue
            history.append(Exchange(question, answer=answer.text))


def _answer(reporter: Reporter, pictures: Sequence[Picture], question: str, history: Sequence[Exchange]) -> Answer:
    """Write an answer as it is generated.

    Raises:
        RuntimeFailure: the model gives no answer.
    """

    def write(_: int, piece: str) -> None:
        sys.stdout.write("\n".join(map(printable, piece.split("\n"))))
        sys.stdout.flush()

    answer = reporter.ask(pictures, question, history, write)
    _refuse_failed(answer)
    sys.stdout.write("\n")
    if answer.finish == "length":
        say_aside(f"cut off after {reporter.answer_tokens} tokens; --answer-tokens allows more")
    return answer


def _refuse_failed(answer: Answer) -> None:
    if answer.finish == "failed":
        raise RuntimeFailure(f"the model gives no answer: {answer.error}")
