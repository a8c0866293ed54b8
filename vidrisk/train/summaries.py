"""Features of a pretrained encoder for every sample of a table, summarised over time: the input of probes.

Every sample is decoded and encoded once; nothing is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from vidrisk.data import Table
from vidrisk.data.targets import truth_from_table
from vidrisk.models.classifier import ClipClassifier
from vidrisk.models.config import TrainConfig
from vidrisk.models.pretrained import build_classifier, contract_from_config, resolve_config
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError, SettingsError, UnreadableError
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.dataset import ClipDataset, chunks_of
from vidrisk.train.train import labels_from_table

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Summaries:
    """The readable samples of a table, with their features and truth.

    Attributes:
        table: these samples.
        features: ``float32 (N, D)``.
        truth: per target, as ``truth_from_table`` returns it.
        unreadable: the other samples, with their reasons.
    """

    table: Table
    contract: Contract
    features: npt.NDArray[np.float32]
    truth: Mapping[str, npt.NDArray[np.int64]]
    unreadable: tuple[dict[str, str], ...]

    def __repr__(self) -> str:
        return f"Summaries({len(self.table)} samples, {self.features.shape[1]} features)"


@torch.inference_mode()
def summarise_table(table: Table, config: TrainConfig, on_progress: OnProgress) -> Summaries:
    """Encode all samples of a table, whatever their split.

    ``config`` gives backbone, pixels, frames and head; the summary is what the head computes over time without
    training.

    Raises:
        DataError: clips and photos are mixed, or no sample can be read.
        SettingsError: a vision-language model, or a head that gives no summary without training.
    """
    whole = table.with_samples(replace(sample, split="train") for sample in table.samples)
    labels = labels_from_table(whole, config)
    frozen = config.model_copy(update={"lora": config.lora.model_copy(update={"last_blocks": 0})})
    config = resolve_config(frozen, clips=labels.clips)
    contract = contract_from_config(config, labels)
    model = build_classifier(config, contract).eval()
    if not isinstance(model, ClipClassifier) or not model.head.is_linear:
        raise SettingsError(
            f"a summary by {config.backbone} with the head {config.head.kind}",
            allowed="an encoder of frames or clips; the head auto, linear, segments or motion",
        )
    data = ClipDataset(table, contract, decoder=config.decoder, cache_mb=0)
    features: list[torch.Tensor] = []
    kept: list[int] = []
    unreadable: list[dict[str, str]] = []
    for chunk in chunks_of(len(data), data.moments):
        on_progress("encoding", chunk[0], len(data))
        frames, rows = _readable(data, chunk, unreadable)
        if rows:
            found = model.features(torch.stack(frames))
            features.append(model.head.trunk(found).float())
            kept += rows
    if not kept:
        raise DataError(f"no sample of {table.root.name} can be read; the first: {unreadable[0]['reason']}")
    if unreadable:
        log.warning(
            "%d of %d samples cannot be read and are left out; the first: %s",
            len(unreadable),
            len(table),
            unreadable[0]["reason"],
        )
    left = table.with_samples(table.samples[row] for row in kept)
    return Summaries(
        left, contract, torch.cat(features).numpy(), truth_from_table(left, contract.targets), tuple(unreadable)
    )


def _readable(
    data: ClipDataset, chunk: list[int], unreadable: list[dict[str, str]]
) -> tuple[list[torch.Tensor], list[int]]:
    frames, rows = [], []
    for row in chunk:
        try:
            frames.append(data[row][0])
            rows.append(row)
        except UnreadableError as error:
            unreadable.append({**data.samples[row].identity, "reason": str(error)})
    return frames, rows
