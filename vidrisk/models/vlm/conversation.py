"""Conversion of questions and replies to text, by a tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vidrisk.models.config import PromptPair, VlmSettings
from vidrisk.models.vlm.prompts import PLACE
from vidrisk.models.vlm.rendering import Messages, render_chats
from vidrisk.runtimes.contract.errors import SettingsError

MARK = "\ufffcvisual\ufffc"  # place of visual tokens, in text that a template passes on unchanged


@dataclass(frozen=True)
class Conversation:
    """A question and a reply as text.

    Attributes:
        before: text before the reply.
        reply: with everything that ends it.
    """

    question: str
    before: str
    reply: str


def conversations_from_pairs(
    tokenizer: Any, pairs: Sequence[PromptPair], settings: VlmSettings, *, visual: dict[str, str] | None
) -> list[Conversation]:
    """Render pairs as text, by the chat template of a tokenizer.

    Args:
        tokenizer: of transformers.
        pairs: questions and replies.
        settings: the token in the reply, the system text, and the order of question and visual tokens.
        visual: content item that a template turns into marks of its own, such as ``{"type": "video"}``; None inserts
            ``MARK``. It stands before the question, or after it as the settings say.

    Raises:
        SettingsError: the template cannot be used with one question and one reply.
    """
    replies = [pair.reply.replace(PLACE, settings.token) for pair in pairs]
    order = -1 if settings.question_first else 1
    in_words = ["\n".join((MARK, pair.question)[::order]) for pair in pairs]
    if not getattr(tokenizer, "chat_template", None):
        begin = f"{settings.system}\n" if settings.system else ""
        if tokenizer.bos_token and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
            begin = tokenizer.bos_token + begin  # the tokenizer begins every text with it
        return [
            Conversation(pair.question, f"{begin}{words}\n", reply)
            for pair, words, reply in zip(pairs, in_words, replies, strict=True)
        ]
    system = [] if settings.system is None else [{"role": "system", "content": settings.system}]
    chats: list[tuple[Messages, bool]] = []
    for pair, words, reply in zip(pairs, in_words, replies, strict=True):
        content: Any = words if visual is None else [visual, {"type": "text", "text": pair.question}][::order]
        messages = [*system, {"role": "user", "content": content}]
        chats += [(messages, True), ([*messages, {"role": "assistant", "content": reply}], False)]
    texts = render_chats(tokenizer, chats)
    found = []
    for pair, before, whole in zip(pairs, texts[::2], texts[1::2], strict=True):
        if not whole.startswith(before):
            raise SettingsError(
                "the chat template of the backbone changes the question when a reply follows",
                allowed="one whose conversation begins as its prompt does",
            )
        found.append(Conversation(pair.question, before, whole[len(before) :]))
    return found


def ids_from_text(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return token ids of a piece of text; special tokens in it are recognised, none are added."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()
