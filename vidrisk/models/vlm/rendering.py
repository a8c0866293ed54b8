"""Rendering of chat templates in a separate process with limits on time and memory.

An untrusted template may loop forever or exhaust memory. jinja's sandbox applies there as well. Memory is limited on
Linux only. Some templates state today's date: they are given one fixed day, so that a run always has the prompt that it
was trained with.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any

from typing_extensions import Self

from vidrisk.runtimes.contract.errors import SettingsError, first_line

MAX_CHARACTERS = 1_000_000  # of a template, and of its total output
CPU_S, WALL_S = 10, 120  # seconds; the second allows for a busy machine
MEMORY_BYTES = 256 << 20  # in addition to the memory of the process before rendering
START = "import sys; sys.path[:] = sys.argv[1:]; from vidrisk.models.vlm.rendering import main; main()"
Messages = Sequence[dict[str, Any]]


def render_chats(tokenizer: Any, chats: Sequence[tuple[Messages, bool]]) -> tuple[str, ...]:
    """Render conversations by the chat template of a tokenizer.

    Args:
        tokenizer: of transformers.
        chats: conversations, and whether each ends at the beginning of a reply.

    Raises:
        SettingsError: the template fails, or exceeds a limit.
    """
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # several templates, none of them the default
        raise _refusal(f"fails: {error}") from error
    if len(template) > MAX_CHARACTERS:
        raise _refusal(f"has {len(template)} characters")
    return _render(
        json.dumps({"template": template, "names": tokenizer.special_tokens_map, "chats": chats, "cpu_s": CPU_S})
    )


@lru_cache(maxsize=64)
def _render(job: str) -> tuple[str, ...]:
    try:
        end = subprocess.run(
            [sys.executable, "-X", "utf8", "-c", START, *sys.path],
            input=job,
            capture_output=True,
            encoding="utf-8",
            timeout=WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _refusal(f"did not finish within {WALL_S} s") from error
    if end.returncode == -signal.SIGXCPU:
        raise _refusal(f"did not finish within {CPU_S} s")
    if end.returncode:
        raise _refusal(
            f"cannot be run: {next(reversed(end.stderr.strip().splitlines()), f'exit code {end.returncode}')}"
        )
    answer = json.loads(end.stdout)
    if "error" in answer:
        raise _refusal(f"fails: {answer['error']}")
    return tuple(answer["texts"])


def _refusal(reason: str) -> SettingsError:
    return SettingsError(
        f"the chat template of the backbone {' '.join(reason.split())}",
        allowed="one that takes a question and a reply",
        fix="copy the backbone with its own chat template",
    )


class _Today(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        """Return the first day of 2025."""
        return cls(2025, 1, 1, tzinfo=tz)


def main() -> None:
    """Read a job as JSON, and write the output of its template, or why it fails."""
    from jinja2 import TemplateError
    from transformers.utils import chat_template_utils

    vars(chat_template_utils)["datetime"] = _Today
    render = chat_template_utils.render_jinja_template
    job = json.load(sys.stdin)
    template, names = job["template"], job["names"]
    texts: list[str] = []
    _limit(job["cpu_s"])
    try:
        for messages, is_open in job["chats"]:
            texts += render([messages], chat_template=template, add_generation_prompt=is_open, **names)[0]
        total = sum(map(len, texts))
        answer: dict[str, Any] = (
            {"texts": texts} if total <= MAX_CHARACTERS else {"error": f"it gives {total} characters"}
        )
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
        MemoryError,
    ) as error:
        answer = {"error": first_line(error)[:500]}
    json.dump(answer, sys.stdout)


def _limit(cpu_s: int) -> None:
    """Limit the CPU time and memory that this process can use from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + cpu_s)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY_BYTES)


def _lower(kind: int, wanted: int) -> None:
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
