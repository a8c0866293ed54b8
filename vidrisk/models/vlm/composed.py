"""A backbone composed of any vision tower, a two-layer MLP and any causal language model.

Liu et al. 2023, LLaVA, https://arxiv.org/abs/2304.08485, https://arxiv.org/abs/2310.03744.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vidrisk.models.activations import checkpoint_activations
from vidrisk.models.config import OptimSettings, VlmSettings
from vidrisk.models.encoders import Encoder, build_encoder, drop_pooling_head
from vidrisk.models.families import Source, family_of
from vidrisk.models.heads import copy_statistics
from vidrisk.models.vlm.backbone import VlmBackbone
from vidrisk.models.vlm.conversation import MARK, Conversation, ids_from_text
from vidrisk.models.vlm.decoder import check_decoder
from vidrisk.models.vlm.layout import Grid, Layout, Part, PromptLayout, layout_from_parts
from vidrisk.models.vlm.loading import language_source, load_language_model, load_tokenizer
from vidrisk.models.vlm.token import add_token
from vidrisk.runtimes.contract.errors import SettingsError, first_line
from vidrisk.runtimes.contract.specs import PixelSpec

SAMPLED_ROWS = 8192  # rows of the embeddings that the scale of visual tokens is measured on


class TowerAndLanguage(nn.Module):
    """A tower and a language model side by side, as the module that adapters are added to.

    It has the methods of a language model that PEFT calls.
    """

    _tied_weights_keys: ClassVar[dict[str, str]] = {}  # those of the language model are found inside it
    base_model_prefix: ClassVar[str] = ""

    def __init__(self, tower: Encoder, language_model: Any) -> None:
        super().__init__()
        self.tower = tower
        self.language_model = language_model
        self.config = language_model.config

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.language_model.get_output_embeddings()
        return embeddings

    def activation_checkpointing_enable(self) -> None:
        checkpoint_activations(self.language_model)


class GridVision(nn.Module):
    """Frames ``uint8 (N, H, W, 3)`` → ``grid²`` averages of a tower's feature map ``(N, grid², W)``.

    If grid is None, the output is the tower's tokens. Class and register tokens, which come first, are left out.

    Raises:
        SettingsError: a tower without a spatial map, or a map smaller than the grid.
    """

    average: Tensor | None

    def __init__(self, tower: Encoder, grid: int | None) -> None:
        super().__init__()
        self.tower = tower
        drop_pooling_head(tower.backbone)
        try:
            with torch.inference_mode():
                probe = tower.tokens(torch.zeros((1, *tower.input_shape), dtype=torch.uint8))
            height, width = tower.token_grid
        except (AttributeError, TypeError) as error:  # no patch size, or other outputs
            raise _no_map(tower, first_line(error)) from error
        if probe.shape[1] != height * width:
            raise _no_map(tower, f"{probe.shape[1]} places, {height}x{width} expected")
        average = None
        if grid is not None:
            if grid > min(height, width):
                raise SettingsError(
                    f"vlm.grid {grid} of a feature map of {height}x{width}",
                    allowed=f"1 to {min(height, width)}, or null",
                )
            places = torch.eye(height * width).reshape(-1, height, width)
            average = nn.functional.adaptive_avg_pool2d(places, grid).flatten(1).T
        self.register_buffer("average", average, persistent=False)
        self.height, self.width = (grid, grid) if grid is not None else (height, width)
        self.features = int(probe.shape[-1])

    def forward(self, frames: Tensor) -> Tensor:
        tokens = self.tower.tokens(frames)
        return tokens if self.average is None else torch.matmul(self.average, tokens)


def _no_map(tower: Encoder, reason: str) -> SettingsError:
    return SettingsError(
        f"{tower.family.name} as the tower of a composed model: {reason}",
        allowed="towers with one place per patch, or a feature map",
        fix="choose CLIP, SigLIP, DINO, ViT or a CNN",
    )


class Projector(nn.Module):
    """Features ``(…, W)`` → tokens of the language model ``(…, D)``.

    Two linear layers and a GELU on standardised features.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.linear_1, self.act, self.linear_2 = nn.Linear(features, width), nn.GELU(), nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        tokens: Tensor = self.linear_2(self.act(self.linear_1((features - self.mean) / self.deviation)))
        return tokens

    @property
    def is_new(self) -> bool:
        """Whether nothing has been set from training features yet, nor read from a run."""
        return not bool(self.mean.any()) and bool((self.deviation == 1).all())

    @torch.no_grad()
    def standardise_by(self, features: Tensor, scale: float) -> None:
        """Set mean and deviation from features, and scale the tokens to the size of the language model's own.

        Args:
            features: ``(M, W)``.
            scale: root mean square of the language model's embeddings.
        """
        copy_statistics([features], self.mean, self.deviation)
        size = self(features[:4096]).square().mean().sqrt().clamp_min(1e-6)
        for parameter in self.linear_2.parameters():
            parameter.mul_(scale / size)


class VisionStage(nn.Module):
    """Frames → tokens of the language model."""

    def __init__(self, vision: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.vision, self.own_projector = vision, projector

    def forward(self, frames: Tensor) -> Tensor:
        tokens: Tensor = self.own_projector(self.vision(frames))
        return tokens


@dataclass(frozen=True)
class Pretrained:
    """The previously trained parts of a composed model.

    Attributes:
        image: text that the chat template writes for an image.
        token: id of the token that is classified, if vidrisk has already added it to the tokenizer.
    """

    projector: Projector
    image: str
    token: int | None = None


class Composed(VlmBackbone):
    """A tower, a projector and a language model.

    Args:
        tower: of a family that sees one frame at a time.
        language_model, tokenizer: of transformers.
        settings: the token and the grid.
        with_token: whether to add the model's token, for a classifier.
        pretrained: projector and texts of a model that was composed before; None makes a new projector.
    """

    frames_per_run = 1
    vision: GridVision

    def __init__(
        self,
        tower: Encoder,
        language_model: Any,
        tokenizer: Any,
        settings: VlmSettings,
        *,
        with_token: bool = True,
        pretrained: Pretrained | None = None,
    ) -> None:
        super().__init__()
        check_decoder(language_model)
        self.tokenizer, self.settings = tokenizer, settings
        self.image = pretrained.image if pretrained else None
        known = pretrained.token if pretrained else None
        if known is not None:
            self.token = known
        else:
            self.token = add_token(language_model, tokenizer, settings.token) if with_token else -1
        self.model = TowerAndLanguage(tower, language_model)
        self.vision = GridVision(tower, settings.grid)
        self.width = language_model.config.get_text_config().hidden_size
        self.requires_grad_(False)
        self.own_projector = pretrained.projector if pretrained else Projector(self.vision.features, self.width)
        self.own_projector.requires_grad_(not pretrained)

    @property
    def decoder(self) -> Any:
        """The language model without its output embeddings."""
        return self.base.language_model.get_decoder()

    @property
    def language_model(self) -> Any:
        """The causal language model as it was loaded, with the changes made by training."""
        return self.base.language_model

    @property
    def tower(self) -> nn.Module:
        """The vision tower without the pixel normalisation."""
        return self.vision.tower.backbone  # type: ignore[no-any-return]

    @property
    def projector(self) -> nn.Module:
        """The two-layer MLP."""
        return self.own_projector

    @property
    def has_own_projector(self) -> bool:
        """Always true: the projector runs after ``vision``, and the features before it are cached."""
        return True

    def projector_lr(self, optim: OptimSettings) -> float:
        """Return the learning rate of the projector; a pretrained one is not trained unless a rate is given."""
        return 0.0 if self.image is not None and optim.projector_lr is None else super().projector_lr(optim)

    def standardise(self, features: Tensor) -> None:
        """Initialise a new projector from features ``(M, W)`` and the size of the embeddings; keep a pretrained one."""
        if self.image is None and self.own_projector.is_new:
            known = self.token if self.token >= 0 else len(self.tokenizer)
            rows = self.embed(torch.arange(known, device=features.device)[:SAMPLED_ROWS])  # some models scale them
            self.own_projector.standardise_by(features, float(rows.detach().float().square().mean().sqrt()))

    def project(self, features: Tensor) -> Tensor:
        """Convert features ``(…, W)`` to tokens ``(…, D)``."""
        tokens: Tensor = self.own_projector(features)
        return tokens

    def vision_stage(self) -> nn.Module:
        """Return the tower with the projector: frames → tokens."""
        return VisionStage(self.vision, self.own_projector)

    @property
    def content(self) -> dict[str, str] | None:
        """An image if the template has a text for one; None puts a mark, which is text, before the question."""
        return {"type": "image"} if self.image and getattr(self.tokenizer, "chat_template", None) else None

    @property
    def photo_mark(self) -> str | None:
        """Text of an image, if the template has one."""
        return None if self.content is None else self.image

    def layout(self, conversation: Conversation, frames: int, fps: float, most: int) -> PromptLayout:
        """Return the layout of a prompt with all frames in one place."""
        before = conversation.before if self.content is None else conversation.before.replace(self.image or "", MARK)
        if before.count(MARK) != 1:
            raise SettingsError(
                f"the chat template of the language model gives the question {before.count(MARK)} times",
                allowed="once, unchanged",
            )
        head, tail = before.split(MARK)
        grid = Grid(frames, self.vision.height, self.vision.width)
        parts: list[Part] = [ids_from_text(self.tokenizer, head), grid, ids_from_text(self.tokenizer, tail)]
        return layout_from_parts(
            parts,
            ids_from_text(self.tokenizer, conversation.reply),
            self.token,
            most=most,
            what=f"the prompt {conversation.question!r}",
        )

    def positions(self, layout: Layout, fps: float) -> Tensor:
        """Return the indices of tokens, from 0."""
        return torch.arange(layout.length)


def load_composed(source: Source, pixel: PixelSpec, settings: VlmSettings, *, with_token: bool = True) -> Composed:
    """Build a backbone from the two models that ``compose:TOWER+LLM`` names.

    Raises:
        SettingsError: not two models, a tower that sees whole windows, or no causal language model.
    """
    if len(source.parts) != 2:
        raise SettingsError(
            f"backbone {source.backbone!r}",
            allowed="compose:TOWER+LLM",
            fix="name an encoder and a causal language model, such as compose:efficientnet-lite0+smollm2-135m",
        )
    tower_name, language_name = source.parts
    if family_of(Source(tower_name, source.local_only)).per == "window":
        raise SettingsError(
            f"{tower_name!r} as the tower of a composed model", allowed="encoders that see one frame at a time"
        )
    tower = build_encoder(tower_name, pixel=pixel.__dict__, local_only=source.local_only)
    language = language_source(Source(language_name, source.local_only))
    model = load_language_model(language, "AutoModelForCausalLM", settings.weights)
    return Composed(tower, model, load_tokenizer(language), settings, with_token=with_token)
