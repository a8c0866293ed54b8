"""Conversations as training reads them: their tokens, and the photos that they show, each decoded and encoded once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain

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
from vidrisk.train.shares import ALONE, Share

log = logging.getLogger(__name__)

PHOTOS_AT_ONCE = 16


class Photos:
    """The photos of conversations, without repetition. Those that are shown have numbers, from 0.

    Args:
        cache_mb: memory for decoded photos; what does not fit is decoded when it is asked for.
    """

    def __init__(self, items: Sequence[Instruction], pixel: PixelSpec, pool: DecodePool, cache_mb: float) -> None:
        self._sources: list[PhotoSource] = list(dict.fromkeys(photo for item in items for photo in item.images))
        self._groups = [
            self._sources[begin : begin + PHOTOS_AT_ONCE] for begin in range(0, len(self._sources), PHOTOS_AT_ONCE)
        ]
        self._shown: list[PhotoSource] = []
        self._numbers: dict[PhotoSource, int] = {}
        self._pixel, self._pool = pixel, pool
        self._room = int(cache_mb * 2**20)
        self._kept: dict[PhotoSource, Tensor] = {}

    def __len__(self) -> int:
        """How many are shown."""
        return len(self._shown)

    def show(self, photos: Sequence[PhotoSource]) -> list[int]:
        """Return numbers of photos; one that was not shown before gets the next."""
        for photo in photos:
            if photo not in self._numbers:
                self._numbers[photo] = len(self._shown)
                self._shown.append(photo)
        return [self._numbers[photo] for photo in photos]

    def shown_by(self, share: Share) -> list[list[int]]:
        """Return numbers of the shown photos that fall to a process, which has checked them, in batches.

        A batch holds the same photos however many processes there are: what a tower makes of one depends on it, in the
        last bits.
        """
        batches = (
            [self._numbers[source] for source in group if source in self._numbers] for group in share.of(self._groups)
        )
        return [batch for batch in batches if batch]

    def check(self, on_progress: OnProgress, share: Share = ALONE) -> dict[PhotoSource, str]:
        """Decode all photos once; return those that cannot be read, and why. A run must not die of one in its fifth hour.

        Args:
            share: of several processes: each decodes its photos, keeps what fits, and learns what the others found.
        """
        places = {source: place for place, source in enumerate(self._sources)}
        read = self._read(list(chain(*share.of(self._groups))), on_progress)
        found = [(places[source], reason) for source, frame, reason in read if frame is None]
        unreadable = sorted((place, reason) for each in share.gather(found) for place, reason in each)
        return {self._sources[place]: reason for place, reason in unreadable}

    def frames(self, numbers: Sequence[int]) -> Tensor:
        """Return photos ``uint8 (M, H, W, 3)``; grey where one has gone since it was checked."""
        wanted = [self._shown[number] for number in numbers]
        found = {source: self._kept[source] for source in wanted if source in self._kept}
        for source, frame, reason in self._read(
            [source for source in dict.fromkeys(wanted) if source not in found], None
        ):
            if frame is None:
                log.warning("a photo cannot be read any more: %s", reason)
            found[source] = torch.full(self._pixel.frame_shape, 128, dtype=torch.uint8) if frame is None else frame
        if not numbers:
            return torch.empty((0, *self._pixel.frame_shape), dtype=torch.uint8)
        return torch.stack([found[source] for source in wanted])

    def forget(self, *, shown: bool = True) -> None:
        """Free the decoded photos: all of them, or those alone that are not shown."""
        for source in [source for source in self._kept if shown or source not in self._numbers]:
            self._room += self._kept.pop(source).nbytes

    def _read(
        self, sources: Sequence[PhotoSource], on_progress: OnProgress | None
    ) -> Iterator[tuple[PhotoSource, Tensor | None, str]]:
        """Decode photos, in order, and keep those for which there is room."""
        cases = [Case(str(number), (source,), {}) for number, source in enumerate(sources)]
        for done, (source, (_, (found,))) in enumerate(
            zip(sources, read_case_frames(cases, self._pool, self._pixel), strict=True)
        ):
            if on_progress:
                on_progress("reading photos", done, len(cases))
            frame = None if found.frame is None else torch.from_numpy(np.array(found.frame))
            if frame is not None and self._room >= frame.nbytes:
                self._room -= frame.nbytes
                self._kept[source] = frame
            yield source, frame, f"{getattr(found.source, 'name', '') or found.source}: {found.reason}"


class Conversations:
    """Conversations of one split.

    Attributes:
        items, sequences: in the same order.
        photos: numbers, in ``Photos``, of those that each conversation shows.
        left_out: identity and reason of what cannot be used.
    """

    def __init__(
        self,
        items: Sequence[Instruction],
        photos: Photos,
        unreadable: dict[PhotoSource, str],
        encoder: Encoder,
        pieces: ChatPieces,
        end: int,
        grid: Grid,
        *,
        system: str | None,
        limits: Mapping[str, int],
        choices: Collection[Comparison] = (),
    ) -> None:
        """
        Args:
            end: id of the token that ends an answer.
            system: of conversations that have no system text of their own.
            limits: most tokens of a conversation, by what bounds it; a longer one is left out, never cut off.
            choices: places of answers where one of a few words stands.
        """
        bound, most = min(limits.items(), key=lambda limit: limit[1])
        self.items: list[Instruction] = []
        self.sequences: list[TextSequence] = []
        self.photos: list[list[int]] = []
        self.left_out: list[dict[str, str]] = []
        for item in items:
            bad = next((unreadable[photo] for photo in item.images if photo in unreadable), None)
            answers = [turn.text for turn in item.turns if turn.role == "assistant"]
            sequence = (
                None
                if bad
                else sequence_from_parts(
                    parts_from_instruction(item, encoder, pieces, end, system=system),
                    grid,
                    [
                        [place for choice in choices for place in choosing_tokens(encoder, choice, text)]
                        for text in answers
                    ],
                )
            )
            if sequence is not None and sequence.length > most:
                bad = f"{sequence.length} tokens, {sequence.layout.visual} of them visual, where {most} are allowed by {bound}"
            elif sequence is not None and not sequence.answer_tokens:
                bad = "it has no answer"
            if bad or sequence is None:
                self.left_out.append({"id": item.id, "split": item.split or "", "reason": bad or ""})
                continue
            self.items.append(item)
            self.sequences.append(sequence)
            self.photos.append(photos.show(item.images))

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
