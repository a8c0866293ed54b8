"""Conversations as training reads them: their tokens, and the photos that they show, each decoded and encoded once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vidrisk.data.case_frames import read_case_frames
from vidrisk.data.cases import Case, PhotoSource
from vidrisk.data.instructions import Instruction
from vidrisk.decode.pool import DecodePool
from vidrisk.models.vlm.instruction_parts import parts_from_instruction
from vidrisk.models.vlm.layout import Grid
from vidrisk.models.vlm.sequences import TextSequence, sequence_from_parts
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.contract.specs import PixelSpec
from vidrisk.runtimes.text.alternatives import choosing_tokens
from vidrisk.runtimes.text.requests import Comparison
from vidrisk.runtimes.text.turns import Encoder

log = logging.getLogger(__name__)


class Photos:
    """The photos of conversations, without repetition.

    Args:
        cache_mb: memory for decoded photos; what does not fit is decoded when it is asked for.
    """

    def __init__(self, items: Sequence[Instruction], pixel: PixelSpec, pool: DecodePool, cache_mb: float) -> None:
        self.sources: list[PhotoSource] = list(dict.fromkeys(photo for item in items for photo in item.images))
        self.number = {source: number for number, source in enumerate(self.sources)}
        self._pixel, self._pool = pixel, pool
        self._room = int(cache_mb * 2**20)
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.sources)

    def check(self, on_progress: OnProgress) -> dict[PhotoSource, str]:
        """Decode all photos once; return those that cannot be read, and why. A run must not die of one in its fifth hour."""
        unreadable: dict[PhotoSource, str] = {}
        for number, frame, reason in self._read(range(len(self)), on_progress):
            if frame is None:
                unreadable[self.sources[number]] = reason
            elif self._room >= frame.nbytes:
                self._room -= frame.nbytes
                self._kept[number] = frame
        return unreadable

    def frames(self, numbers: Sequence[int]) -> Tensor:
        """Return photos ``uint8 (M, H, W, 3)``; grey where one has gone since it was checked."""
        found = dict(self._kept.items() if len(numbers) > len(self._kept) else
                     ((number, self._kept[number]) for number in numbers if number in self._kept))
        missing = [number for number in dict.fromkeys(numbers) if number not in found]
        for number, frame, reason in self._read(missing, None):
            if frame is None:
                log.warning("a photo cannot be read any more: %s", reason)
            found[number] = torch.full(self._pixel.frame_shape, 128, dtype=torch.uint8) if frame is None else frame
        if not numbers:
            return torch.empty((0, *self._pixel.frame_shape), dtype=torch.uint8)
        return torch.stack([found[number] for number in numbers])

    def forget(self) -> None:
        """Free the decoded photos."""
        self._room += sum(frame.nbytes for frame in self._kept.values())
        self._kept.clear()

    def _read(self, numbers: Sequence[int], on_progress: OnProgress | None) -> Iterator[tuple[int, Tensor | None, str]]:
        cases = [Case(str(number), (self.sources[number],), {}) for number in numbers]
        for done, (case, (found,)) in enumerate(read_case_frames(cases, self._pool, self._pixel)):
            if on_progress:
                on_progress("reading photos", done, len(cases))
            frame = None if found.frame is None else torch.from_numpy(np.array(found.frame))
            yield int(case.id), frame, f"{getattr(found.source, 'name', '') or found.source}: {found.reason}"


class Conversations:
    """Conversations of one split.

    Attributes:
        items, sequences: in the same order.
        photos: numbers, in ``Photos``, of those that each conversation shows.
        left_out: identity and reason of what cannot be used.
    """

    def __init__(self, items: Sequence[Instruction], photos: Photos, unreadable: dict[PhotoSource, str], encoder: Encoder,
                 pieces: ChatPieces, end: int, grid: Grid, *, system: str | None, most: int,
                 choices: Collection[Comparison] = ()) -> None:
        """
        Args:
            end: id of the token that ends an answer.
            system: of conversations that have no system text of their own.
            most: tokens of a conversation; a longer one is left out, never cut off.
            choices: places of answers where one of a few words stands.
        """
        self.items: list[Instruction] = []
        self.sequences: list[TextSequence] = []
        self.photos: list[list[int]] = []
        self.left_out: list[dict[str, str]] = []
        for item in items:
            bad = next((unreadable[photo] for photo in item.images if photo in unreadable), None)
            answers = [turn.text for turn in item.turns if turn.role == "assistant"]
            sequence = None if bad else sequence_from_parts(
                parts_from_instruction(item, encoder, pieces, end, system=system), grid,
                [[place for choice in choices for place in choosing_tokens(encoder, choice, text)] for text in answers])
            if sequence is not None and sequence.length > most:
                bad = f"{sequence.length} tokens, {int(sequence.layout.is_visual.sum())} of them visual, where {most} are allowed"
            elif sequence is not None and not sequence.answer_tokens:
                bad = "it has no answer"
            if bad or sequence is None:
                self.left_out.append({"id": item.id, "split": item.split or "", "reason": bad or ""})
                continue
            self.items.append(item)
            self.sequences.append(sequence)
            self.photos.append([photos.number[photo] for photo in item.images])

    def __len__(self) -> int:
        return len(self.items)

    @property
    def names(self) -> list[str]:
        return [item.where or item.id for item in self.items]

    @property
    def answer_tokens(self) -> list[int]:
        """Tokens of each that are learnt."""
        return [sequence.answer_tokens for sequence in self.sequences]

    def weights(self, choice: float) -> list[float]:
        """Weight of each in the loss, where a token that chooses has ``choice`` and any other one 1."""
        return [sequence.answer_tokens + (choice - 1) * sequence.choices for sequence in self.sequences]
