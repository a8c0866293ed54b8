"""A vision-language model as a classifier: a head on the state at a token of the reply, after the final norm.

The reply is teacher-forced: nothing is generated. Training draws one of the prompts for each step; validation, export
and inference use one fixed prompt, and read no further than the token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, ValidationError
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from vidrisk.export.convert.merge import merge_adapters
from vidrisk.export.trained import DynamicGraph
from vidrisk.models.classifier import ADAPTER, HEAD
from vidrisk.models.config import DEFAULT_HEAD_LR, OptimSettings, TrainConfig
from vidrisk.models.lora import attach_lora, choose_paths, load_adapter, peft_config_from_lora, save_adapter
from vidrisk.models.trainable import ModelStage, TrainableModel
from vidrisk.models.vlm.act_heads import ActHead
from vidrisk.models.vlm.backbone import VlmBackbone
from vidrisk.models.vlm.decoder import TextStage, check_reach, decode, past_from_prompt
from vidrisk.models.vlm.layout import PromptLayout
from vidrisk.models.vlm.projector_file import check_projector, load_projector, save_projector
from vidrisk.models.weights import COPY_WHOLE, load_state, save_tensors
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.constants import Arrays
from vidrisk.runtimes.contract.contract import Contract, Sealed
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError, first_line
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import BATCH, PIXELS, Stage

PROMPT = "prompt.json"
ROWS_PER_SAMPLE = 64  # rows of visual features that mean and deviation are measured on


@dataclass(frozen=True)
class PlacedPrompt:
    """Precomputed inputs of a prompt: the ids and order of its text, as in ``Layout``, and its positions."""

    text: Tensor
    order: Tensor
    positions: Tensor

    @classmethod
    def of(cls, prompt: PromptLayout, positions: Tensor) -> PlacedPrompt:
        return cls(torch.from_numpy(prompt.layout.text), torch.from_numpy(prompt.layout.order), positions)


class SavedPrompt(Sealed):
    """The fixed prompt as tokenized in a run, in ``prompt.json``; a run loaded with a different tokenizer is refused.

    Attributes:
        ids: token ids in order; -1 for visual tokens.
    """

    token: str
    token_id: int
    ids: tuple[int, ...] = Field(min_length=1)


class VlmClassifier(TrainableModel):
    """A backbone and a head.

    ``lower`` returns features of visual tokens ``(B, runs, n, W)`` if the vision tower is not trained, and those of
    ``features`` if nothing below the head is.

    Args:
        backbone: frozen except for a projector of its own.
        config: prompts, head, and the parts to train.
        contract: of the model.
    """

    own_parts: ClassVar[tuple[str, ...]] = ("head.", "backbone.own_projector.")

    def __init__(self, backbone: VlmBackbone, config: TrainConfig, contract: Contract) -> None:
        super().__init__()
        settings = config.vlm
        if contract.frames % backbone.frames_per_run:
            raise SettingsError(
                f"windows of {contract.frames} frames for backbone {config.backbone!r}",
                allowed=f"multiples of {backbone.frames_per_run}",
                fix="set frames",
            )
        if not isinstance(settings.prompts, tuple):
            raise SettingsError(
                "vlm.prompts of the run holds no pairs",
                allowed="the pairs written by training",
                fix="copy config.yaml of the run again, or train the run again",
            )
        pairs = settings.prompts
        if settings.fixed_prompt >= len(pairs):
            raise SettingsError(f"vlm.fixed_prompt {settings.fixed_prompt}", allowed=f"0 to {len(pairs) - 1}")
        self.backbone = backbone
        self.head = ActHead(config.head, width=backbone.width, targets=contract.targets)
        self.language_loss = settings.language_loss
        self.prompts = backbone.layouts(pairs, contract.frames, settings.fps, settings.max_tokens)
        check_reach(backbone.decoder, max(prompt.layout.length for prompt in self.prompts))
        self.fixed = self.prompts[settings.fixed_prompt].until_token()
        self.drawn = self.prompts[settings.fixed_prompt]
        self._placed = {
            prompt: PlacedPrompt.of(prompt, backbone.positions(prompt.layout, settings.fps))
            for prompt in (*self.prompts, self.fixed)
        }
        self.trains_language = config.lora.last_blocks != 0 and "language" in config.lora.parts
        self.trains_vision = config.lora.last_blocks != 0 and "vision" in config.lora.parts
        self.trains_projector = backbone.projector_lr(config.optim) > 0
        self.trains_token = config.lora.last_blocks != 0 and config.optim.token_lr > 0

    @property
    def is_probe(self) -> bool:
        """Whether nothing below the head is trained."""
        return not (self.trains_language or self.trains_vision or self.trains_projector or self.trains_token)

    @property
    def has_frozen_part(self) -> bool:
        return not self.trains_vision and (self.backbone.has_own_projector or not self.trains_projector)

    def lower(self, frames: Tensor) -> Tensor:
        if not self.has_frozen_part:
            return frames
        seen = self.backbone.encode_frames(frames)
        return self._features(seen, self.fixed) if self.is_probe else seen

    def features(self, inputs: Tensor) -> Tensor:
        """Compute the state at the token ``(B, 1, D)`` from frames, or from the output of ``lower``.

        Returns ``(B, 1 + N, D)`` if the head also sees the visual tokens.
        """
        if inputs.dtype == torch.uint8:
            inputs = self.backbone.encode_frames(inputs)
        elif self.is_probe:
            return inputs
        return self._features(inputs, self.fixed)

    def logits(self, features: Tensor) -> tuple[Tensor, ...]:
        logits: tuple[Tensor, ...] = self.head(features)
        return logits

    def forward(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Return logits; in training, for the drawn prompt, with the weighted language-model loss on its reply."""
        if not self.training or self.is_probe:
            return self.logits(self.features(inputs)), None
        seen = self.backbone.encode_frames(inputs) if inputs.dtype == torch.uint8 else inputs
        states, visual = self._states(seen, self.drawn)
        logits = self.logits(self._for_head(states[:, self.drawn.place], visual))
        return logits, self._loss_of_reply(states, self.drawn) if self.language_loss else None

    def _loss_of_reply(self, states: Tensor, prompt: PromptLayout) -> Tensor:
        """Return the weighted cross-entropy of the reply's tokens, each given the tokens before it.

        The prompt and visual tokens are excluded.
        """
        begin = prompt.layout.length - prompt.reply
        scores = self.backbone.score_tokens(states[:, begin - 1 : -1]).float()
        wanted = torch.from_numpy(prompt.layout.ids[begin:]).to(scores.device).expand(len(scores), -1)
        return self.language_loss * F.cross_entropy(scores.flatten(0, 1), wanted.flatten())

    def positions(self, prompt: PromptLayout) -> Tensor:
        """Return positions of a prompt's tokens, as the decoder expects them."""
        return self._placed[prompt].positions

    def _states(self, seen: Tensor, prompt: PromptLayout) -> tuple[Tensor, Tensor]:
        """Return states ``(B, L, D)`` and visual tokens ``(B, N, k · D)``."""
        device = seen.device
        visual = self.backbone.project(seen).flatten(1, 2)
        placed = self._placed[prompt]
        embedded = self.backbone.embed(placed.text.to(device))
        return decode(
            self.backbone.decoder, placed.order.to(device), visual, embedded, placed.positions.to(device)
        ), visual

    def _features(self, seen: Tensor, prompt: PromptLayout) -> Tensor:
        states, visual = self._states(seen, prompt)
        return self._for_head(states[:, prompt.place], visual)

    def _for_head(self, state: Tensor, visual: Tensor) -> Tensor:
        state = state.float()[:, None]
        return torch.cat([state, visual[..., : self.backbone.width].float()], dim=1) if self.head.sees_visual else state

    def draw(self, generator: Generator) -> None:
        """Draw the prompt of the next training step."""
        self.drawn = self.prompts[int(torch.randint(len(self.prompts), (), generator=generator))]

    def standardise(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        if self.backbone.has_own_projector and not self.is_probe:
            seen = (
                self.backbone.encode_frames(inputs) if inputs.dtype == torch.uint8 else inputs for inputs in batches()
            )
            self.backbone.standardise(
                torch.cat([_thin(each.float().flatten(0, -2), len(each)).clone() for each in seen])
            )
        if self.head.is_standardised:
            self.head.standardise_by(self.features(inputs)[:, 0] for inputs in batches())

    def adjust_classifiers(self, changes: Sequence[tuple[float, Tensor]]) -> None:
        self.head.adjust_classifiers(changes)

    def adapt(self, config: TrainConfig) -> None:
        lora, backbone = config.lora, self.backbone
        if lora.last_blocks != 0:
            settings = peft_config_from_lora(lora)
            settings.trainable_token_indices = [backbone.token] if self.trains_token else None
            backbone.model = attach_lora(backbone.model, settings, choose_paths(backbone.lora_paths(lora), lora))
        if self.trains_projector:
            backbone.projector.float()  # updates below the resolution of bfloat16 would be lost
        backbone.projector.requires_grad_(self.trains_projector)

    def merge(self) -> None:
        self.backbone.model = merge_adapters(self.backbone.model)
        self.backbone.requires_grad_(False)

    def parameter_groups(self, optim: OptimSettings) -> list[dict[str, Any]]:
        """Return LoRA and the token's row without decay, the projector and the head with it, each with its own rate."""
        rows = [
            p
            for name, p in self.backbone.model.named_parameters()
            if p.requires_grad and "trainable_tokens_delta" in name
        ]
        projector = [p for p in self.backbone.projector.parameters() if p.requires_grad]
        known = {id(p) for p in (*rows, *projector)}
        lora = [p for p in self.backbone.parameters() if p.requires_grad and id(p) not in known]
        decay = optim.weight_decay
        groups = [
            ("lora", lora, optim.lora_lr, 0.0),
            ("token", rows, optim.token_lr, 0.0),
            ("projector", projector, self.backbone.projector_lr(optim), decay),
            ("head", list(self.head.parameters()), DEFAULT_HEAD_LR if optim.head_lr is None else optim.head_lr, decay),
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

    def stages(self, contract: Contract) -> tuple[ModelStage, ...]:
        backbone, layout = self.backbone, self.fixed.layout
        runs = contract.frames // backbone.frames_per_run
        shown = contract.pixel.frame_shape
        one_run = (BATCH, *shown) if backbone.frames_per_run == 1 else (BATCH, backbone.frames_per_run, *shown)
        vision, text, head = (
            backbone.vision_stage(),
            TextStage(backbone.decoder, layout),
            HeadStage(self.head, backbone.width),
        )
        with torch.inference_mode():
            constants = self._constants_of_text()
            width = int(vision.eval()(torch.zeros((1, *map(int, one_run[1:])), dtype=torch.uint8)).shape[-1])
        tokens = layout.visual // runs
        visual = TensorSpec("visual", "float32", (BATCH, runs, tokens, width))
        state = TensorSpec("state", "float32", (BATCH, backbone.width))
        grouped: dict[str, Any] = (
            {"per": "frame"} if backbone.frames_per_run == 1 else {"per": "group", "group": backbone.frames_per_run}
        )
        return (
            ModelStage(
                Stage(
                    name="vision",
                    inputs=(TensorSpec(PIXELS, "uint8", one_run),),
                    **grouped,
                    outputs=(TensorSpec("visual", "float32", (BATCH, tokens, width)),),
                ),
                vision,
            ),
            ModelStage(
                Stage(
                    name="text",
                    per="window",
                    outputs=(state,),
                    constants=tuple(constants),
                    inputs=(
                        visual,
                        *(TensorSpec(name, values.dtype.name, values.shape) for name, values in constants.items()),
                    ),
                ),
                text,
                constants,
                quantization="weights",
            ),
            ModelStage(
                Stage(
                    name="head",
                    per="window",
                    inputs=(state, *([visual] if self.head.sees_visual else [])),
                    outputs=contract.answers(),
                ),
                head,
            ),
        )

    def _constants_of_text(self) -> Arrays:
        """Return the constant inputs of the text stage: everything that depends only on the fixed prompt."""
        layout = self.fixed.layout
        prompt, positions = self.backbone.embed(torch.from_numpy(layout.text)), self.positions(self.fixed)
        behind = layout.leading
        constants = {"prompt": prompt[behind:].float().numpy(), "positions": positions[..., behind:].numpy()}
        if behind:
            constants["past"] = past_from_prompt(
                self.backbone.decoder, prompt[:behind], positions[..., :behind]
            ).numpy()
        return constants

    def dynamic_vision(self) -> DynamicGraph | None:
        return self.backbone.dynamic_vision()

    def save(self, folder: Path) -> None:
        """Write the adapter, the projector if it was trained, the head and the prompt."""
        if hasattr(self.backbone.model, "peft_config"):
            save_adapter(self.backbone.model, folder / ADAPTER)
        save_projector(self.backbone, folder, is_trained=self.trains_projector)
        save_tensors(self.head.state_dict(), folder / HEAD)
        record = versions.PROMPT.stamp(self._make_saved_prompt().model_dump(mode="json"))
        (folder / PROMPT).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def _make_saved_prompt(self) -> SavedPrompt:
        backbone = self.backbone
        return SavedPrompt(
            token=backbone.settings.token, token_id=backbone.token, ids=tuple(self.fixed.layout.ids.tolist())
        )

    def load_backbone(self, folder: Path) -> None:
        if (folder / ADAPTER).is_dir():
            self.backbone.model = load_adapter(self.backbone.model, folder / ADAPTER)
        load_projector(self.backbone, folder)

    def load_head(self, folder: Path) -> None:
        check_projector(folder, is_trained=self.trains_projector)
        path = folder / PROMPT
        try:
            saved = versions.PROMPT.read_model(json.loads(path.read_bytes()), SavedPrompt)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error}", fix=COPY_WHOLE) from error
        except (ValueError, DataError) as error:
            reason = first_line(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                reason = f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()
            raise BundleError(
                f"{path} is damaged: {reason}", allowed="token, token_id and ids", fix=COPY_WHOLE
            ) from error
        if saved != self._make_saved_prompt():
            raise BundleError(
                f"the tokenizer of the backbone gives a different prompt from the one in {path}",
                fix="use the backbone that the run was trained with, its tokenizer included",
            )
        load_state(self.head, folder / HEAD)


def _thin(rows: Tensor, samples: int) -> Tensor:
    """Return evenly spaced rows of a batch, at most ``ROWS_PER_SAMPLE`` per sample."""
    return rows[:: max(1, len(rows) // (ROWS_PER_SAMPLE * samples))]


class HeadStage(nn.Module):
    """The state ``(B, D)`` and, if the head sees them, visual tokens ``(B, runs, n, k · D)`` → logits."""

    def __init__(self, head: ActHead, width: int) -> None:
        super().__init__()
        self.head, self.width = head, width

    def forward(self, state: Tensor, visual: Tensor | None = None) -> tuple[Tensor, ...]:
        features = state[:, None]
        if visual is not None:
            features = torch.cat([features, visual.flatten(1, 2)[..., : self.width]], dim=1)
        logits: tuple[Tensor, ...] = self.head(features)
        return logits
