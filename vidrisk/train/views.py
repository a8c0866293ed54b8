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
from vidrisk.train.dataset import ClipDataset, moments_of

log = logging.getLogger(__name__)


FRAMES_AT_ONCE = 32


def clips_at_once(moments: int) -> int:
    """Clips per batch where no gradient is needed: few frames at a time stay in the processor's cache."""
    return max(1, FRAMES_AT_ONCE // moments)


class ViewDataset(Dataset[tuple[Tensor, Tensor]]):
    """Item i: one view ``float16 (T, …)`` of sample i, chosen by ``draw``, and the label indices.

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
                     room_mb: float, on_progress: Callable[[int, int], None]) -> ViewDataset | None:
    """Carry ``views`` views of every sample through the frozen part of a model.

    Returns:
        None when the model has no frozen part that can be run alone, or when the views would not fit ``room_mb``.
    """
    if not views or not model.has_frozen_part:
        return None
    model.eval()
    one = model.lower(moments_of(data[0][0][None], jitter, None))
    needed_mb = one.numel() * 2 * views * len(data) / 2**20
    if needed_mb > room_mb:
        log.warning("%d views need %.0f MB, cache_mb leaves %.0f: training without them, slower", views, needed_mb, room_mb)
        return None
    generator = torch.Generator().manual_seed(seed)
    kept = torch.empty((len(data), views, *one.shape[1:]), dtype=torch.float16)
    done = 0
    for frames, _ in DataLoader(data, batch_size=clips_at_once(data[0][0].shape[0])):
        on_progress(done, len(data))
        for view in range(views):
            plain = view == 0
            chosen = moments_of(frames, jitter, None if plain else generator)
            kept[done : done + len(frames), view] = model.lower(chosen if plain else augmented(chosen, kinds, generator)).half()
        done += len(frames)
    return ViewDataset(kept, data.truth)
