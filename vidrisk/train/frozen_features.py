"""Features of samples as the pretrained encoder gives them, computed once, so that a head alone can be trained on them."""

from __future__ import annotations

import logging

import torch

from vidrisk.models.classifier import ClipClassifier
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.dataset import ClipDataset, chunks_of, moments_of
from vidrisk.train.views import ViewDataset

log = logging.getLogger(__name__)


@torch.inference_mode()
def compute_features(model: ClipClassifier, data: ClipDataset | ViewDataset, room_mb: float,
                     on_progress: OnProgress) -> ViewDataset | None:
    """Compute the features of samples without adapters, as views ``float16 (N, count, T, D)``.

    Views that were carried through the layers below the adapters go on from there; of clips and photos the samples themselves are
    encoded.

    Args:
        room_mb: memory that the features may take; there are fewer views where it does not suffice for all.

    Returns:
        None where there is no room for one view of each.
    """
    model.eval()
    device = next(model.parameters()).device
    plain = data if isinstance(data, ViewDataset) else None
    with model.without_adapters():
        first = model.features(_inputs(data, [0], 0).to(device))
        view_mb = first.numel() * 2 * len(data) / 2**20
        count = min(plain.count if plain else 1, int(room_mb / view_mb))
        if not count:
            log.warning("features of %d samples need %.0f MB, cache_mb is %.0f: LoRA is not compared with the head alone",
                        len(data), view_mb, room_mb)
            return None
        kept = torch.empty((len(data), count, *first.shape[1:]), dtype=torch.float16)
        moments = data[0][0].shape[0]
        for view in range(count):
            for chunk in chunks_of(len(data), moments):
                on_progress("computing features", view * len(data) + chunk[0], count * len(data))
                kept[chunk, view] = model.features(_inputs(data, chunk, view).to(device)).half().cpu()
    return plain.with_views(kept) if plain else ViewDataset(kept, data.truth, count, samples=data.samples)


def _inputs(data: ClipDataset | ViewDataset, rows: list[int], view: int) -> torch.Tensor:
    if isinstance(data, ViewDataset):
        return torch.stack([data.view_of(row, view) for row in rows])
    return moments_of(torch.stack([data[row][0] for row in rows]), data.jitter, None)
