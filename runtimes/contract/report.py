"""How a bundle writes reports: what it holds beside its stages, and the words of a conversation around what is asked."""

from __future__ import annotations

from pydantic import Field

from vidrisk.runtimes.contract.contract import Sealed

MAX_PIECE_CHARS = 20_000


class ChatPieces(Sealed):
    """The text that a chat template puts around what people say. Training, export and inference put the same pieces together.

        begin SYSTEM to_question (photo_open PHOTO photo_close)… QUESTION to_answer ANSWER to_next QUESTION to_answer
        ANSWER …

    Attributes:
        begin: in front of the system text.
        begin_bare: in front of the first question where there is no system text; a template may put one of its own
            there.
        to_question: between the system text and the first question.
        photo_open, photo_close: around the visual tokens of a photo, which stand in front of the question.
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
