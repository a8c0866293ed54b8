"""A vision-language model that writes: photos and a question → an answer, token by token.

Only the answers are trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from vidrisk.export.convert.merge import merge_adapters
from vidrisk.models.classifier import ADAPTER
from vidrisk.models.config import OptimSettings, TrainConfig
from vidrisk.models.lora import attach_lora, choose_paths, load_adapter, peft_config_from_lora, save_adapter
from vidrisk.models.trainable import Trainable
from vidrisk.models.vlm.backbone import VlmBackbone
from vidrisk.models.vlm.chat_template import pieces_from_tokenizer
from vidrisk.models.vlm.decoder import reach_of
from vidrisk.models.vlm.layout import Grid, Layout
from vidrisk.models.vlm.projector_file import check_projector, load_projector, save_projector
from vidrisk.models.vlm.sequences import SequenceBatch
from vidrisk.models.weights import COPY_WHOLE
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.contract import Sealed
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError
from vidrisk.runtimes.contract.report import ChatPieces
from vidrisk.runtimes.text.vocabulary import Vocabulary

CHAT, TOKENIZER = "chat.json", "tokenizer.json"


class Chat(Sealed):
    """Chat format of a run, in ``chat.json``; a different tokenizer is refused.

    Attributes:
        ends: ids of the tokens that end an answer, beginning with the one that is trained.
        tokenizer: sha256 of ``tokenizer.json``.
    """

    pieces: ChatPieces
    ends: tuple[int, ...]
    tokenizer: str


class Reporter(Trainable):
    """A backbone and its chat format.

    Args:
        backbone: without a token for classes; frozen except for a projector of its own.
        config: of the run.
    """

    own_parts: ClassVar[tuple[str, ...]] = ("backbone.own_projector.",)

    def __init__(self, backbone: VlmBackbone, config: TrainConfig) -> None:
        super().__init__()
        self.backbone = backbone
        text = _tokenizer_text(backbone.tokenizer)
        pieces = pieces_from_tokenizer(backbone.tokenizer, backbone.photo_mark)
        self.chat = Chat(
            pieces=pieces, ends=_ends(backbone, pieces), tokenizer=hashlib.sha256(text.encode()).hexdigest()
        )
        self.tokenizer_text = text
        self.trains_language = config.lora.last_blocks != 0 and "language" in config.lora.parts
        self.trains_vision = config.lora.last_blocks != 0 and "vision" in config.lora.parts
        self.trains_projector = backbone.projector_lr(config.optim) > 0
        if not (self.trains_language or self.trains_vision or self.trains_projector):
            raise SettingsError(
                "nothing to train: lora.last_blocks is 0 and the projector has no learning rate",
                allowed="adapters, the projector, or both",
                fix="set lora.last_blocks=null, or optim.projector_lr",
            )

    @property
    def has_frozen_tower(self) -> bool:
        """Whether features of photos stay the same during training."""
        return not self.trains_vision and (self.backbone.has_own_projector or not self.trains_projector)

    @property
    def grid(self) -> Grid:
        """Visual tokens of a photo."""
        return self.backbone.photo_grid

    @property
    def token_limits(self) -> dict[str, int]:
        """Greatest numbers of tokens of a conversation, by the setting that limits them."""
        return {"vlm.max_tokens": self.backbone.settings.max_tokens, **reach_of(self.backbone.decoder)}

    def positions(self, layout: Layout) -> Tensor:
        """Return positions of a layout's tokens, as the decoder expects them."""
        return self.backbone.positions(layout, self.backbone.settings.fps)

    def encode(self, frames: Tensor) -> Tensor:
        """Run the tower on photos ``uint8 (M, H, W, 3)`` → features of visual tokens ``(M, n, W)``."""
        return self.backbone.encode_frames(frames[:, None]).flatten(1, 2)

    def embed(self, batch: SequenceBatch) -> tuple[Tensor, list[Tensor]]:
        """Embed tokens ``(B, L, D)``.

        Also return the additions to visual tokens after the first layers (DeepStack), if any.
        """
        words = self.backbone.embed(batch.ids.flatten()).reshape(*batch.ids.shape, -1)
        photos = batch.photos
        if not len(photos) and not self.training:
            return words, []
        if not len(photos):  # every process of a step needs gradients of all trained parameters
            photos = photos.new_zeros((1, *photos.shape[1:]))
        features = self.encode(photos) if photos.dtype == torch.uint8 else photos
        visual = self.backbone.project(features).to(words.dtype).flatten(0, 1)
        if not len(batch.photos):
            return words + 0 * visual.sum(), []
        where = batch.is_visual[..., None].expand_as(words)
        first, *deeper = torch.split(visual, words.shape[-1], dim=-1)
        zeros = torch.zeros_like(words)
        return words.masked_scatter(where, first), [zeros.masked_scatter(where, tokens) for tokens in deeper]

    def states(self, batch: SequenceBatch) -> Tensor:
        """Return the last states, after the final norm, ``(B, L, D)``."""
        embedded, deeper = self.embed(batch)
        further = {"deepstack_visual_embeds": deeper} if deeper else {}
        output = self.backbone.decoder(
            inputs_embeds=embedded,
            position_ids=batch.positions,
            use_cache=False,
            attention_mask=batch.is_token.long(),
            **further,
        )
        states: Tensor = output.last_hidden_state
        return states

    def scores(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Return logits ``(K, V)`` of the K trained tokens, in order, and the tokens ``(K,)``."""
        states = self.states(batch)
        return self.backbone.score_tokens(states[:, :-1][batch.is_answer[:, 1:]]).float(), batch.ids[batch.is_answer]

    def forward(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Return the result of ``losses``, for training."""
        return self.losses(batch)

    def losses(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Return the negative log-likelihood, in nats, of each trained token ``(K,)``.

        Also return whether it is the token that the model finds most probable, ``(K,)``.
        """
        logits, wanted = self.scores(batch)
        return F.cross_entropy(logits, wanted, reduction="none"), logits.detach().argmax(dim=1) == wanted

    def standardise(self, features: Tensor) -> None:
        """Initialise a new projector from features ``(M, n, W)``."""
        self.backbone.standardise(features.float().flatten(0, 1))

    def adapt(self, config: TrainConfig) -> None:
        lora, backbone = config.lora, self.backbone
        if lora.last_blocks != 0:
            backbone.model = attach_lora(
                backbone.model, peft_config_from_lora(lora), choose_paths(backbone.lora_paths(lora), lora)
            )
        if self.trains_projector:
            backbone.projector.float()  # updates below the resolution of bfloat16 would be lost
        backbone.projector.requires_grad_(self.trains_projector)

    def merge(self) -> None:
        self.backbone.model = merge_adapters(self.backbone.model)
        self.backbone.requires_grad_(False)

    def parameter_groups(self, optim: OptimSettings) -> list[dict[str, Any]]:
        """Return LoRA without decay, the projector with it, each with its own rate."""
        projector = [p for p in self.backbone.projector.parameters() if p.requires_grad]
        known = {id(p) for p in projector}
        lora = [p for p in self.backbone.parameters() if p.requires_grad and id(p) not in known]
        groups = [
            ("lora", lora, optim.lora_lr, 0.0),
            ("projector", projector, self.backbone.projector_lr(optim), optim.weight_decay),
        ]
        return [
            {"name": name, "params": params, "lr": rate, "weight_decay": decay}
            for name, params, rate, decay in groups
            if params
        ]

    def checkpoint_gradients(self) -> None:
        self.backbone.checkpoint_gradients()

    def blocks(self) -> Iterable[nn.Module]:
        return next((module for module in self.backbone.decoder.modules() if isinstance(module, nn.ModuleList)), ())

    def save(self, folder: Path) -> None:
        """Write the adapter, the projector if it is new or was trained, the tokenizer and the chat format."""
        if hasattr(self.backbone.model, "peft_config"):
            save_adapter(self.backbone.model, folder / ADAPTER)
        save_projector(self.backbone, folder, is_trained=self.trains_projector)
        (folder / TOKENIZER).write_text(self.tokenizer_text, encoding="utf-8")
        record = versions.CHAT.stamp(self.chat.model_dump(mode="json"))
        (folder / CHAT).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def load_backbone(self, folder: Path) -> None:
        if (folder / ADAPTER).is_dir():
            self.backbone.model = load_adapter(self.backbone.model, folder / ADAPTER)
        load_projector(self.backbone, folder)

    def check_folder(self, folder: Path) -> None:
        """Refuse a run without the projector that it has trained, or with another tokenizer or chat template.

        Raises:
            BundleError: the run is refused, or ``chat.json`` is missing or damaged.
        """
        check_projector(folder, is_trained=self.trains_projector)
        if chat_of(folder) != self.chat:
            raise BundleError(
                f"the tokenizer of the backbone, or its chat template, differs from {folder / CHAT}",
                fix="use the backbone that the run was trained with, its tokenizer included",
            )


def chat_of(folder: Path) -> Chat:
    """Read the chat format of a run.

    Raises:
        BundleError: ``chat.json`` is missing or damaged.
    """
    path = folder / CHAT
    try:
        return versions.CHAT.read_model(json.loads(path.read_bytes()), Chat)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}", fix=COPY_WHOLE) from error
    except (ValueError, DataError, ValidationError) as error:
        raise BundleError(f"{path} is damaged", allowed="pieces, ends and tokenizer", fix=COPY_WHOLE) from error


def vocabulary_of(folder: Path) -> Vocabulary:
    """Return the tokenizer of a run.

    Raises:
        BundleError: it is missing, damaged, or not the one that the run was trained with.
    """
    chat, path = chat_of(folder), folder / TOKENIZER
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != chat.tokenizer:
        raise BundleError(f"{path} is not the tokenizer that the run was trained with", fix=COPY_WHOLE)
    return Vocabulary(path, chat.ends)


def _tokenizer_text(tokenizer: Any) -> str:
    """Return the tokenizer as the text of ``tokenizer.json``."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise SettingsError(
            f"the tokenizer of the backbone is a {type(tokenizer).__name__}, which has no tokenizer.json",
            allowed="fast tokenizers",
            fix="convert it: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        )
    text: str = fast.to_str()
    return text


def _ends(backbone: VlmBackbone, pieces: ChatPieces) -> tuple[int, ...]:
    """Return ids of the tokens that end an answer, beginning with the one that the template writes."""
    tokenizer = backbone.tokenizer
    behind = tokenizer(pieces.to_next, add_special_tokens=False)["input_ids"][:1]
    special = set(tokenizer.all_special_ids)
    configured = getattr(getattr(backbone.base, "generation_config", None), "eos_token_id", None)
    configured = configured if isinstance(configured, list) else [configured]
    candidates = [*(token for token in behind if token in special), tokenizer.eos_token_id, *configured]
    found = tuple(dict.fromkeys(int(token) for token in candidates if token is not None))
    if not found:
        raise SettingsError(
            "the tokenizer of the backbone has no token that ends an answer",
            allowed="one with an eos_token",
            fix="copy the backbone with its own tokenizer",
        )
    return found
