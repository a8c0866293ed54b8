"""Description of an architecture, as used by the rest of vidrisk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from vidrisk.models import Pool
from vidrisk.models.config import TrainConfig, VlmSettings
from vidrisk.models.families.projections import projection_names
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec

COMPOSE = "compose:"  # prefix of the name of a backbone that is composed of others
OF_VLM = (*(f"vlm.{name}" for name in VlmSettings.model_fields), "lora.parts", "optim.token_lr", "optim.projector_lr")


@dataclass(frozen=True)
class Source:
    """Source of a backbone: its name, a hub id or a local folder; code stored beside weights is never run.

    Attributes:
        local_only: take a hub id from earlier downloads, without network access.
    """

    backbone: str
    local_only: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Loading options for transformers."""
        return {"trust_remote_code": False, "local_files_only": self.local_only}

    @property
    def is_here(self) -> bool:
        return Path(self.backbone).exists()

    @property
    def parts(self) -> tuple[str, ...]:
        """Backbones that ``compose:TOWER+LLM`` names, in this order, else the single backbone.

        A backbone's name contains no plus sign, but the path of a folder may.
        """
        named = self.backbone.removeprefix(COMPOSE)
        if named == self.backbone:
            return (self.backbone,)
        words = named.split("+")
        splits = [("+".join(words[:number]), "+".join(words[number:])) for number in range(1, len(words))]
        return next(
            (split for split in splits if all("+" not in part or Path(part).is_dir() for part in split)), tuple(words)
        )

    @property
    def resolved(self) -> str:
        """The backbone with local folders as absolute paths."""
        found = [str(Path(part).resolve()) if Path(part).is_dir() else part for part in self.parts]
        return f"{COMPOSE if self.backbone.startswith(COMPOSE) else ''}{'+'.join(found)}"


@dataclass(frozen=True)
class Family:
    """One architecture: how it is loaded, run and pooled.

    Attributes:
        name: the model_type of its configurations; if a configuration has several, that of the vision tower.
        per: input that the backbone sees at a time: ``frame`` (N, 3, H, W) or ``window`` (B, T, 3, H, W).
        pool: the representation that the family itself uses.
        pools: all that it supports.
        pixel: source → what it was trained with: size, filter, mean and deviation.
        load: source, pixel and frames of a window → the backbone, with its weights.
        run: backbone and normalised pixels → feature maps, the finest first, or a Hugging Face output.
        lora_targets: backbone and how many of the last blocks (None: all) → paths of the modules that LoRA adapts.
        tubelet: frames per token: a window is a whole number of them.
        divisible: greatest number of blocks at the bottom that can be run apart from the others (``lower`` and
            ``upper``); 0: none.
        aliases: further model_types that are read in the same way.
        is_embedded: its weights come with a package, and its name is a backbone's.
        backbone: configuration, pixel spec, ``clips``, ``with_token`` and ``local_only`` → a vision-language model;
            None for other architectures.
        build: configuration, contract and ``local_only`` → the whole model (``models.trainable``), for an architecture
            that is not an encoder with a head behind it; it then does not use ``load``, ``run`` and pools.
        has_dynamic_vision: its vision tower can be exported as a graph for images of any size.
        ignored: dotted names of the settings that have no effect on it.
    """

    name: str
    pool: Pool
    pools: tuple[Pool, ...]
    pixel: Callable[[Source], PixelSpec]
    load: Callable[[Source, PixelSpec, int], nn.Module] = lambda source, pixel, frames: _no_encoder(source)
    per: Literal["frame", "window"] = "frame"
    run: Callable[[Any, Tensor], Any] = lambda backbone, pixels: backbone(pixels)
    lora_targets: Callable[[nn.Module, int | None], list[str]] = projection_names
    tubelet: int = 1
    divisible: int = 0
    aliases: tuple[str, ...] = ()
    is_embedded: bool = False
    backbone: Callable[..., Any] | None = None
    build: Callable[..., TrainableModel] | None = None
    has_dynamic_vision: bool = False
    ignored: tuple[str, ...] = OF_VLM

    def check_settings(self, config: TrainConfig) -> None:
        """Refuse settings that have no effect on the family.

        Raises:
            SettingsError: such a setting is not at its default.
        """
        defaults = TrainConfig()
        for name in self.ignored:
            section, field = name.split(".")
            given, default = (getattr(getattr(each, section), field) for each in (config, defaults))
            if given != default:
                raise SettingsError(
                    f"{name} {given!r:.60} has no effect on backbone {config.backbone!r}",
                    allowed="its default",
                    fix=f"leave {name} out, or choose another backbone",
                )

    def check_pool(self, pool: Pool, backbone: str) -> Pool:
        """Return the pool to use: the family's own for ``auto``.

        Raises:
            SettingsError: the family does not have it.
        """
        if pool not in self.pools:
            raise SettingsError(f"pool {pool!r} of {backbone}", allowed=", ".join(self.pools))
        return self.pool if pool == "auto" else pool

    def check_frames(self, frames: int, backbone: str) -> None:
        """Refuse windows that the backbone cannot divide into tubelets.

        Raises:
            SettingsError: photos, or a number of frames that is not a multiple of the tubelet.
        """
        if frames % self.tubelet:
            raise SettingsError(
                f"windows of {frames} frames for backbone {backbone!r}",
                allowed=f"clips, multiples of {self.tubelet}",
                fix="set frames, or choose a backbone that sees one frame at a time",
            )


def _no_encoder(source: Source) -> nn.Module:
    """Refuse to load a backbone as an encoder.

    Raises:
        SettingsError: always.
    """
    raise SettingsError(
        f"backbone {source.backbone!r} answers with a language model and is not an encoder",
        allowed="image and video encoders",
        fix="train it with `vidrisk train`, or name an encoder",
    )
