"""Features of samples as the pretrained encoder gives them, computed once, so that a head alone can be trained on them."""

from __future__ import annotations

import torch

from vidrisk.models.classifier import ClipClassifier
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.dataset import chunks_of
from vidrisk.train.views import ViewDataset


@torch.inference_mode()
def compute_features(
    model: ClipClassifier, data: ViewDataset, room_mb: float, on_progress: OnProgress
) -> ViewDataset | None:
    """Carry views on through the other layers without adapters: ``float16 (N, count, T, D)``.

    Args:
        room_mb: memory that the features may take; there are fewer views where it does not suffice for all.

    Returns:
        None where there is no room for one view of each.
    """
    model.eval()
    device = next(model.parameters()).device
    with model.without_adapters():
        first = model.features(data.plain([0]).to(device))
        view_mb = first.numel() * 2 * len(data) / 2**20
        count = min(data.count, int(room_mb / view_mb))
        if not count:
            return None
        kept = torch.empty((len(data), count, *first.shape[1:]), dtype=torch.float16)
        for view in range(count):
            for chunk in chunks_of(len(data), data[0][0].shape[0]):
                on_progress("computing features", view * len(data) + chunk[0], count * len(data))
                kept[chunk, view] = model.features(data.plain(chunk, view).to(device)).half().cpu()
    return data.with_views(kept)
