"""Qwen2.5-VL and Qwen3-VL as backbones of a classifier or a model that writes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vidrisk.export.trained import DynamicGraph
from vidrisk.models.config import VlmSettings
from vidrisk.models.families.family import Source
from vidrisk.models.vlm.backbone import VlmBackbone
from vidrisk.models.vlm.conversation import Conversation, ids_from_text
from vidrisk.models.vlm.dynamic_vision import dynamic_vision_from_tower
from vidrisk.models.vlm.layout import Grid, Layout, Part, PromptLayout, layout_from_parts
from vidrisk.models.vlm.loading import check_processor, load_language_model, load_tokenizer
from vidrisk.models.vlm.token import add_token
from vidrisk.models.vlm.vision import FixedGridVision
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
START, END = "<|vision_start|>", "<|vision_end|>"


class QwenVl(VlmBackbone):
    """Qwen2.5-VL or Qwen3-VL on frames of one size.

    Args:
        model, tokenizer: of transformers.
        pixel: size of frames.
        clips: whether inputs are clips, which it sees as videos; photos are images.
        settings: the token.
        with_token: whether to add it, for a classifier.
    """

    vision: FixedGridVision

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pixel: PixelSpec,
        *,
        clips: bool,
        settings: VlmSettings,
        with_token: bool = True,
    ) -> None:
        super().__init__()
        self.tokenizer, self.settings = tokenizer, settings
        self.token = add_token(model, tokenizer, settings.token) if with_token else -1
        self.model = model
        self.config = model.config
        self.is_clip = clips
        self.frames_per_run = self.config.vision_config.temporal_patch_size if clips else 1
        self.vision = FixedGridVision(model.model.visual, pixel)
        self.pixel = pixel
        self.width = self.config.get_text_config().hidden_size
        if hasattr(self.decoder, "_deepstack_process"):
            self.decoder._deepstack_process = _add_everywhere
        self.requires_grad_(False)

    @property
    def decoder(self) -> Any:
        """The language model without its output embeddings."""
        return self.base.model.language_model

    @property
    def tower(self) -> nn.Module:
        """The vision tower, mergers included."""
        tower: nn.Module = self.base.model.visual
        return tower

    @property
    def projector(self) -> nn.Module:
        """The merger, and those of DeepStack's layers."""
        parts = [self.tower.merger, getattr(self.tower, "deepstack_merger_list", None)]
        return nn.ModuleList(part for part in parts if part is not None)  # type: ignore[misc]

    @property
    def has_own_projector(self) -> bool:
        """Always false: the projector is never new."""
        return False

    def standardise(self, features: Tensor) -> None:
        """Keep the pretrained projector."""

    def project(self, features: Tensor) -> Tensor:
        """Return the features unchanged: the tower has merged them."""
        return features

    def vision_stage(self) -> nn.Module:
        """Return the tower on its fixed grid."""
        return self.vision

    def dynamic_vision(self) -> DynamicGraph:
        """Return the tower as a graph for images and videos of any size."""
        return dynamic_vision_from_tower(self.tower, self.pixel)

    @property
    def content(self) -> dict[str, str]:
        """A video, or an image."""
        return {"type": "video" if self.is_clip else "image"}

    @property
    def photo_mark(self) -> str:
        """Mark of an image."""
        return IMAGE

    def layout(self, conversation: Conversation, frames: int, fps: float, most: int) -> PromptLayout:
        """Return the layout of a prompt, with times before moments if the model uses them."""
        before = conversation.before
        mark = VIDEO if self.is_clip else IMAGE
        if before.count(mark) != 1:
            raise SettingsError(
                f"the chat template of the backbone gives {mark} {before.count(mark)} times",
                allowed="once: the processor's own template",
                fix="copy the backbone with its chat template",
            )
        parts: list[Part] = []
        head, tail = before.split(mark)
        moments = frames // self.frames_per_run
        grid = Grid(1, self.vision.height, self.vision.width)
        if self.is_clip and self.has_times:  # each moment has marks of its own, with its time in front
            # The template's own marks are dropped, as in the processor published with the model; transformers 5.24
            # keeps them.
            head, tail = head.removesuffix(START), tail.removeprefix(END)
            for moment in range(moments):
                begin = moment * self.frames_per_run
                shown = (begin / fps + (begin + self.frames_per_run - 1) / fps) / 2  # rounded as the processor does
                parts += [
                    ids_from_text(self.tokenizer, f"{head if not moment else ''}<{shown:.1f} seconds>{START}"),
                    grid,
                    ids_from_text(self.tokenizer, END),
                ]
            parts.append(ids_from_text(self.tokenizer, tail))
        else:
            grid = Grid(moments, grid.height, grid.width)
            parts = [ids_from_text(self.tokenizer, head), grid, ids_from_text(self.tokenizer, tail)]
        return layout_from_parts(
            parts,
            ids_from_text(self.tokenizer, conversation.reply),
            self.token,
            most=most,
            what=f"the prompt {conversation.question!r}",
        )

    @property
    def has_times(self) -> bool:
        """Whether times are written before moments (Qwen3-VL) instead of being positions (Qwen2.5-VL)."""
        return not hasattr(self.config.vision_config, "tokens_per_second")

    def positions(self, layout: Layout, fps: float) -> Tensor:
        """Return positions in time, height and width, ``(3, L)``."""
        if self.has_times or not self.is_clip:
            return torch.from_numpy(layout.positions())
        seconds = self.frames_per_run / fps
        return torch.from_numpy(layout.positions(self.config.vision_config.tokens_per_second * seconds))


def _add_everywhere(hidden: Tensor, places: Any, features: Tensor) -> Tensor:
    """Add features, which are 0 at text, to hidden states; transformers' own function gathers and scatters."""
    return hidden + features.to(hidden.dtype)


def load_qwen(
    source: Source, pixel: PixelSpec, *, model_class: str, clips: bool, settings: VlmSettings, with_token: bool = True
) -> QwenVl:
    """Load a backbone with its tokenizer.

    Raises:
        SettingsError: it does not exist, lacks weights, or its processor or tokenizer is missing or of another model.
    """
    model = load_language_model(source, model_class, settings.weights)
    check_processor(source, model.config)
    tokenizer = load_tokenizer(source)
    for mark, wanted in (
        (IMAGE, model.config.image_token_id),
        (VIDEO, model.config.video_token_id),
        (START, model.config.vision_start_token_id),
        (END, model.config.vision_end_token_id),
    ):
        if tokenizer.convert_tokens_to_ids(mark) != wanted:
            raise SettingsError(
                f"{mark} is token {tokenizer.convert_tokens_to_ids(mark)} to the tokenizer of {source.backbone!r}, "
                f"and {wanted} to the model",
                allowed="the tokenizer of the same model",
                fix="copy the backbone whole",
            )
    return QwenVl(model, tokenizer, pixel, clips=clips, settings=settings, with_token=with_token)
