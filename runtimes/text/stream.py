"""From tokens to text, piece by piece: no half characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what a decoder makes of bytes that are no whole character


class TokenStream:
    """Turns tokens into text as they come. A character that is spread over several tokens comes with its last one.

    All pieces together are the text of all tokens: a piece is what a token adds to the text of the few before it, since
    what a token stands for may depend on those.

    Args:
        decode: ids of tokens → text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._first, self._read = 0, 0  # of the tokens: context from the first on, and what is still to be read

    def push(self, token: int) -> str:
        """Take a token; what it completes is returned."""
        self._tokens.append(token)
        known, text = self._texts()
        if len(text) <= len(known) or text.endswith(UNFINISHED):
            return ""
        self._first, self._read = self._read, len(self._tokens)
        return text[len(known) :]

    def finish(self) -> str:
        """The rest, broken characters included."""
        known, text = self._texts()
        self._first = self._read = len(self._tokens)
        return text[len(known) :]

    def _texts(self) -> tuple[str, str]:
        return self._decode(self._tokens[self._first : self._read]), self._decode(self._tokens[self._first :])


class StopStrings:
    """Passes text on until a stop string is complete; the one that is complete first counts.

    Text that may be the beginning of one is held back, so that no piece of a stop string ever gets out.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_found = False

    def push(self, text: str) -> str:
        """Take a piece of text; what is certain is returned."""
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
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that a stop string begins with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
