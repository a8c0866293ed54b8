"""Names that a user can choose from, written once. The standard library alone: the command line imports them."""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal["action", "risk", "action+risk", "report"]
LabelTask = Literal["action", "risk", "action+risk"]  # whose answers are labels
ExportTarget = Literal["cpu", "gpu", "jetson", "any"]  # what a bundle is to run on
EngineName = Literal["tensorrt", "tensorrt-rtx"]  # runtimes that need an engine built first
RuntimeName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-tensorrt"]
RuntimeChoice = Literal["auto", RuntimeName, "torch"]
VariantName = Literal["fp32", "fp16", "int8", "mixed", "int8-tensorrt", "mixed-tensorrt"]
VariantChoice = Literal["auto", VariantName]
# How a stage is quantised: its activations and weights as integers of 8 bits, or its weights alone, in 4 or 8.
Quantization = Literal["integers", "weights"]
OnlyVariant = Literal["fp32", "fp16", "int8"]  # that an export ships alone; int8 is whichever quantized one was made
Decoder = Literal["auto", "pyav", "decord"]
FrameChoice = Literal["all", "keyframes"]
VARIANTS: tuple[VariantName, ...] = get_args(VariantName)
