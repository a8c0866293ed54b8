"""Names that a user can choose from, defined once.

This module needs only the standard library, because the command line imports it.
"""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal["action", "risk", "action+risk", "report"]
LabelTask = Literal["action", "risk", "action+risk"]  # tasks that predict labels
ExportTarget = Literal["cpu", "gpu", "jetson", "any"]  # devices a bundle is made for
EngineName = Literal["tensorrt", "tensorrt-rtx"]  # runtimes that need an engine built first
RuntimeName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-tensorrt"]
RuntimeChoice = Literal["auto", RuntimeName, "torch"]
VariantName = Literal["fp32", "fp16", "int8", "mixed", "int8-tensorrt", "mixed-tensorrt"]
VariantChoice = Literal["auto", VariantName]
# How a stage is quantised: activations and weights as 8-bit integers, or only the weights, in 4 or 8 bits.
Quantization = Literal["integers", "weights"]
OnlyVariant = Literal[
    "fp32", "fp16", "int8"
]  # the only variant an export ships; int8 is whichever quantised one was made
Decoder = Literal["auto", "pyav", "decord"]
FrameChoice = Literal["all", "keyframes"]
VARIANTS: tuple[VariantName, ...] = get_args(VariantName)
