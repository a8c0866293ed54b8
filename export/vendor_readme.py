"""The README of a vendor folder: the pixel contract in numbers, and each toolchain's own commands with their source."""

from __future__ import annotations

from collections.abc import Sequence

from vidrisk.runtimes.contract.contract import Contract

TEXT = """# {title} for other toolchains

`model.onnx` is the fp32 variant as one plain graph: input `image`, float32 {shape}, batch 1; outputs {outputs}, raw logits in the
order of `labels.json`. Nothing in it is quantised. `expected/*.npy` holds what ONNX Runtime computes from `calibration/inputs.npy`,
row by row: compare before and after your toolchain has quantised.

## Pixels

1. A frame becomes {width}x{height} pixels, RGB: {geometry}, {interpolation} with antialiasing.
2. {arithmetic}
3. Channels first: red, green, blue.

`calibration/pixels.npy` is uint8 RGB after step 1, `calibration/inputs.npy` is after step 3; {samples} samples each.

| units | mean | standard deviation |
|---|---|---|
| 0 to 1 | {mean} | {std} |
| 0 to 255 | {mean_255} | {std_255} |

## Hailo (Dataflow Compiler)

    import numpy as np
    from hailo_sdk_client import ClientRunner
    runner = ClientRunner(hw_arch="hailo8")
    runner.translate_onnx_model("model.onnx", "model")
    runner.load_model_script("hailo.alls")
    runner.optimize(np.load("calibration/pixels.npy"))
    open("model.hef", "wb").write(runner.compile())

{hailo} Source: Hailo Dataflow Compiler User Guide, "Parsing Tutorial", "Model Optimization Tutorial" and "Model Scripts".

## Rockchip (RKNN-Toolkit2)

    from rknn.api import RKNN
    rknn = RKNN()
    rknn.config(mean_values=[[{rknn_mean}]], std_values=[[{rknn_std}]], target_platform="rk3588")
    rknn.load_onnx(model="model.onnx")
    rknn.build(do_quantization=True, dataset="calibration/dataset.txt")
    rknn.export_rknn("model.rknn")

`dataset.txt` lists the frames as PNG files, with paths from this folder: start the script here. Source:
https://github.com/airockchip/rknn-toolkit2 (examples/onnx).

## Qualcomm (AI Runtime)

    qairt-converter --input_network model.onnx --output_path model.dlc
    qairt-quantizer --input_dlc model.dlc --input_list calibration/input_list.txt --output_dlc model_int8.dlc

The raw files are float32 in the layout of the graph, which the converter keeps; paths are from this folder. Source: Qualcomm AI
Runtime SDK, "Qairt Converter" and "Qairt Quantizer"
(https://docs.qualcomm.com/bundle/publicresource/80-63442-10/topics/qairt_quantizer.md).

## Core ML

Core ML Tools read PyTorch and TensorFlow; their ONNX converter ended with version 5. Convert the torch program instead
(`--torch` puts one into the bundle) with `coremltools.convert`, or run `model.onnx` as it is with ONNX Runtime's Core ML provider.
`calibration/inputs.npy` is the sample data for `coremltools.optimize.coreml.experimental.linear_quantize_activations`. Source:
https://apple.github.io/coremltools/docs-guides/source/opt-quantization-api.html.
"""


def readme(contract: Contract, shape: Sequence[int], *, is_normalised: bool, samples: int) -> tuple[str, str]:
    """Hailo's model script, and the README.

    Args:
        shape: of the input.
        is_normalised: mean and deviation are outside the graph.
        samples: to calibrate on.
    """
    pixel = contract.pixel
    mean_255, std_255 = [255 * value for value in pixel.mean], [255 * value for value in pixel.std]
    outside = (mean_255, std_255) if is_normalised else ([0.0] * 3, [1.0] * 3)
    geometry = {"squash": "both sides are stretched", "pad": "the longer side fits, the rest is grey (128)",
                "crop": f"the shorter side covers, then the centre is cut out, {pixel.crop_fraction:g} of the scaled image"}
    arithmetic = (f"`(value - mean) / deviation` in units of 0 to 255: mean {_listed(mean_255)}, deviation {_listed(std_255)}."
                  if is_normalised else "Values stay from 0 to 255: mean and deviation are inside the graph.")
    script = (f"normalization1 = normalization([{_listed(outside[0])}], [{_listed(outside[1])}])\n" if is_normalised else "")
    hailo = ("The model script puts the normalisation on the chip, so the calibration set is not normalised." if is_normalised else
             "The model script is empty: normalisation is inside the graph, and the calibration set is not normalised.")
    text = TEXT.format(
        title=" and ".join(target.name for target in contract.targets), shape=list(shape), samples=samples, width=pixel.width,
        height=pixel.height, outputs=", ".join(f"`{spec.name}` ({spec.shape[-1]})" for spec in contract.answers()),
        geometry=geometry[pixel.resize], interpolation=pixel.interpolation, arithmetic=arithmetic, mean=_listed(pixel.mean),
        std=_listed(pixel.std), mean_255=_listed(mean_255), std_255=_listed(std_255), hailo=hailo, rknn_mean=_listed(outside[0]),
        rknn_std=_listed(outside[1]))
    return script, text


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
