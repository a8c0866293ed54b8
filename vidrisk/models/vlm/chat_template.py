"""Extraction of the pieces that a tokenizer's chat template puts around a conversation."""

from __future__ import annotations

from typing import Any

from vidrisk.models.vlm.conversation import MARK
from vidrisk.models.vlm.rendering import Messages, render_chats
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.report import ChatPieces

SYSTEM, QUESTION, ANSWER, NEXT = ("\ufffc%s\ufffc" % name for name in ("system", "question", "answer", "next"))  # noqa: UP031


def pieces_from_tokenizer(tokenizer: Any, photo: str | None) -> ChatPieces:
    """Return the pieces of a tokenizer's chat template, or plain lines if it has none.

    Args:
        tokenizer: of transformers.
        photo: text that the template writes for an image in a message's content; None if messages are only text, and a
            photo is a line of its own.

    Raises:
        SettingsError: the template changes the messages, or cannot be used for several turns.
    """
    if not getattr(tokenizer, "chat_template", None):
        has_begin = tokenizer.bos_token and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        begin = tokenizer.bos_token if has_begin else ""
        return ChatPieces(
            begin=begin,
            begin_bare=begin,
            to_question="\n",
            photo_close="\n",
            to_answer="\n",
            to_next=f"{tokenizer.eos_token or ''}\n",
        )
    before: list[dict[str, Any]] = [{"role": "system", "content": _content(SYSTEM, photo)}]
    asked: list[dict[str, Any]] = [{"role": "user", "content": _content(QUESTION, photo)}]
    further = [
        *asked,
        {"role": "assistant", "content": _content(ANSWER, photo)},
        {"role": "user", "content": _content(NEXT, photo)},
    ]
    shown = [
        {"role": "user", "content": [{"type": "image"}, *_content(QUESTION, photo)] if photo else f"{MARK}\n{QUESTION}"}
    ]
    chats: list[tuple[Messages, bool]] = [(further, True), (shown, True)]
    whole, with_photo = render_chats(tokenizer, chats)
    begin_bare, to_answer, to_next, last = _between(whole, QUESTION, ANSWER, NEXT)
    photo_open, photo_close = _around_photo(with_photo, begin_bare, photo or MARK)
    if to_answer != last:
        raise _refusal("continues differently after the second question")
    try:
        (with_system,) = render_chats(tokenizer, [([*before, *asked], True)])
    except SettingsError:  # no system role: the system text precedes the first question
        return ChatPieces(
            begin=begin_bare,
            begin_bare=begin_bare,
            to_question="\n\n",
            photo_open=photo_open,
            photo_close=photo_close,
            to_answer=to_answer,
            to_next=to_next,
        )
    begin, to_question, _ = _between(with_system, SYSTEM, QUESTION)
    return ChatPieces(
        begin=begin,
        begin_bare=begin_bare,
        to_question=to_question,
        photo_open=photo_open,
        photo_close=photo_close,
        to_answer=to_answer,
        to_next=to_next,
    )


def _content(text: str, photo: str | None) -> Any:
    return [{"type": "text", "text": text}] if photo else text


def _between(text: str, *marks: str) -> list[str]:
    """Return the text before, between and after marks.

    Raises:
        SettingsError: a mark does not occur exactly once, or is not in order.
    """
    found = []
    for mark in marks:
        if text.count(mark) != 1:
            raise _refusal(f"gives {mark.strip(chr(0xFFFC))!r} {text.count(mark)} times")
        before, _, text = text.partition(mark)
        found.append(before)
    return [*found, text]


def _around_photo(text: str, begin: str, photo: str) -> tuple[str, str]:
    before, close, _ = _between(text, photo, QUESTION)
    if not before.startswith(begin):
        raise _refusal("begins differently if there is a photo")
    return before[len(begin) :], close


def _refusal(reason: str) -> SettingsError:
    return SettingsError(
        f"the chat template of the backbone {reason}",
        allowed="one that gives every message once, in order",
        fix="copy the backbone with its own chat template",
    )
