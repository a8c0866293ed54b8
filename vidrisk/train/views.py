"""Views: cached outputs of the frozen part of an encoder for augmented samples, drawn from in every epoch.

If LoRA adapts only the last blocks (or nothing), most of the work of a step is the same in every epoch. With a few
augmented views of every sample computed by the frozen layers in advance, an epoch only runs the trained layers.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidrisk.data import Sample
from vidrisk.models.trainable import TrainableModel
from vidrisk.train.augment import augment_clips
from vidrisk.train.dataset import ClipDataset, chunks_of, moments_of
from vidrisk.train.kept_rows import KeptRows
from vidrisk.train.mirrors import Mirrors
from vidrisk.train.shares import ALONE, Share

log = logging.getLogger(__name__)


class ViewDataset(Dataset[tuple[Tensor, Tensor]]):
    """Dataset of views: item i holds one view ``float16 (T, …)`` of sample i, chosen by ``draw``, and the truth.

    Item i + N is the next view of the same sample, and so on: see ``numbers_of_draws``. View 0 is the sample itself,
    the others are augmented. If a view is mirrored, its truth is mirrored too.

    Attributes:
        samples: the samples of the views.
    """

    def __init__(
        self,
        views: Tensor | KeptRows,
        truth: Tensor,
        count: int,
        mirrored: Tensor | None = None,
        mirrors: Mirrors | None = None,
        samples: Sequence[Sample] = (),
    ) -> None:
        self.views = views
        self.samples = [*samples]
        self.truth = truth
        self.count = count
        self._mirrored = torch.zeros((len(truth), count), dtype=torch.bool) if mirrored is None else mirrored
        self._mirrors = mirrors
        self._chosen = torch.zeros(len(truth), dtype=torch.long)
        self._rows = [*range(len(truth))]  # row in ``views`` of each sample

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        again, index = divmod(index, len(self))
        view = (int(self._chosen[index]) + again) % self.count
        return self.view_of(index, view), self.truth_of(index, view)

    def truth_of(self, index: int, view: int) -> Tensor:
        """Return the truth of one view of a sample, ``int64 (columns,)``."""
        truth: Tensor = self.truth[index]
        return truth if self._mirrors is None else self._mirrors.turn(truth[None], self._mirrored[index, view][None])[0]

    def view_of(self, index: int, view: int) -> Tensor:
        """Return one view of a sample, ``float32 (T, …)``."""
        if isinstance(self.views, KeptRows):
            found = self.views.get(self._rows[index] * self.count + view)
            assert found is not None  # views exist only if all rows were kept
            return found.float()
        return self.views[self._rows[index], view].float()

    def plain(self, rows: Sequence[int], view: int = 0) -> Tensor:
        """Return one view of samples, by default the samples themselves, ``float32 (B, T, …)``."""
        return torch.stack([self.view_of(row, view) for row in rows])

    @property
    def memory_mb(self) -> float:
        """Memory that the views take, in MiB; 0 if they are in a file."""
        return self.views.numel() * self.views.element_size() / 2**20 if isinstance(self.views, Tensor) else 0.0

    def numbers_of_draws(self, batches: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return batches in which a repeated sample gets another number, to be shown as another view."""
        drawn: Counter[int] = Counter()
        found: list[list[int]] = []
        for batch in batches:
            found.append([])
            for row in batch:
                found[-1].append(row + len(self) * drawn[row])
                drawn[row] += 1
        return found

    def part(self, rows: Sequence[int]) -> ViewDataset:
        """Return the views of some samples; the storage is shared."""
        part = copy.copy(self)
        part._rows = [self._rows[row] for row in rows]
        part.samples = [self.samples[row] for row in rows]
        part.truth, part._mirrored = self.truth[[*rows]], self._mirrored[[*rows]]
        part.draw(None)
        return part

    def with_views(self, views: Tensor) -> ViewDataset:
        """Return the same samples with other data for their first views ``(N, count, …)``."""
        count = views.shape[1]
        return ViewDataset(views, self.truth, count, self._mirrored[:, :count], self._mirrors, self.samples)

    def draw(self, generator: torch.Generator | None) -> None:
        """Choose a view for every sample; without a generator, the sample itself."""
        self._chosen = (
            torch.zeros(len(self), dtype=torch.long)
            if generator is None
            else torch.randint(self.count, (len(self),), generator=generator)
        )


@torch.inference_mode()
def views_from_clips(
    model: TrainableModel,
    data: ClipDataset,
    *,
    views: int,
    kinds: tuple[str, ...],
    jitter: int,
    seed: int,
    room_mb: float,
    on_progress: Callable[[int, int], None],
    share: Share = ALONE,
    disk_mb: float = 0,
    scratch: Path | None = None,
    mirrors: Mirrors | None = None,
) -> ViewDataset | None:
    """Compute ``views`` views of every sample with the frozen part of a model.

    Args:
        model: the model with the frozen part.
        data: the samples.
        views: number of views per sample.
        kinds: augmentations of all views but the first.
        jitter: moments that one is drawn from.
        seed: seed of the augmentations.
        room_mb: memory that the views may take.
        on_progress: called with (done, total).
        share: with several processes, each computes the views of its samples, and receives all of them.
        disk_mb: space that the views may take in a file in ``scratch`` if memory is too small and one process trains.
        scratch: folder of that file.
        mirrors: swaps the labels of mirrored views.

    Returns:
        The views, or None if the model has no frozen part that can run alone, or if the views would not fit.
    """
    if not views or not model.has_frozen_part:
        return None
    model.eval()
    device = next(model.parameters()).device
    one = model.lower(moments_of(data[0][0][None], jitter, None).to(device))
    needed_mb = one.numel() * 2 * views * len(data) / 2**20
    is_on_disk = needed_mb > room_mb and share.world == 1 and needed_mb <= disk_mb
    if needed_mb > room_mb and not is_on_disk:
        log.warning(
            "%d views need %.0f MB, cache_mb leaves %.0f and disk_cache_mb %.0f: training without them, slower",
            views,
            needed_mb,
            room_mb,
            disk_mb if share.world == 1 else 0,
        )
        return None
    generator = torch.Generator().manual_seed(seed + share.rank)
    shape = (len(data), views, *one.shape[1:])
    rows = KeptRows(0, int(disk_mb * 2**20), scratch) if is_on_disk else None
    kept = (torch.empty if share.world == 1 else torch.zeros)(
        shape if rows is None else (0, views), dtype=torch.float16
    )
    mirrored = torch.zeros((len(data), views))
    chunks = share.of(chunks_of(len(data), data.moments))
    for chunk, (frames, _) in zip(chunks, DataLoader(data, batch_sampler=chunks), strict=True):
        on_progress(chunk[0], len(data))
        for view in range(views):
            plain = view == 0
            chosen = moments_of(frames, jitter, None if plain else generator).to(device)
            if not plain:
                chosen, is_mirrored = augment_clips(chosen, kinds, generator)
                mirrored[chunk, view] = is_mirrored.float()
            computed = model.lower(chosen).half().cpu()
            if rows is None:
                kept[chunk, view] = computed
            elif not all(rows.put(number * views + view, one) for number, one in zip(chunk, computed, strict=True)):
                return None  # the disk is full, which was logged
    return ViewDataset(
        share.join(kept) if rows is None else rows, data.truth, views, share.join(mirrored) > 0, mirrors, data.samples
    )
