"""Incremental decoding of tokens to text, without partial characters or parts of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # a decoder's output for bytes of an incomplete character


class TokenStream:
    """Incremental decoder of tokens. A character of several tokens is returned with its last token.

    The concatenated pieces are the text of all tokens: a piece is what a token adds to the text of the few tokens
    before it, because the text of a token may depend on them.

    Args:
        decode: function from token ids to text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._first, self._read = 0, 0  # indices of tokens: begin of the context, begin of the unread ones

    def push(self, token: int) -> str:
        """Add a token and return the text that it completes."""
        self._tokens.append(token)
        known, text = self._texts()
        if len(text) <= len(known) or text.endswith(UNFINISHED):
            return ""
        self._first, self._read = self._read, len(self._tokens)
        return text[len(known) :]

    def finish(self) -> str:
        """Return the rest, including incomplete characters."""
        known, text = self._texts()
        self._first = self._read = len(self._tokens)
        return text[len(known) :]

    def _texts(self) -> tuple[str, str]:
        return self._decode(self._tokens[self._first : self._read]), self._decode(self._tokens[self._first :])


class StopStrings:
    """Filter that passes text on until the first stop string is complete.

    Text that may be the beginning of a stop string is held back, so no part of one is ever returned.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_found = False

    def push(self, text: str) -> str:
        """Add a piece of text and return the text that cannot belong to a stop string."""
        if self.is_found:
            return ""
        text = self._held + text
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stops if stop in text]
        if found:
            self.is_found, self._held = True, ""
            return text[: min(found)[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Return the text held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of a text that is a prefix of a stop string."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
