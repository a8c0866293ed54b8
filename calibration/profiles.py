"""Quantisation profiles: what the integer kernels of a kind of hardware want."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

ProfileName = Literal["cpu", "cpu7", "tensorrt"]


@dataclass(frozen=True)
class Profile:
    """How weights, activations, biases and residual sums are quantised. Weights are symmetric int8 per output channel.

    Attributes:
        symmetric: activations int8 around zero (zero point 0) instead of uint8 with any zero point.
        integer_bias: biases as int32 in units of input scale × weight scale; otherwise left in floating point.
        quantise_sums: both inputs of a residual sum in 8 bits; otherwise only the one that a weighted node does not
            make, so that convolution, bias, sum and activation become one kernel.
        quantise_averaged: the input of an average over a convolution's result in 8 bits; otherwise left in floating
            point.
        largest_weight: integer of a weight. 63 keeps every sum of two products with uint8 inside 16 bits.
        half_scales: scales are numbers that FP16 holds, so that the rest of the graph may become FP16 and the integers
            stay.
    """

    name: ProfileName
    symmetric: bool
    integer_bias: bool
    quantise_sums: bool
    quantise_averaged: bool
    half_scales: bool
    largest_weight: int = 127

    @property
    def dtype(self) -> type[np.uint8] | type[np.int8]:
        return np.int8 if self.symmetric else np.uint8

    def held_scales(self, scales: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Positive scales as engines hold them: the next FP16 number where they hold FP16, so that the largest value still fits.

        A scale beyond FP16 stays what it is: nodes with values so large stay in float32.
        """
        if not self.half_scales:
            return scales
        with np.errstate(over="ignore"):
            half = scales.astype(np.float16)
        above = np.where(half < scales, np.nextafter(half, np.float16(np.inf)), half)
        return np.where(np.isfinite(above), above, scales).astype(scales.dtype)


# ONNX Runtime and OpenVINO on x86 and ARM: VNNI and dot-product kernels multiply uint8 by int8.
# ONNX Runtime leaves a convolution in floating point whose result nobody reads in 8 bits.
_CPU = Profile("cpu", symmetric=False, integer_bias=True, quantise_sums=True, quantise_averaged=True, half_scales=False)
PROFILES: dict[ProfileName, Profile] = {
    "cpu": _CPU,
    # x86 without VNNI: the kernels that saturate are the fast ones, and weights of 7 bits never make them.
    "cpu7": replace(_CPU, name="cpu7", largest_weight=63),
    # TensorRT takes explicit Q/DQ with zero point 0 only, and biases in floating point ("Working with Quantized
    # Types"). What a DequantizeLinear makes has the type of its scale.
    "tensorrt": Profile(
        "tensorrt", symmetric=True, integer_bias=False, quantise_sums=False, quantise_averaged=False, half_scales=True
    ),
}
