"""Chat template of a bundle that writes reports: the text pieces around questions and answers."""

from __future__ import annotations

from pydantic import Field

from vidrisk.runtimes.contract.contract import Sealed

MAX_PIECE_CHARS = 20_000


class ChatPieces(Sealed):
    """Text pieces of a chat template; training, export and inference combine the same pieces.

        begin SYSTEM to_question (photo_open PHOTO photo_close)… QUESTION to_answer ANSWER to_next QUESTION to_answer
        ANSWER …

    Attributes:
        begin: before the system text.
        begin_bare: before the first question if there is no system text; it may contain the template's own one.
        to_question: between the system text and the first question.
        photo_open, photo_close: around the visual tokens of a photo, which precede the question.
        to_answer: between a question and its answer.
        to_next: between an answer and the next question; it begins with the token that ends an answer.
    """

    begin: str = Field(max_length=MAX_PIECE_CHARS)
    begin_bare: str = Field(max_length=MAX_PIECE_CHARS)
    to_question: str = Field(max_length=MAX_PIECE_CHARS)
    photo_open: str = Field("", max_length=MAX_PIECE_CHARS)
    photo_close: str = Field("", max_length=MAX_PIECE_CHARS)
    to_answer: str = Field(max_length=MAX_PIECE_CHARS)
    to_next: str = Field(max_length=MAX_PIECE_CHARS)
