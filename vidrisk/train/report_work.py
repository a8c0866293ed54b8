"""Work of a model that writes: conversations with photos, cross-entropy over the tokens of their answers."""

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
from vidrisk.train.augment import augmented
from vidrisk.train.conversations import PHOTOS_AT_ONCE, Conversations, Photos
from vidrisk.train.shares import Share
from vidrisk.train.strategies import is_sharded
from vidrisk.train.work import Draws, Judgement, Work

log = logging.getLogger(__name__)

STANDARDISE_PHOTOS = 256
GROUPED_BATCHES = 32  # conversations of so many batches are sorted by length, so that few places of a batch are empty
TOKENS_AT_ONCE = 4096  # of a batch that is judged


class Reporting(Work):
    """A model that writes, and conversations.

    Args:
        val: none for none.
        share: of this process.
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
        self._features: Tensor | None = None  # of photos as they are, (M, n, W)
        self._views: Tensor | None = None  # of photos that are learnt from, augmented, (L, V, n, W)
        self._rows: dict[int, int] = {}  # of these among their views

    @torch.inference_mode()
    def prepare(self, on_progress: OnProgress) -> None:
        """Keep the features of a tower that is not trained, where memory allows: of several views where photos are augmented."""
        self.photos.forget(shown=False)
        config = self.config
        if not self.model.has_frozen_tower or not len(self.photos) or not config.views:
            return
        self.model.eval()
        shape = self._encoded([0]).shape[1:]
        learnt = sorted({number for numbers in self.train.photos for number in numbers})
        self._rows = {number: row for row, number in enumerate(learnt)}
        views = config.views - 1 if config.augment else 0
        if config.augment and not views:
            log.warning(
                "views=1 keeps photos as they are alone: augment=%s does nothing; set views=4, or views=0",
                [*config.augment],
            )
        needed_mb = (len(self.photos) + len(learnt) * views) * math.prod(shape) * 2 / 2**20
        if needed_mb > config.cache_mb:
            log.warning(
                "features of %d photos in %d views need %.0f MB, cache_mb leaves %d: the tower runs in every step, slower",
                len(self.photos),
                1 + views,
                needed_mb,
                config.cache_mb,
            )
            return
        batches = self.photos.shown_by(self.share)
        kept = torch.zeros((len(self.photos), *shape), dtype=torch.float16)
        in_views = torch.zeros((len(learnt), views, *shape), dtype=torch.float16)
        for done, numbers in enumerate(batches):
            on_progress("running the vision tower", done, len(batches))
            kept[numbers] = self._encoded(numbers).half().cpu()
            generator = torch.Generator().manual_seed(config.seed + numbers[0])  # however many processes there are
            few = [number for number in numbers if number in self._rows]
            for view in range(views if few else 0):
                in_views[[self._rows[number] for number in few], view] = self._encoded(few, generator).half().cpu()
        self._features = self.share.join(kept).clone()  # made in inference mode, and a part of training
        self._views = self.share.join(in_views).clone() if views else None
        self.photos.forget()

    @property
    def _device(self) -> torch.device:
        """Where the model is: on the processor before its weights lie in shards, whatever device the process has."""
        return next(self.model.parameters()).device

    def _encoded(self, numbers: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        return self.model.encode(self._frames(numbers, generator).to(self._device))

    def _frames(self, numbers: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Photos, augmented where there is a generator."""
        frames, kinds = self.photos.frames(numbers), self.config.augment
        return (
            frames
            if generator is None or not kinds or not numbers
            else augmented(frames[:, None], kinds, generator)[:, 0]
        )

    @torch.inference_mode()
    def standardise(self, on_progress: OnProgress) -> None:
        """Let a new projector begin with features of mean 0 and deviation 1, and tokens as large as the language model's own."""
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
                        self._encoded(part) if self._features is None else self._features[part].to(self._device)
                        for part in parts
                    ]
                )
            )
        self.share.copy_main(
            tensor for name, tensor in self.model.state_dict().items() if name.startswith(self.model.own_parts)
        )

    def batches(self, size: int, order: torch.Generator) -> list[list[int]]:
        """Batches of conversations of about the same length, in random order."""
        shuffled = torch.randperm(len(self.train), generator=order).tolist()
        found: list[list[int]] = []
        for begin in range(0, len(shuffled), size * GROUPED_BATCHES):
            group = sorted(
                shuffled[begin : begin + size * GROUPED_BATCHES], key=lambda number: self.train.sequences[number].length
            )
            found += [group[place : place + size] for place in range(0, len(group), size)]
        return [found[place] for place in torch.randperm(len(found), generator=order).tolist()]

    def inputs(self, batches: Sequence[Sequence[int]], draws: Draws) -> Iterator[SequenceBatch]:
        """This process's conversations of each batch."""
        for batch in batches:
            yield self._batch(self.train, self.share.of(batch) or [batch[0]], draws.own)

    def _batch(
        self, data: Conversations, numbers: Sequence[int], generator: torch.Generator | None = None
    ) -> SequenceBatch:
        """Args:
        generator: draws an augmentation, or a view, of each photo; None takes photos as they are.
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
        """Return the weighted mean over all learnt tokens of the batch, and the loss of each conversation of the share."""
        losses, _ = model(inputs)
        losses = inputs.sums(losses * self._weights(inputs))
        counts = float(bool(self.share.of(batch)))
        return losses.sum() * counts / sum(self._train_weights[number] for number in batch) * self.share.world, (
            losses[:, None],
        )

    def _weights(self, batch: SequenceBatch) -> Tensor:
        """Weights of the tokens that are learnt, ``(K,)``."""
        return 1 + (self.config.report.choice_weight - 1) * batch.is_choice

    def judge(self, on_progress: OnProgress) -> Judgement | None:
        """Judge by the answers of the validation samples, teacher-forced."""
        return None if self.val is None else self.judged(self.val, on_progress)

    def judged(self, data: Conversations, on_progress: OnProgress) -> Judgement:
        """Return the loss per token, weighted as in training, and the probability per token to go with it (the geometric mean);
        of all tokens, and of those that choose, the share that are the most probable ones. The same in all
        processes."""
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
                # accelerate wraps forward, and only that, into the training precision. Shards come together nowhere
                # else.
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
    """Numbers of conversations in batches of a bounded number of tokens."""
    chunk: list[int] = []
    for number in sorted(range(len(data)), key=lambda number: data.sequences[number].length):
        if chunk and (len(chunk) + 1) * data.sequences[number].length > TOKENS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(number)
    if chunk:
        yield chunk
