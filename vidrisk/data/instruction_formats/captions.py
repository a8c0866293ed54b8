"""Turns each caption into a conversation: a question about an image, answered by the caption."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from vidrisk.data.instruction_formats.reader import ToldConversation
from vidrisk.data.instructions import Turn

QUESTIONS = {
    "zh": ("这幅图片描述了什么？\n<image>", "<image>\n图片里有什么？"),
    "en": ("What does this picture show?\n<image>", "<image>\nDescribe this picture in one sentence."),
}


def conversation_from_caption(where: str, key: str, image: str, caption: str, language: str) -> ToldConversation:
    """Make a conversation from a caption.

    The question depends only on ``key``, and in half of them the image comes first.
    """
    questions: Sequence[str] = QUESTIONS[language]
    question = questions[zlib.crc32(key.encode("utf-8", "surrogatepass")) % len(questions)]
    problem = "" if caption.strip() else "an empty caption"
    return ToldConversation(where, key, (image,), (Turn("user", question), Turn("assistant", caption.strip())), problem)
