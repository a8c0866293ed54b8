"""What the rest of vidrisk knows of an architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from vidrisk.models import Pool
from vidrisk.models.families.projections import projection_names
from vidrisk.models.trainable import TrainableModel
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec


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
        divisible: blocks at the bottom, at the most, that can be run apart from the others (``lower`` and ``upper``); 0: none.
        aliases: further model_types that are read in the same way.
        is_embedded: its weights come with a package, and its name is a backbone's.
        build: configuration, contract, ``with_lora`` and ``local_only`` → the whole model (``models.trainable``), of an
            architecture that is no encoder with a head behind it.
    """

    name: str
    pool: Pool
    pools: tuple[Pool, ...]
    pixel: Callable[[Source], PixelSpec]
    load: Callable[[Source, PixelSpec, int], nn.Module]
    per: Literal["frame", "window"] = "frame"
    run: Callable[[Any, Tensor], Any] = lambda backbone, pixels: backbone(pixels)
    lora_targets: Callable[[nn.Module, int | None], list[str]] = projection_names
    tubelet: int = 1
    divisible: int = 0
    aliases: tuple[str, ...] = ()
    is_embedded: bool = False
    build: Callable[..., TrainableModel] | None = None

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
            raise SettingsError(f"windows of {frames} frames for backbone {backbone!r}",
                                allowed=f"clips, multiples of {self.tubelet}",
                                fix="set frames, or choose a backbone that sees one frame at a time")
