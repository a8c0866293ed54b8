"""Training of a model that writes: conversations with photos, cross-entropy over the tokens of their answers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrisk.models.config import TrainConfig
from vidrisk.models.vlm.reporter import Reporter
from vidrisk.models.vlm.sequences import SequenceBatch, batch_from_sequences
from vidrisk.runtimes.contract.progress import OnProgress
from vidrisk.train.augment import augment_frames
from vidrisk.train.conversations import PHOTOS_AT_ONCE, Conversations, Photos
from vidrisk.train.shares import Share
from vidrisk.train.strategies import is_sharded
from vidrisk.train.work import Draws, Judgement, Work

log = logging.getLogger(__name__)

STANDARDISE_PHOTOS = 256
GROUPED_BATCHES = 32  # batches whose conversations are sorted together by length, to reduce padding
TOKENS_AT_ONCE = 4096  # of a validation batch


class Reporting(Work):
    """A model that writes, and conversations.

    Args:
        val: conversations to validate on; may be None.
        share: share of this process.
    """

    def __init__(
        self,
        model: Reporter,
        config: TrainConfig,
        photos: Photos,
        train: Conversations,
        val: Conversations | None,
        share: Share,
    ) -> None:
        self.model, self.config, self.photos, self.train, self.val, self.share = (
            model,
            config,
            photos,
            train,
            val,
            share,
        )
        self.names, self.metric = train.names, "token_probability"
        self._train_weights = train.weights(config.report.choice_weight)
        self._features: Tensor | None = None  # of unaugmented photos, (M, n, W)
        self._views: Tensor | None = None  # of augmented training photos, (L, V, n, W)
        self._rows: dict[int, int] = {}  # row of each training photo in the views

    @torch.inference_mode()
    def prepare(self, on_progress: OnProgress) -> None:
        """Cache the features of a frozen tower if they fit in memory, in several views if photos are augmented."""
        self.photos.forget(shown=False)
        config = self.config
        if not self.model.has_frozen_tower or not len(self.photos) or not config.views:
            return
        self.model.eval()
        shape = self._encode([0]).shape[1:]
        learnt = sorted({number for numbers in self.train.photos for number in numbers})
        self._rows = {number: row for row, number in enumerate(learnt)}
        views = config.views - 1 if config.augment else 0
        if config.augment and not views:
            log.warning(
                "views=1 keeps the unaugmented photos only: augment=%s does nothing; set views=4, or views=0",
                [*config.augment],
            )
        needed_mb = (len(self.photos) + len(learnt) * views) * math.prod(shape) * 2 / 2**20
        if needed_mb > config.cache_mb:
            log.warning(
                "features of %d photos in %d views need %.0f MB, cache_mb leaves %d: the tower runs in every step, "
                "slower",
                len(self.photos),
                1 + views,
                needed_mb,
                config.cache_mb,
            )
            return
        batches = self.photos.list_batches(self.share)
        kept = torch.zeros((len(self.photos), *shape), dtype=torch.float16)
        in_views = torch.zeros((len(learnt), views, *shape), dtype=torch.float16)
        for done, numbers in enumerate(batches):
            on_progress("running the vision tower", done, len(batches))
            kept[numbers] = self._encode(numbers).half().cpu()
            generator = torch.Generator().manual_seed(config.seed + numbers[0])  # the same for any number of processes
            few = [number for number in numbers if number in self._rows]
            for view in range(views if few else 0):
                in_views[[self._rows[number] for number in few], view] = self._encode(few, generator).half().cpu()
        # Cloned, because tensors made in inference mode cannot be used in training.
        self._features = self.share.join(kept).clone()
        self._views = self.share.join(in_views).clone() if views else None
        self.photos.forget()

    @property
    def _device(self) -> torch.device:
        """Device of the model: the CPU until its weights are sharded, whatever device the process has."""
        return next(self.model.parameters()).device

    def _encode(self, numbers: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        return self.model.encode(self._frames(numbers, generator).to(self._device))

    def _frames(self, numbers: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Return photos, augmented if there is a generator."""
        frames, kinds = self.photos.frames(numbers), self.config.augment
        return (
            frames
            if generator is None or not kinds or not numbers
            else augment_frames(frames[:, None], kinds, generator)[:, 0]
        )

    @torch.inference_mode()
    def standardise(self, on_progress: OnProgress) -> None:
        """Give a new projector inputs of mean 0 and deviation 1, and tokens as large as the language model's own."""
        shown = sorted({number for numbers in self.train.photos for number in numbers})
        if not self.model.backbone.has_own_projector or not shown:
            return
        on_progress("standardising", 0, 1)
        if self.share.is_main:
            few = [
                shown[place]
                for place in np.linspace(0, len(shown) - 1, min(len(shown), STANDARDISE_PHOTOS)).astype(int)
            ]
            parts = [few[begin : begin + PHOTOS_AT_ONCE] for begin in range(0, len(few), PHOTOS_AT_ONCE)]
            self.model.standardise(
                torch.cat(
                    [
                        self._encode(part) if self._features is None else self._features[part].to(self._device)
                        for part in parts
                    ]
                )
            )
        self.share.copy_main(
            tensor for name, tensor in self.model.state_dict().items() if name.startswith(self.model.own_parts)
        )

    def batches(self, size: int, order: torch.Generator) -> list[list[int]]:
        """Return batches of conversations of similar length, in random order."""
        shuffled = torch.randperm(len(self.train), generator=order).tolist()
        found: list[list[int]] = []
        for begin in range(0, len(shuffled), size * GROUPED_BATCHES):
            group = sorted(
                shuffled[begin : begin + size * GROUPED_BATCHES], key=lambda number: self.train.sequences[number].length
            )
            found += [group[place : place + size] for place in range(0, len(group), size)]
        return [found[place] for place in torch.randperm(len(found), generator=order).tolist()]

    def inputs(self, batches: Sequence[Sequence[int]], draws: Draws) -> Iterator[SequenceBatch]:
        """Yield this process's conversations of each batch."""
        for batch in batches:
            yield self._batch(self.train, self.share.of(batch) or [batch[0]], draws.own)

    def _batch(
        self, data: Conversations, numbers: Sequence[int], generator: torch.Generator | None = None
    ) -> SequenceBatch:
        """Return a batch of conversations.

        With a ``generator``, an augmentation, or a view, is drawn for each photo; without one the photos are
        unaugmented.
        """
        shown = [photo for number in numbers for photo in data.photos[number]]
        if self._features is None:
            photos = self._frames(shown, generator)
        else:
            photos = self._features[shown].float()
            if generator is not None and self._views is not None:
                drawn = torch.randint(1 + self._views.shape[1], (len(shown),), generator=generator)
                rows = torch.tensor([self._rows[number] for number in shown], dtype=torch.long)
                other = drawn > 0
                photos[other] = self._views[rows[other], drawn[other] - 1].float()
        return batch_from_sequences([data.sequences[number] for number in numbers], photos, self.model.positions).to(
            self.share.device
        )

    def loss(self, model: Any, inputs: SequenceBatch, batch: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the weighted mean over all trained tokens of the batch, and the loss of each conversation.

        The mean is scaled so that its mean over the processes is that of the whole batch; the conversations are those
        of this process's share.
        """
        losses, _ = model(inputs)
        losses = inputs.sums(losses * self._weights(inputs))
        counts = float(bool(self.share.of(batch)))
        return losses.sum() * counts / sum(self._train_weights[number] for number in batch) * self.share.world, (
            losses[:, None],
        )

    def _weights(self, batch: SequenceBatch) -> Tensor:
        """Return the weights of the trained tokens, ``(K,)``."""
        return 1 + (self.config.report.choice_weight - 1) * batch.is_choice

    def judge(self, on_progress: OnProgress) -> Judgement | None:
        """Evaluate the answers of the validation samples, teacher-forced."""
        return None if self.val is None else self.judge_conversations(self.val, on_progress)

    def judge_conversations(self, data: Conversations, on_progress: OnProgress) -> Judgement:
        """Return the loss, the probability per token, and accuracies, the same in all processes.

        The loss is per token, weighted as in training; the probability per token is the geometric mean that goes with
        it. The accuracies are the share of all tokens, and of choosing tokens, that are the most probable ones.
        """
        model, share = self.model, self.share
        model.eval()
        in_shards = is_sharded(model)
        chunks = list(_chunks(data))
        mine = share.of(chunks)
        rounds = mine + chunks[:1] * (-(-len(chunks) // share.world) - len(mine)) if in_shards else mine
        sums = torch.zeros(3, dtype=torch.float64)
        with torch.no_grad() if in_shards else torch.inference_mode():
            for number, chunk in enumerate(rounds):
                on_progress("validating", chunk[0], len(data))
                batch = self._batch(data, chunk)
                # accelerate wraps forward (and only that) in the training precision. Shards are gathered nowhere else.
                losses, right = model(batch) if in_shards else model.losses(batch)
                if number < len(mine):
                    sums += torch.stack(
                        [
                            (losses * self._weights(batch)).double().sum(),
                            right.double().sum(),
                            right[batch.is_choice].double().sum(),
                        ]
                    ).cpu()
        nats, right_, chosen = (share.mean(float(value)) * share.world for value in sums)
        loss = nats / sum(data.weights(self.config.report.choice_weight))
        choices = sum(sequence.choices for sequence in data.sequences)
        figures = {"choice_accuracy": chosen / choices} if choices else {}
        return Judgement(loss, math.exp(-loss), {"token_accuracy": right_ / sum(data.answer_tokens), **figures})


def _chunks(data: Conversations) -> Iterator[list[int]]:
    """Yield numbers of conversations in batches with a bounded number of tokens."""
    chunk: list[int] = []
    for number in sorted(range(len(data)), key=lambda number: data.sequences[number].length):
        if chunk and (len(chunk) + 1) * data.sequences[number].length > TOKENS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(number)
    if chunk:
        yield chunk
