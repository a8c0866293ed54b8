"""A model as the toolchains of other vendors take it: a plain fp32 ONNX file, calibration frames, expected outputs, and a README.

    model.onnx               float32, batch 1, channels first, no bytes, normalisation left to the toolchain where it can be cut off
    calibration/pixels.npy   uint8 (N, H, W, 3) RGB, what the frame reader gives
    calibration/inputs.npy   float32 (N, 3, H, W), what model.onnx takes
    calibration/png/, raw/   one file per frame, and lists of them: dataset.txt, input_list.txt
    expected/                the outputs of model.onnx for these inputs, one .npy per output
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, compose, helper
from PIL import Image

from vidrisk.calibration.files import check_graph, copied, save_graph
from vidrisk.export.foreign.read import opset_of, prune
from vidrisk.export.foreign.session import Array, Session, simplified
from vidrisk.export.vendor_readme import readme
from vidrisk.runtimes.contract.bundle import Bundle, check_vacant
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError, RuntimeFailure, SettingsError
from vidrisk.runtimes.contract.stages import BATCH, PIXELS, Stage

log = logging.getLogger(__name__)

OPSET = 17  # the newest that all of them read
INPUT = "image"
SAME = 1e-4
PLAIN = ("Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Identity", "Mul", "Add", "Sub", "Div")
Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class VendorModel:
    """The plain model.

    Attributes:
        is_normalised: its input is normalised; else it takes RGB values from 0 to 255.
        shape: of its input.
    """

    model: onnx.ModelProto
    is_normalised: bool
    shape: tuple[int, ...]


def write_vendor_files(bundle: Bundle, windows: Frames, out: Path) -> VendorModel:
    """Write a bundle's fp32 variant for other toolchains.

    Args:
        windows: ``uint8 (N, T, H, W, 3)`` to calibrate on.
        out: folder to make.

    Raises:
        SettingsError: the bundle has no fp32 variant, or a model that is no one graph.
        Otherwise as ``write_vendor_model``.
    """
    if "fp32" not in bundle.manifest.variants:
        raise SettingsError("no fp32 variant to write for vendors", fix="ship it, too: do not leave it out")
    files = {stage.name: bundle.path(stage.name, "fp32") for stage in bundle.stages}
    vendor = vendor_model(bundle.stages, files, bundle.contract)
    write_vendor_model(vendor, bundle.contract, windows, out)
    return vendor


def write_vendor_model(vendor: VendorModel, contract: Contract, windows: Frames, out: Path) -> None:
    """Write a plain model with calibration frames, expected outputs and a README.

    Raises:
        BundleError: ``out`` exists.
        DataError: no frames.
    """
    check_vacant(out)
    if not len(windows):
        raise DataError("no calibration frames", fix="give labelled data to calibrate on")
    out.mkdir(parents=True)
    save_graph(vendor.model, out / "model.onnx")
    inputs = [_input_of(vendor, contract, window) for window in windows]
    session = Session(vendor.model)
    answers = [session.run({INPUT: one}) for one in inputs]
    (out / "expected").mkdir()
    for name in session.outputs:
        np.save(out / "expected" / f"{name}.npy", np.concatenate([answer[name] for answer in answers]))
    _write_calibration(windows, np.concatenate(inputs), out / "calibration")
    labels = {target.name: list(target.labels) for target in contract.targets}
    (out / "labels.json").write_text(json.dumps(labels, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    script, text = readme(contract, vendor.shape, is_normalised=vendor.is_normalised, samples=len(inputs))
    (out / "hailo.alls").write_text(script, encoding="utf-8")
    (out / "README.md").write_text(text, encoding="utf-8")


def vendor_model(stages: Sequence[Stage], files: Mapping[str, Path], contract: Contract) -> VendorModel:
    """One plain graph of all stages, for one window.

    Raises:
        SettingsError: stages that cannot be joined, which is where one runs several times per window.
    """
    if contract.frames > 1 and any(stage.per != "window" for stage in stages):
        raise SettingsError(f"a model whose stages run for each of {contract.frames} frames, for a vendor's toolchain",
                            allowed="photos, or stages that take the whole window", fix="these toolchains take one graph")
    if any(stage.constants for stage in stages):
        raise SettingsError("a model with constants beside its graphs, for a vendor's toolchain", allowed="graphs of pixels alone")
    joined = _joined([(stage, onnx.load(str(files[stage.name]))) for stage in stages])
    before = copied(joined)
    joined = _with_old_opset(joined)
    for value in (*joined.graph.input, *joined.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1  # replaces the name
    del joined.graph.value_info[:]
    vendor = _without_bytes(simplified(joined), contract)
    _check_same(before, vendor, contract)
    return vendor


def _check_same(model: onnx.ModelProto, vendor: VendorModel, contract: Contract) -> None:
    """Refuse a plain model that computes something else than the stages."""
    dims = [dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    frames = np.random.default_rng(1).integers(0, 256, dims, dtype=np.uint8)
    expected = Session(model).run({PIXELS: frames})
    found = Session(vendor.model).run({INPUT: _input_of(vendor, contract, frames.reshape(-1, *dims[-3:]))})
    for name, values in expected.items():
        if not np.allclose(found[name], values, rtol=SAME, atol=10 * SAME):
            raise RuntimeFailure(f"the plain graph for vendors computes another {name}", fix="report it with the model")


def _with_old_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in opset 17 where it can be written so; a warning where it cannot."""
    result = copied(model)
    del result.opset_import[:]
    result.opset_import.append(helper.make_opsetid("", OPSET))
    _split_gelu(result)
    _list_axes(result)
    del result.graph.value_info[:]
    try:
        check_graph(result)
        Session(result)
    except (onnx.checker.ValidationError, RuntimeFailure) as error:
        log.warning("the model stays in opset %d: %s", opset_of(model), str(error).strip().splitlines()[0])
        return model
    return result


def _list_axes(model: onnx.ModelProto) -> None:
    """Write the axes of reductions as attributes, as before opset 18, in place."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if not node.op_type.startswith("Reduce") or node.op_type == "ReduceSum" or len(node.input) < 2:
            continue
        if node.input[1] in constants:
            kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in constants[node.input[1]]]))
            del node.input[1]


def _joined(graphs: Sequence[tuple[Stage, onnx.ModelProto]]) -> onnx.ModelProto:
    (_, result), *rest = graphs
    for number, (stage, model) in enumerate(rest):
        prefix = f"{stage.name}/"
        following = compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False)
        for value in following.graph.input:  # per frame before, per window here: one more axis of length 1
            source = next(output for output in result.graph.output if output.name == value.name)
            if len(value.type.tensor_type.shape.dim) == len(source.type.tensor_type.shape.dim) + 1:
                _widen(result, source, f"window{number}")
        following.ir_version = result.ir_version
        links = [(value.name, value.name) for value in following.graph.input]
        result = compose.merge_models(result, following, io_map=links)
    return result


def _widen(model: onnx.ModelProto, output: onnx.ValueInfoProto, key: str) -> None:
    """Give an output an axis of length 1 behind its batch, in place."""
    inner = f"{output.name}.{key}"
    for node in model.graph.node:
        for names in (node.output, node.input):
            for slot, name in enumerate(names):
                if name == output.name:
                    names[slot] = inner
    model.graph.initializer.append(helper.make_tensor(f"{key}.axis", TensorProto.INT64, [1], [1]))
    model.graph.node.append(helper.make_node("Unsqueeze", [inner, f"{key}.axis"], [output.name], name=f"{key}.unsqueeze"))
    dims = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [dim.dim_value or BATCH]).type.tensor_type.shape.dim[0]
            for dim in output.type.tensor_type.shape.dim]
    del output.type.tensor_type.shape.dim[:]
    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]).type.tensor_type.shape.dim[0]
    output.type.tensor_type.shape.dim.extend([dims[0], one, *dims[1:]])


def _split_gelu(model: onnx.ModelProto) -> None:
    """Write Gelu, an operator of opset 20, as x / 2 * (1 + erf(x / sqrt(2))), in place."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        exact = not any(a.name == "approximate" and a.s != b"none" for a in node.attribute)
        if node.op_type != "Gelu" or node.domain or not exact:
            nodes.append(node)
            continue
        root, one, half = (f"{node.name}.{key}" for key in ("root", "one", "half"))
        for key, value in ((root, math.sqrt(0.5)), (one, 1.0), (half, 0.5)):
            model.graph.initializer.append(helper.make_tensor(key, TensorProto.FLOAT, [], [value]))
        (x,), steps = node.input, [f"{node.name}.{step}" for step in ("scaled", "erf", "plus", "halved")]
        nodes += [helper.make_node("Mul", [x, root], [steps[0]], name=steps[0]),
                  helper.make_node("Erf", steps[:1], [steps[1]], name=steps[1]),
                  helper.make_node("Add", [steps[1], one], [steps[2]], name=steps[2]),
                  helper.make_node("Mul", [x, half], [steps[3]], name=steps[3]),
                  helper.make_node("Mul", [steps[3], steps[2]], list(node.output), name=node.name)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _without_bytes(model: onnx.ModelProto, contract: Contract) -> VendorModel:
    """The model behind its normalisation, or, where that cannot be told apart, behind the cast to floats."""
    spec = contract.pixel
    dims = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    frames = np.random.default_rng(0).integers(0, 256, dims, dtype=np.uint8)
    chain = _chain(model)
    values = _values(model, chain, frames)
    planes = np.moveaxis((frames / 255.0 - spec.mean) / spec.std, -1, -3)
    cut = next((name for name in reversed(chain) if values[name].size == planes.size and (
        values[name].shape[-3:] == planes.shape[-3:] and np.allclose(values[name].reshape(planes.shape), planes, atol=SAME))), None)
    if cut is not None:
        shape = values[cut].shape
        _take(model, cut, shape)
        return VendorModel(model, True, shape)
    shape = (*planes.shape[-4:-3], *planes.shape[-3:]) if len(planes.shape) == 4 else planes.shape[1:]
    first = model.graph.node[[node.op_type for node in model.graph.node].index("Cast")].output[0]
    moved = f"{INPUT}.moved"
    target = helper.make_tensor(f"{moved}.shape", TensorProto.INT64, [len(dims)], dims)
    _take(model, first, values[first].shape)
    model.graph.initializer.append(target)
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = first if name == INPUT else name
    nodes = [helper.make_node("Transpose", [INPUT], [moved], name=moved, perm=[0, 2, 3, 1]),
             helper.make_node("Reshape", [moved, target.name], [first], name=f"{moved}.reshape"), *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
    check_graph(model)
    return VendorModel(model, False, shape)


def _chain(model: onnx.ModelProto) -> list[str]:
    """Tensors from the frames on, as long as one node alone reads each, and only constants come in from the side."""
    constants = {tensor.name for tensor in model.graph.initializer}
    name, chain = PIXELS, list[str]()
    while True:
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) != 1 or any(other != name and other not in constants for other in readers[0].input) or (
                readers[0].op_type not in PLAIN):
            return chain
        name = readers[0].output[0]
        chain.append(name)


def _values(model: onnx.ModelProto, names: Sequence[str], frames: Frames) -> dict[str, Array]:
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    prune(asked)
    return Session(asked).run({PIXELS: frames})


def _take(model: onnx.ModelProto, name: str, shape: Sequence[int]) -> None:
    """Make a tensor the input of a graph, in place."""
    for node in model.graph.node:
        for slot, each in enumerate(node.input):
            node.input[slot] = INPUT if each == name else each
    prune(model)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, list(shape)))
    check_graph(model)


def _input_of(vendor: VendorModel, contract: Contract, window: Frames) -> Array:
    """What the plain model takes for a window."""
    values = window.astype(np.float32)
    if vendor.is_normalised:
        values = ((window / 255.0 - contract.pixel.mean) / contract.pixel.std).astype(np.float32)
    return np.moveaxis(values, -1, -3).reshape(vendor.shape)


def _write_calibration(windows: Frames, inputs: Array, out: Path) -> None:
    (out / "png").mkdir(parents=True)
    (out / "raw").mkdir()
    np.save(out / "pixels.npy", windows[:, 0] if windows.shape[1] == 1 else windows)
    np.save(out / "inputs.npy", inputs)
    pictures, raws = [], []
    for number, (window, values) in enumerate(zip(windows, inputs, strict=True)):
        values.astype("<f4").tofile(out / "raw" / f"{number:04}.raw")
        raws.append(f"calibration/raw/{number:04}.raw")
        if len(window) == 1:
            Image.fromarray(window[0]).save(out / "png" / f"{number:04}.png")
            pictures.append(f"calibration/png/{number:04}.png")
    (out / "dataset.txt").write_text("\n".join(pictures) + "\n", encoding="utf-8")
    (out / "input_list.txt").write_text("\n".join(raws) + "\n", encoding="utf-8")
