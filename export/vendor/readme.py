"""The README of a vendor folder: the pixel contract in numbers, and each toolchain's own commands with their source."""

from __future__ import annotations

from collections.abc import Sequence

from vidrisk.export.vendor.floats import INPUT
from vidrisk.export.vendor.plain import PlainGraph
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.specs import PixelSpec

TEXT = """# {title} for other toolchains

The fp32 variant as plain ONNX: float32, batch 1, channels first. Nothing in it is quantised.

| graph | one run takes | inputs | outputs | calibration rows |
|---|---|---|---|---|
{graphs}

Logits are raw, in the order of `labels.json`. {answer}`calibration/<input>.npy` holds the inputs of a graph, a row per
run; `expected/<output>.npy` holds what ONNX Runtime computes from them, row by row: compare before and after your
toolchain quantises.
{chain}
## Pixels

1. A frame becomes {width}x{height} pixels, RGB: {geometry}, {interpolation} with antialiasing.
2. {arithmetic}
3. Channels first: red, green, blue.{time}

`calibration/pixels.npy` is uint8 RGB after step 1, channels last: {pixels}. `calibration/{image}.npy` is after step 3.
They are made from {samples}.

| units | mean | standard deviation |
|---|---|---|
| 0 to 1 | {mean} | {std} |
| 0 to 255 | {mean_255} | {std_255} |

## Hailo (Dataflow Compiler)

{hailo}
Source: Hailo Dataflow Compiler User Guide, "Parsing Tutorial", "Model Optimization Tutorial" and "Model Scripts".

## Rockchip (RKNN-Toolkit2)

{rockchip}
Source: https://github.com/airockchip/rknn-toolkit2 (examples/onnx).

## Qualcomm (AI Runtime)

{qualcomm}    qairt-converter --input_network model.onnx --output_path model.dlc
    qairt-quantizer --input_dlc model.dlc --input_list calibration/input_list.txt --output_dlc model_int8.dlc

The raw files are in the type and layout of the graph, which the converter keeps; paths are from the folder of
`model.onnx`. Source: Qualcomm AI Runtime SDK, "Qairt Converter" and "Qairt Quantizer"
(https://docs.qualcomm.com/bundle/publicresource/80-63442-10/topics/qairt_quantizer.md).

## Core ML

Core ML Tools read PyTorch and TensorFlow; their ONNX converter ended with version 5. Convert the torch program instead
(`--torch` puts one into the bundle) with `coremltools.convert`, or run `model.onnx` as it is with ONNX Runtime's Core
ML provider. `calibration/<input>.npy` is the sample data for
`coremltools.optimize.coreml.experimental.linear_quantize_activations`. Source:
https://apple.github.io/coremltools/docs-guides/source/opt-quantization-api.html.
"""

CHAIN = """
## How the graphs follow one another

Each graph takes the outputs of those above it. The outputs of successive runs are stacked after the batch axis for a
graph that runs less often: {stacks}.
The calibration rows are made in this way, too: `expected/` of one graph, stacked, is `calibration/` of the next.
"""

HAILO = """{where}    import numpy as np
    from hailo_sdk_client import ClientRunner
    runner = ClientRunner(hw_arch="hailo8")
    runner.translate_onnx_model("model.onnx", "model")
    runner.load_model_script("hailo.alls")
    runner.optimize(np.load("calibration/pixels.npy"))
    open("model.hef", "wb").write(runner.compile())

{normalisation}
"""

ROCKCHIP = """{where}    from rknn.api import RKNN
    rknn = RKNN()
    rknn.config(mean_values=[[{mean}]], std_values=[[{std}]], target_platform="rk3588")
    rknn.load_onnx(model="model.onnx")
    rknn.build(do_quantization=True, dataset="calibration/dataset.txt")
    rknn.export_rknn("model.rknn")

`dataset.txt` lists the frames as PNG files, with paths from the folder of `model.onnx`: start the script there.
"""

NO_PICTURE = """There are no commands here for {graphs}: a run takes something else than one picture. Run it on the
CPU with ONNX Runtime, or give the toolchain `calibration/<input>.npy` in the form that it expects.
"""


def readme(graphs: Sequence[PlainGraph], contract: Contract, windows: int) -> str:
    """Return the text of the README.

    Args:
        graphs: in the order in which they run.
        contract: pixels and targets of the model.
        windows: number of calibration windows.
    """
    pixel, pictures = contract.pixel, [graph for graph in graphs if graph.takes_picture]
    others = ", ".join(_path(graph, graphs) for graph in graphs if not graph.takes_picture)
    no_picture = [NO_PICTURE.format(graphs=others)] if others else []
    seeing = [graph for graph in graphs if INPUT in graph.inputs]
    frames, rows = contract.frames, windows * contract.frames
    geometry = {
        "squash": "both sides are stretched",
        "pad": "the longer side fits, the rest is grey (128)",
        "crop": f"the shorter side covers, then the centre is cut out, {pixel.crop_fraction:g} of the scaled image",
    }
    mean_255, std_255 = _units_255(pixel)
    averaged = any(graph.is_averaged for graph in graphs)
    answer = f"The answer to a clip is the mean of the logits of its {frames} frames. " if averaged else ""
    time = (
        " The frames of one run are the axis in front of them, in order of time."
        if any(g.frames > 1 for g in seeing)
        else ""
    )
    return TEXT.format(
        title=" and ".join(target.name for target in contract.targets),
        graphs="\n".join(_row(graph, graphs, rows, is_photo=frames == 1) for graph in graphs),
        answer=answer,
        chain=_chain(graphs),
        width=pixel.width,
        height=pixel.height,
        geometry=geometry[pixel.resize],
        interpolation=pixel.interpolation,
        arithmetic=" ".join(_arithmetic(graph, graphs, pixel) for graph in seeing),
        time=time,
        image=INPUT,
        pixels=", ".join(f"{_pixel_shape(graph, pixel, rows)}{_of(graph, graphs)}" for graph in seeing),
        samples=f"{windows} photos" if frames == 1 else f"{windows} clips of {frames} frames",
        mean=_join_numbers(pixel.mean),
        std=_join_numbers(pixel.std),
        mean_255=_join_numbers(mean_255),
        std_255=_join_numbers(std_255),
        hailo="\n".join([*(_hailo(graph, graphs) for graph in pictures), *no_picture]),
        rockchip="\n".join([*(_rockchip(graph, graphs, pixel) for graph in pictures), *no_picture]),
        qualcomm="In the folder of each graph:\n\n" if len(graphs) > 1 else "",
    )


def model_script(graph: PlainGraph, pixel: PixelSpec) -> str:
    """Return Hailo's model script."""
    mean, std = _units_255(pixel)
    return (
        f"normalization1 = normalization([{_join_numbers(mean)}], [{_join_numbers(std)}])\n"
        if graph.is_normalised
        else ""
    )


def _row(graph: PlainGraph, graphs: Sequence[PlainGraph], rows: int, *, is_photo: bool) -> str:
    takes = "a photo" if is_photo else "one frame" if graph.frames == 1 else f"{graph.frames} frames"
    inputs, outputs = (
        ", ".join(f"`{name}` {list(shape)}" for name, shape in tensors.items())
        for tensors in (graph.inputs, graph.outputs)
    )
    return f"| {_path(graph, graphs)} | {takes} | {inputs} | {outputs} | {rows // graph.frames} |"


def _chain(graphs: Sequence[PlainGraph]) -> str:
    if len(graphs) == 1:
        return ""
    stacks = []
    for number, graph in enumerate(graphs):
        for source in graphs[:number]:
            for name in source.outputs.keys() & graph.inputs.keys():
                stacks.append(
                    f"{graph.frames // source.frames} of `{name}`, {list(source.outputs[name])} each, are one "
                    f"{list(graph.inputs[name])}"
                )
    return CHAIN.format(stacks="; ".join(stacks))


def _arithmetic(graph: PlainGraph, graphs: Sequence[PlainGraph], pixel: PixelSpec) -> str:
    mean, std = _units_255(pixel)
    return (f"In `{graph.name}`: " if len(graphs) > 1 else "") + (
        f"`(value - mean) / deviation` in units of 0 to 255: mean {_join_numbers(mean)}, deviation "
        f"{_join_numbers(std)}."
        if graph.is_normalised
        else "Values stay from 0 to 255: mean and deviation are inside the graph."
    )


def _hailo(graph: PlainGraph, graphs: Sequence[PlainGraph]) -> str:
    normalisation = (
        "The model script puts the normalisation on the chip, so the calibration set is not normalised."
        if graph.is_normalised
        else "The model script is empty: normalisation is inside the graph, and the calibration set is not normalised."
    )
    return HAILO.format(where=_where(graph, graphs), normalisation=normalisation)


def _rockchip(graph: PlainGraph, graphs: Sequence[PlainGraph], pixel: PixelSpec) -> str:
    mean, std = _units_255(pixel) if graph.is_normalised else ([0.0] * 3, [1.0] * 3)
    return ROCKCHIP.format(where=_where(graph, graphs), mean=_join_numbers(mean), std=_join_numbers(std))


def _path(graph: PlainGraph, graphs: Sequence[PlainGraph]) -> str:
    return f"`{graph.name}/model.onnx`" if len(graphs) > 1 else "`model.onnx`"


def _of(graph: PlainGraph, graphs: Sequence[PlainGraph]) -> str:
    return f" in `{graph.name}`" if len(graphs) > 1 else ""


def _where(graph: PlainGraph, graphs: Sequence[PlainGraph]) -> str:
    return f"In the folder `{graph.name}`:\n\n" if len(graphs) > 1 else ""


def _pixel_shape(graph: PlainGraph, pixel: PixelSpec, rows: int) -> list[int]:
    return [rows // graph.frames, *([] if graph.frames == 1 else [graph.frames]), *pixel.frame_shape]


def _units_255(pixel: PixelSpec) -> tuple[list[float], list[float]]:
    return [255 * value for value in pixel.mean], [255 * value for value in pixel.std]


def _join_numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
