"""V-JEPA 2 (Assran et al. 2025, https://arxiv.org/abs/2506.09985): a window at a time, in tubelets of two frames.

Only the encoder is used: the predictor serves pre-training. Positions are rotary, for any number of frames, on a square
grid.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vidrisk.models.families.hub import hub_family
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.contract.specs import PixelSpec


def _shape(pixel: PixelSpec, frames: int) -> dict[str, object]:
    if pixel.height != pixel.width:
        raise SettingsError(
            f"V-JEPA 2 on {pixel.height}x{pixel.width} frames",
            allowed="square frames",
            fix="set pixel.height and pixel.width alike",
        )
    return {"frames_per_clip": frames, "crop_size": pixel.height}


def _encode(backbone: Any, pixels: Tensor) -> Any:
    return backbone(pixel_values_videos=pixels, skip_predictor=True)


FAMILY = hub_family(
    "vjepa2",
    "VJEPA2Model",
    "mean",
    pools=("auto", "mean"),
    size="crop_size",
    per="window",
    tubelet=2,
    options=_shape,
    unused=("predictor.",),
    run=_encode,
)
