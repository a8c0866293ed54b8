"""Conversations for training: their tokens, and their photos, each decoded and encoded once."""

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
from vidrisk.runtimes.text.alternatives import find_choice_tokens
from vidrisk.runtimes.text.requests import Comparison
from vidrisk.runtimes.text.turns import Encoder
from vidrisk.train.shares import ALONE, Share

log = logging.getLogger(__name__)

PHOTOS_AT_ONCE = 16


class Photos:
    """The distinct photos of conversations. Photos in use are numbered from 0.

    Args:
        cache_mb: memory for decoded photos; the ones that do not fit are decoded on demand.
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
        """Return the number of photos in use."""
        return len(self._shown)

    def show(self, photos: Sequence[PhotoSource]) -> list[int]:
        """Return the numbers of photos; a photo that was not in use gets the next number."""
        for photo in photos:
            if photo not in self._numbers:
                self._numbers[photo] = len(self._shown)
                self._shown.append(photo)
        return [self._numbers[photo] for photo in photos]

    def list_batches(self, share: Share) -> list[list[int]]:
        """Return the numbers of the photos in use that this process has checked, in batches.

        A batch holds the same photos for any number of processes, because the output of a tower depends on the batch in
        the last bits.
        """
        batches = (
            [self._numbers[source] for source in group if source in self._numbers] for group in share.of(self._groups)
        )
        return [batch for batch in batches if batch]

    def check(self, on_progress: OnProgress, share: Share = ALONE) -> dict[PhotoSource, str]:
        """Decode all photos once; return the unreadable ones with their reasons.

        This way a run cannot fail on a bad photo in its fifth hour. With several processes, each decodes its share of
        the photos, keeps what fits, and receives the findings of the others. ``on_progress`` is called for each photo.
        """
        places = {source: place for place, source in enumerate(self._sources)}
        read = self._read(list(chain(*share.of(self._groups))), on_progress)
        found = [(places[source], reason) for source, frame, reason in read if frame is None]
        unreadable = sorted((place, reason) for each in share.gather(found) for place, reason in each)
        return {self._sources[place]: reason for place, reason in unreadable}

    def frames(self, numbers: Sequence[int]) -> Tensor:
        """Return photos ``uint8 (M, H, W, 3)``; one that can no longer be read is grey."""
        wanted = [self._shown[number] for number in numbers]
        found = {source: self._kept[source] for source in wanted if source in self._kept}
        for source, frame, reason in self._read(
            [source for source in dict.fromkeys(wanted) if source not in found], None
        ):
            if frame is None:
                log.warning("a photo can no longer be read: %s", reason)
            found[source] = torch.full(self._pixel.frame_shape, 128, dtype=torch.uint8) if frame is None else frame
        if not numbers:
            return torch.empty((0, *self._pixel.frame_shape), dtype=torch.uint8)
        return torch.stack([found[source] for source in wanted])

    def forget(self, *, shown: bool = True) -> None:
        """Free the decoded photos: all of them, or only those that are not in use."""
        for source in [source for source in self._kept if shown or source not in self._numbers]:
            self._room += self._kept.pop(source).nbytes

    def _read(
        self, sources: Sequence[PhotoSource], on_progress: OnProgress | None
    ) -> Iterator[tuple[PhotoSource, Tensor | None, str]]:
        """Decode photos in order, and keep as many as fit."""
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

    Conversations with an unreadable photo, too many tokens or no answer are left out.

    Args:
        unreadable: photos that cannot be used, with their reasons.
        end: id of the token that ends an answer.
        system: system text of conversations that have none of their own.
        limits: maximum number of tokens of a conversation, by the name of the limit; a longer one is left out, never
            truncated.
        choices: places in answers that hold one of a few words.

    Attributes:
        items, sequences: in the same order.
        photos: numbers, in ``Photos``, of the photos of each conversation.
        left_out: identity and reason of each conversation that cannot be used.
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
                        [place for choice in choices for place in find_choice_tokens(encoder, choice, text)]
                        for text in answers
                    ],
                )
            )
            if sequence is not None and sequence.length > most:
                visual = sequence.layout.visual
                bad = f"{sequence.length} tokens, {visual} of them visual, but {bound} allows {most}"
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
        """Number of trained tokens of each conversation."""
        return [sequence.answer_tokens for sequence in self.sequences]

    def weights(self, choice: float) -> list[float]:
        """Return the weight of each conversation in the loss; a choosing token counts ``choice``, any other 1."""
        return [sequence.answer_tokens + (choice - 1) * sequence.choices for sequence in self.sequences]
