"""Quantisation profiles: what the integer kernels of a kind of hardware want."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

ProfileName = Literal["cpu", "tensorrt"]


@dataclass(frozen=True)
class Profile:
    """How activations, biases and residual sums are quantised. Weights are symmetric int8 per output channel in both.

    Attributes:
        symmetric: activations int8 around zero (zero point 0) instead of uint8 with any zero point.
        integer_bias: biases as int32 in units of input scale × weight scale; otherwise left in floating point.
        quantise_sums: both inputs of a residual sum in 8 bits; otherwise only the one that a weighted node does not make, so
            that convolution, bias, sum and activation become one kernel.
        quantise_averaged: the input of an average over a convolution's result in 8 bits; otherwise left in floating point.
    """

    name: ProfileName
    symmetric: bool
    integer_bias: bool
    quantise_sums: bool
    quantise_averaged: bool

    @property
    def dtype(self) -> type[np.uint8] | type[np.int8]:
        return np.int8 if self.symmetric else np.uint8


PROFILES: dict[ProfileName, Profile] = {
    # ONNX Runtime and OpenVINO on x86 and ARM: VNNI and dot-product kernels multiply uint8 by int8.
    # ONNX Runtime leaves a convolution in floating point whose result nobody reads in 8 bits.
    "cpu": Profile("cpu", symmetric=False, integer_bias=True, quantise_sums=True, quantise_averaged=True),
    # TensorRT takes explicit Q/DQ with zero point 0 only, and biases in floating point ("Working with Quantized Types").
    "tensorrt": Profile("tensorrt", symmetric=True, integer_bias=False, quantise_sums=False, quantise_averaged=False),
}
