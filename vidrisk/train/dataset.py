"""A table as a torch dataset: the contract's reader behind an index, with a cache of decoded frames."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidrisk.data import Sample, Table
from vidrisk.data.targets import truth_from_table
from vidrisk.frames import Decoder, Interval, read_clips
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import UnreadableError
from vidrisk.runtimes.contract.specs import TimeSpec
from vidrisk.train.kept_rows import KeptRows
from vidrisk.train.objective import truth_tensor
from vidrisk.train.shares import ALONE, Share

FRAMES_AT_ONCE = 32


def chunks_of(count: int, moments: int) -> list[list[int]]:
    """Return the numbers of samples in batches for passes without gradients.

    Small batches stay in the processor's cache.
    """
    size = max(1, FRAMES_AT_ONCE // moments)
    return [list(range(begin, min(begin + size, count))) for begin in range(0, count, size)]


class ClipDataset(Dataset[tuple[Tensor, Tensor]]):
    """Dataset of clips: item i holds the frames ``uint8 (T·jitter, H, W, 3)`` and truth of sample i.

    The truth is ``int64 (columns,)`` (``objective.truth_tensor``). With ``jitter`` k, k moments are read around every
    moment of the contract, which is the middle one; training draws one of the k. Frames are cached, up to ``cache_mb``
    in memory and ``disk_mb`` in a file in ``scratch``, so later epochs do not decode again.

    Attributes:
        moments: number of moments of an item, T·jitter; 1 for photos.
        notes: remarks about samples that could be read nevertheless, by their titles.
    """

    def __init__(
        self,
        table: Table,
        contract: Contract,
        *,
        jitter: int = 1,
        decoder: Decoder = "auto",
        cache_mb: float = 0,
        disk_mb: float = 0,
        scratch: Path | None = None,
    ) -> None:
        self.pixel = contract.pixel
        self.time = TimeSpec(contract.time.frames * jitter) if contract.time else None
        self.decoder: Decoder = decoder
        self.jitter = jitter
        self.moments = contract.frames * jitter if contract.time else 1
        self.samples = list(table.samples)
        self.truth = truth_tensor(truth_from_table(table, contract.targets), contract.targets)
        self._kept = KeptRows(int(cache_mb * 2**20), int(disk_mb * 2**20), scratch)
        self._numbers: dict[tuple[Path, Interval | None], int] = {}  # cache keys: a file may occur twice
        self.notes: dict[str, str] = {}
        self._is_part = False

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        number = self._numbers.setdefault((sample.path, sample.interval), len(self._numbers))
        frames = self._kept.get(number)
        if frames is None:
            clip = next(read_clips(sample.path, self.pixel, self.time, sample.interval, decoder=self.decoder))
            if clip.note or clip.damage:
                self.notes[sample.title] = "; ".join(map(str, filter(None, (clip.note, clip.damage))))
            frames = torch.from_numpy(np.ascontiguousarray(clip.frames))
            self._kept.put(number, frames)
        return frames, self.truth[index]

    def part(self, rows: Sequence[int]) -> ClipDataset:
        """Return some of the samples as a dataset that shares the frame cache, but cannot clear it."""
        part = copy.copy(self)
        part.samples, part.truth = [self.samples[row] for row in rows], self.truth[[*rows]]
        part._is_part = True
        return part

    def plain(self, rows: Sequence[int], view: int = 0) -> Tensor:
        """Return samples at the contract's own moments, ``uint8 (B, T, H, W, 3)``; ``view`` is ignored."""
        return moments_of(torch.stack([self[row][0] for row in rows]), self.jitter, None)

    def forget(self) -> None:
        """Free the cached frames."""
        if not self._is_part:
            self._kept.clear()

    @property
    def cached_mb(self) -> float:
        """Size of the frames in memory, in MiB."""
        return self._kept.memory_bytes / 2**20

    def drop_unreadable(
        self, on_progress: Callable[[int, int], None], share: Share = ALONE
    ) -> list[tuple[Sample, str]]:
        """Decode every sample once and drop the unreadable ones; return these with their reasons.

        With several processes, each decodes its share of the samples, and receives the findings of the others.
        ``on_progress`` is called with (done, total).
        """
        found: list[tuple[int, str]] = []
        # In the chunks of later passes, so that the frames cached here are the ones this process needs first.
        for index in chain(*share.of(chunks_of(len(self), self.moments))):
            on_progress(index, len(self))
            try:
                self[index]
            except UnreadableError as error:
                found.append((index, str(error)))
        told = share.gather([found, list(self.notes.items())])
        bad: dict[int, str] = dict(sorted((index, reason) for each, _ in told for index, reason in each))
        self.notes = {title: note for _, notes in told for title, note in notes}
        dropped = [(self.samples[index], reason) for index, reason in bad.items()]
        kept = [index for index in range(len(self)) if index not in bad]
        self.samples = [self.samples[index] for index in kept]
        self.truth = self.truth[kept]
        return dropped


def moments_of(frames: Tensor, jitter: int, generator: torch.Generator | None) -> Tensor:
    """Pick T of ``(B, T·jitter, …)`` moments, one per group of ``jitter``.

    It is drawn at random, or the middle one without a generator.
    """
    if jitter == 1:
        return frames
    batch, moments = len(frames), frames.shape[1] // jitter
    offsets = (
        torch.full((batch, moments), jitter // 2)
        if generator is None
        else torch.randint(jitter, (batch, moments), generator=generator)
    )
    chosen: Tensor = frames[torch.arange(batch)[:, None], torch.arange(moments) * jitter + offsets]
    return chosen
