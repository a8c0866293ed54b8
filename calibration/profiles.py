"""Quantisation profiles: the requirements of the integer kernels of a kind of hardware."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

ProfileName = Literal["cpu", "cpu7", "tensorrt"]


@dataclass(frozen=True)
class Profile:
    """How weights, activations, biases and residual sums are quantised.

    Weights are symmetric int8 per output channel.

    Attributes:
        symmetric: activations int8 around zero (zero point 0) instead of uint8 with any zero point.
        integer_bias: biases as int32 in units of input scale × weight scale; otherwise left in floating point.
        quantize_sums: both inputs of a residual sum in 8 bits; otherwise only the one that no weighted node makes, so
            that convolution, bias, sum and activation become one kernel.
        quantize_averaged: the input of an average over a convolution's result in 8 bits; otherwise left in floating
            point.
        largest_weight: largest integer of a weight. 63 keeps every sum of two products with uint8 within 16 bits.
        half_scales: scales are exact in FP16, so that the rest of the graph may become FP16 with the same integers.
    """

    name: ProfileName
    symmetric: bool
    integer_bias: bool
    quantize_sums: bool
    quantize_averaged: bool
    half_scales: bool
    largest_weight: int = 127

    @property
    def dtype(self) -> type[np.uint8] | type[np.int8]:
        return np.int8 if self.symmetric else np.uint8

    def round_scales(self, scales: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Return positive scales as engines store them.

        With ``half_scales``, this is the next larger FP16 number, so that the largest value still fits. A scale beyond
        FP16 is unchanged: nodes with values so large stay in float32.
        """
        if not self.half_scales:
            return scales
        with np.errstate(over="ignore"):
            half = scales.astype(np.float16)
        above = np.where(half < scales, np.nextafter(half, np.float16(np.inf)), half)
        return np.where(np.isfinite(above), above, scales).astype(scales.dtype)


# ONNX Runtime and OpenVINO on x86 and ARM: VNNI and dot-product kernels multiply uint8 by int8. ONNX Runtime leaves a
# convolution in floating point if its result is not read in 8 bits.
_CPU = Profile("cpu", symmetric=False, integer_bias=True, quantize_sums=True, quantize_averaged=True, half_scales=False)
PROFILES: dict[ProfileName, Profile] = {
    "cpu": _CPU,
    # x86 without VNNI: the fast kernels saturate, except with weights of 7 bits.
    "cpu7": replace(_CPU, name="cpu7", largest_weight=63),
    # TensorRT only accepts explicit Q/DQ with zero point 0, and biases in floating point ("Working with Quantized
    # Types"). The output of a DequantizeLinear has the type of its scale.
    "tensorrt": Profile(
        "tensorrt", symmetric=True, integer_bias=False, quantize_sums=False, quantize_averaged=False, half_scales=True
    ),
}
