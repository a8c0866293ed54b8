"""Views: what the frozen part of an encoder makes of augmented samples, computed once and drawn from in every epoch.

When LoRA adapts only the last blocks (or nothing), most of a step's work is the same in every epoch. Carrying a few
augmented views of every sample through the frozen layers beforehand turns an epoch into the trained layers' work alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidrisk.models.trainable import TrainableModel
from vidrisk.train.augment import augmented
from vidrisk.train.dataset import ClipDataset, chunks_of, moments_of
from vidrisk.train.shares import ALONE, Share

log = logging.getLogger(__name__)


class ViewDataset(Dataset[tuple[Tensor, Tensor]]):
    """Item i: one view ``float16 (T, …)`` of sample i, chosen by ``draw``, and the truth.

    View 0 is the sample itself, the others are augmented.
    """

    def __init__(self, views: Tensor, truth: Tensor) -> None:
        self.views = views
        self.truth = truth
        self._chosen = torch.zeros(len(truth), dtype=torch.long)

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.views[index, self._chosen[index]].float(), self.truth[index]

    def draw(self, generator: torch.Generator | None) -> None:
        """Choose a view for every sample; without a generator the sample itself."""
        count = self.views.shape[1]
        self._chosen = torch.zeros(len(self), dtype=torch.long) if generator is None else torch.randint(
            count, (len(self),), generator=generator)


@torch.inference_mode()
def views_from_clips(model: TrainableModel, data: ClipDataset, *, views: int, kinds: tuple[str, ...], jitter: int, seed: int,
                     room_mb: float, on_progress: Callable[[int, int], None], share: Share = ALONE) -> ViewDataset | None:
    """Carry ``views`` views of every sample through the frozen part of a model.

    Args:
        share: of several processes: each computes the views of its samples, and gets all of them.

    Returns:
        None when the model has no frozen part that can be run alone, or when the views would not fit ``room_mb``.
    """
    if not views or not model.has_frozen_part:
        return None
    model.eval()
    device = next(model.parameters()).device
    one = model.lower(moments_of(data[0][0][None], jitter, None).to(device))
    needed_mb = one.numel() * 2 * views * len(data) / 2**20
    if needed_mb > room_mb:
        log.warning("%d views need %.0f MB, cache_mb leaves %.0f: training without them, slower", views, needed_mb, room_mb)
        return None
    generator = torch.Generator().manual_seed(seed + share.rank)
    shape = (len(data), views, *one.shape[1:])
    kept = (torch.empty if share.world == 1 else torch.zeros)(shape, dtype=torch.float16)
    chunks = share.of(chunks_of(len(data), data.moments))
    for rows, (frames, _) in zip(chunks, DataLoader(data, batch_sampler=chunks), strict=True):
        on_progress(rows[0], len(data))
        for view in range(views):
            plain = view == 0
            chosen = moments_of(frames, jitter, None if plain else generator).to(device)
            kept[rows, view] = model.lower(chosen if plain else augmented(chosen, kinds, generator)).half().cpu()
    return ViewDataset(share.join(kept), data.truth)
