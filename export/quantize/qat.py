"""Quantisation-aware fine-tuning: a short training with the rounding of INT8 and the float model as teacher.

    x ──► round to 8 bits ──► Conv or Linear ──►
                                  ▲
             W + unit · up @ down ──► round to int8 per output channel

Rounding passes gradients through unchanged (Jacob et al. 2018, https://arxiv.org/abs/1712.05877). The trained
parameters are the head and a low-rank change of every quantised weight (LoRA, Hu et al. 2021,
https://arxiv.org/abs/2106.09685). The change is a parametrisation of the weight here, instead of PEFT's second branch,
because INT8 rounds the sum of both.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vidrisk.calibration.profiles import Profile
from vidrisk.calibration.qdq import quantization_of
from vidrisk.calibration.weights import plain_weight_scales
from vidrisk.export.trained import Clips
from vidrisk.runtimes.contract.errors import DataError, SettingsError
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress

log = logging.getLogger(__name__)

HEAD_RATE = 0.1  # factor of the learning rate: the head has converged, and only follows the features
FEATURE_WEIGHT = 10.0  # most of the variance of features is between their D dimensions, only the rest between clips
CLIP_NORM = 1.0


@dataclass(frozen=True)
class QatOptions:
    """Options of quantisation-aware fine-tuning.

    ``lr`` is relative to the size of each output channel's weights; ``batch_size`` counts frames, and holds at least
    one clip. ``multi_label`` lists the indices of targets of which any number of labels may hold.
    """

    steps: int
    lr: float = 1e-4
    batch_size: int = 16
    rank: int = 16
    seed: int = 0
    multi_label: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1 or self.rank < 1 or not 0 < self.lr < math.inf:
            raise SettingsError(
                f"quantisation-aware fine-tuning with {self}", allowed="steps ≥ 0, lr > 0, batch_size ≥ 1, rank ≥ 1"
            )


def fine_tune_by_qat(
    merged: nn.Module,
    head: nn.Module,
    ranges: Mapping[str, tuple[float, float]],
    profile: Profile,
    keep_float: Collection[str],
    clips: Clips,
    options: QatOptions,
    on_progress: OnProgress = ignore_progress,
) -> tuple[nn.Module, nn.Module]:
    """Fine-tune encoder and head until, rounded, they reproduce the answers of the floating-point model.

    Inputs and weights of convolutions and linear layers are rounded during training; residual sums and attention
    products are not.

    Args:
        merged: the encoder in plain layers, ``uint8 (N, H, W, 3)`` → ``float32 (N, D)``; not modified, like the head.
        head: ``float32 (B, T, D)`` → a tuple of logits ``(B, C)``, one per target.
        ranges: smallest and largest input value of a layer, by the layer's path in ``merged``; a layer without a range
            stays in floating point.
        profile: how to quantise.
        keep_float: paths of layers, or of modules with all their layers, that stay in floating point.
        clips: training clips, without labels; never the samples that judge.
        options: steps, learning rate and sizes.
        on_progress: called after each step.

    Returns:
        A plain encoder, layer for layer like ``merged``, and a head, both in evaluation mode. Weights are not rounded:
        plain scales round them to exactly the integers that were trained, and transforms that move the scales do not
        round twice.

    Raises:
        SettingsError: no layer has a range, or the loss is not finite.
        DataError: there are no clips.
    """
    if not len(clips):
        raise DataError("no clip for quantisation-aware fine-tuning", allowed="at least one")
    # All modules in evaluation mode: the noise of dropout would hide that of rounding.
    teacher, student = (copy.deepcopy(nn.ModuleList([merged, head])).eval() for _ in range(2))
    generator = torch.Generator().manual_seed(options.seed)
    student[0].requires_grad_(False)
    student[1].requires_grad_(True)
    adapted = {
        path: _fake_quantize(layer, ranges[path], profile, options.rank, generator)
        for path, layer in layers_to_quantize(student[0], ranges, keep_float).items()
    }
    _fit(teacher, student, clips, options, generator, on_progress)
    # The teacher takes the weights: it never had hooks or parametrisations that could be left over.
    with torch.no_grad():
        for path, weight in adapted.items():
            plain = teacher[0].get_parameter(f"{path}.weight")
            plain.copy_(weight.adapt(plain))
    return teacher[0], student[1].requires_grad_(False)


def layers_to_quantize(
    encoder: nn.Module, ranges: Collection[str], keep_float: Collection[str]
) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return the convolutions and linear layers to quantise, by path.

    They have a range and are not kept in floating point.

    Raises:
        SettingsError: there is none.
    """
    layers = {
        path: layer
        for path, layer in encoder.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
        and path in ranges
        and not any(path == kept or path.startswith(f"{kept}.") for kept in keep_float)
    }
    if not layers:
        raise SettingsError(
            f"no layer of {type(encoder).__name__} is left to quantise",
            fix="keep fewer in floating point, or leave out qat_steps",
        )
    return layers


class _QuantizedWeight(nn.Module):
    """Parametrisation of ``weight (O, …)`` by its dequantised int8 version, with a low-rank change that starts at zero.

    The change is in units of each output channel's own size. Batch norms are folded in, so sizes differ by orders of
    magnitude between channels and layers, and no single learning rate would fit.
    """

    unit: Tensor

    def __init__(self, weight: Tensor, profile: Profile, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.profile = profile
        flat = weight.detach().flatten(1)
        rank = min(rank, *flat.shape)
        self.register_buffer("unit", flat.square().mean(dim=1, keepdim=True).sqrt())
        self.down = nn.Parameter(torch.randn(rank, flat.shape[1], generator=generator) / math.sqrt(rank))
        self.up = nn.Parameter(torch.zeros(flat.shape[0], rank))

    def adapt(self, weight: Tensor) -> Tensor:
        return weight + (self.unit * (self.up @ self.down)).view_as(weight)

    def forward(self, weight: Tensor) -> Tensor:
        adapted = self.adapt(weight)
        largest = self.profile.largest_weight
        scales = torch.from_numpy(self.profile.round_scales(plain_weight_scales(adapted.detach().numpy(), 0, largest)))
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(adapted, scales, zeros, 0, -largest, largest)


def _fake_quantize(
    layer: nn.Conv2d | nn.Linear, around: tuple[float, float], profile: Profile, rank: int, generator: torch.Generator
) -> _QuantizedWeight:
    """Make the layer round its input and weight from now on."""
    scale, zero_point = quantization_of(*around, profile)
    lowest, highest = (-128, 127) if profile.symmetric else (0, 255)

    def round_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(inputs[0], scale, zero_point, lowest, highest)

    layer.register_forward_pre_hook(round_input)
    weight = _QuantizedWeight(layer.weight, profile, rank, generator)
    parametrize.register_parametrization(layer, "weight", weight)
    return weight


def _fit(
    teacher: nn.ModuleList,
    student: nn.ModuleList,
    clips: Clips,
    options: QatOptions,
    generator: torch.Generator,
    on_progress: OnProgress,
) -> None:
    encoder, head = student
    low_rank = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": low_rank, "lr": options.lr},
        {"params": [*head.parameters()], "lr": options.lr * HEAD_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    for step, batch in enumerate(batches_of(clips, options, generator)):
        on_progress("quantisation-aware fine-tuning", step, options.steps)
        with torch.no_grad():
            wanted = _outputs(teacher, batch)
        loss = _loss(_outputs(student, batch), wanted, options.multi_label)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_([*low_rank, *head.parameters()], CLIP_NORM)
        if not torch.isfinite(loss + norm):
            raise SettingsError(
                f"step {step + 1} of quantisation-aware fine-tuning has a loss that is not finite",
                fix="lower its learning rate, or leave out qat_steps",
            )
        optimizer.step()
        schedule.step()
        log.debug("quantisation-aware fine-tuning, step %d: loss %.4f", step + 1, float(loss.detach()))


def batches_of(clips: Clips, options: QatOptions, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield ``steps`` batches ``uint8 (B, T, H, W, 3)`` from successive shuffled passes over the clips."""
    size = min(max(1, options.batch_size // len(clips[0])), len(clips))
    passes = math.ceil(options.steps * size / len(clips))
    order = [index for _ in range(passes) for index in torch.randperm(len(clips), generator=generator).tolist()]
    for begin in range(0, options.steps * size, size):
        yield torch.from_numpy(np.stack([clips[index] for index in order[begin : begin + size]]))


def _outputs(model: nn.ModuleList, batch: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return features ``(B, T, D)`` and the logits of every target."""
    encoder, head = model
    features: Tensor = encoder(batch.flatten(0, 1)).unflatten(0, batch.shape[:2])
    return features, head(features)


def _loss(
    outputs: tuple[Tensor, tuple[Tensor, ...]], wanted: tuple[Tensor, tuple[Tensor, ...]], multi_label: Collection[int]
) -> Tensor:
    """Return the divergence from the teacher's answers plus the error of the features.

    The divergence is the mean over the targets; the error is relative to the features' variance. Features carry more
    information per clip than a handful of logits. Labels are not used: on samples that the model has learnt, they would
    only sharpen its answers, at the cost of agreement on all others.
    """
    (features, logits), (features_wanted, logits_wanted) = outputs, wanted
    both = [
        [_log_probabilities(each, multi_label=place in multi_label) for each in pair]
        for place, pair in enumerate(zip(logits, logits_wanted, strict=True))
    ]
    divergences = [F.kl_div(one, other, reduction="batchmean", log_target=True) for one, other in both]
    return (
        torch.stack(divergences).mean() + FEATURE_WEIGHT * F.mse_loss(features, features_wanted) / features_wanted.var()
    )


def _log_probabilities(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Return those of the labels, or those of yes and no for each label."""
    return torch.cat([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=1) if multi_label else logits.log_softmax(1)
