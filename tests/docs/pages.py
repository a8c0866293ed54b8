"""Pages of the documentation, block by block, for the tests that run them.

A test that runs the blocks of a page carries the mark ``page`` with the page's name; ``tests/test_docs.py`` looks for
the mark of every page. Such a test takes all blocks of the page: in a loop, or by unpacking them, which fails when one
is added.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = ("console", "python", "yaml")
"""Languages of the blocks that tests run. Pages have no others, but for what the site is built of (``{toctree}``)."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: path of the page in the repository.
        language: language of the block, one of ``RUN``.
        text: text of the block without the fences.
    """

    page: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Return the commands behind the prompts of a block."""
        return [line.removeprefix("$ ") for line in self.text.splitlines()]

    def execute(self, names: dict[str, Any]) -> None:
        """Execute the block as Python with ``names`` as its global names, which it may extend."""
        exec(compile(self.text, self.page, "exec"), names)


def read_page(page: str) -> str:
    """Return the text of a page, such as ``docs/vlm.md``."""
    return (REPOSITORY / page).read_text(encoding="utf-8")


def read_blocks(page: str, *languages: str) -> list[Block]:
    """Return the blocks of a page that tests run, in their order.

    Args:
        page: path of the page in the repository.
        languages: languages of the blocks to return; without any, all of ``RUN``.
    """
    found = re.findall(r"^```(\w+)\n(.*?)^```$", read_page(page), re.DOTALL | re.MULTILINE)
    return [Block(page, language, text) for language, text in found if language in (languages or RUN)]


def read_commands(page: str) -> list[str]:
    """Return the commands of all console blocks of a page, in their order."""
    return [command for block in read_blocks(page, "console") for command in block.commands]
