"""Names that a user can choose from, written once. The standard library alone: the command line imports them."""

from __future__ import annotations

from typing import Literal, get_args

EngineName = Literal["tensorrt", "tensorrt-rtx"]  # runtimes that need an engine built first
RuntimeName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-tensorrt"]
RuntimeChoice = Literal["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-tensorrt",
                        "torch"]
VariantName = Literal["fp32", "fp16", "int8", "mixed", "int8-tensorrt", "mixed-tensorrt"]
VariantChoice = Literal["auto", "fp32", "fp16", "int8", "mixed", "int8-tensorrt", "mixed-tensorrt"]
Decoder = Literal["auto", "pyav", "decord"]
FrameChoice = Literal["all", "keyframes"]
VARIANTS: tuple[VariantName, ...] = get_args(VariantName)
