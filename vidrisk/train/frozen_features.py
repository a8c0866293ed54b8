"""Features of samples from the pretrained encoder, computed once to train a head alone on them."""

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
    """Return the output of the remaining layers without adapters for the views: ``float16 (N, count, T, D)``.

    ``room_mb`` is the memory that the features may take; if it is too small for all views, there are fewer. Returns
    None if there is no room for one view of each sample.
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
