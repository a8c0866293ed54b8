"""What the rest of vidrisk knows of an architecture."""

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

COMPOSE = "compose:"  # begins the name of a backbone that is made of others
OF_VLM = (*(f"vlm.{name}" for name in VlmSettings.model_fields), "lora.parts", "optim.token_lr", "optim.projector_lr")


@dataclass(frozen=True)
class Source:
    """Where a backbone comes from: its name, a hub id or a local folder. Code that lies beside weights is never run.

    Attributes:
        local_only: take a hub id from what was downloaded before, and ask no network.
    """

    backbone: str
    local_only: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """How transformers may load."""
        return {"trust_remote_code": False, "local_files_only": self.local_only}

    @property
    def is_here(self) -> bool:
        return Path(self.backbone).exists()

    @property
    def parts(self) -> tuple[str, ...]:
        """Backbones that ``compose:TOWER+LLM`` names, in this order; else the one that there is.

        No name has a plus sign, but the path of a folder may.
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
    """One architecture: how it is loaded, run and summed up.

    Attributes:
        name: the model_type of its configurations; of several, the vision tower's own.
        per: ``frame`` (N, 3, H, W) or ``window`` (B, T, 3, H, W): what the backbone sees at a time.
        pool: what the family itself uses as a representation.
        pools: that it has.
        pixel: source → what it was trained with: size, filter, mean and deviation.
        load: source, pixel and frames of a window → the backbone, with its weights.
        run: backbone and normalised pixels → feature maps, the finest first, or a Hugging Face output.
        lora_targets: backbone and how many of the last blocks (None: all) → paths of the modules that LoRA adapts.
        tubelet: frames that one token covers: a window is a whole number of them.
        divisible: blocks at the bottom, at the most, that can be run apart from the others (``lower`` and ``upper``);
            0: none.
        aliases: further model_types that are read in the same way.
        is_embedded: its weights come with a package, and its name is a backbone's.
        backbone: configuration, pixel spec, ``clips``, ``with_token`` and ``local_only`` → a vision-language model;
            None of an architecture that is none.
        build: configuration, contract and ``local_only`` → the whole model (``models.trainable``), of an architecture
            that is no encoder with a head behind it. Such a one has no use for ``load``, ``run`` and pools.
        has_dynamic_vision: its vision tower can be written as a graph for images of any size.
        ignored: settings that mean nothing to it, by their dotted names.
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
        """Refuse settings that mean nothing to the family.

        Raises:
            SettingsError: one that is not at its default.
        """
        defaults = TrainConfig()
        for name in self.ignored:
            section, field = name.split(".")
            given, default = (getattr(getattr(each, section), field) for each in (config, defaults))
            if given != default:
                raise SettingsError(
                    f"{name} {given!r:.60} of backbone {config.backbone!r}, to which it means nothing",
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
            SettingsError: photos, or a number of frames that is no multiple of the tubelet.
        """
        if frames % self.tubelet:
            raise SettingsError(
                f"windows of {frames} frames for backbone {backbone!r}",
                allowed=f"clips, multiples of {self.tubelet}",
                fix="set frames, or choose a backbone that sees one frame at a time",
            )


def _no_encoder(source: Source) -> nn.Module:
    """Raises:
    SettingsError: in any case.
    """
    raise SettingsError(
        f"backbone {source.backbone!r} answers with a language model, and is no encoder",
        allowed="image and video encoders",
        fix="train it with `vidrisk train`, or name an encoder",
    )
