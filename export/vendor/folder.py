"""Writer of a model in the form that other vendors' toolchains read.

    README.md, labels.json
    model.onnx               float32, batch 1, channels first; normalisation is cut off for the toolchain if possible
    calibration/<input>.npy  inputs of model.onnx, a row per run: (N, 3, H, W) for one frame, (N, n, 3, H, W) for n
    calibration/pixels.npy   output of the frame reader, uint8 RGB (N, H, W, 3) or (N, n, H, W, 3)
    calibration/raw/         a file per input and row, and input_list.txt with a line per row
    calibration/png/         a file per row, and dataset.txt, if one run takes exactly one frame
    expected/<output>.npy    outputs of model.onnx, a row per run
    hailo.alls               the model script, if one run takes exactly one frame

A model of clips whose stages do not run equally often has a folder per graph instead, named after the stages in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vidrisk.calibration.files import save_graph
from vidrisk.export.foreign.session import Array
from vidrisk.export.vendor.floats import INPUT, Frames
from vidrisk.export.vendor.plain import PlainGraph, plain_graphs
from vidrisk.export.vendor.readme import model_script, readme
from vidrisk.runtimes.contract.bundle import Bundle, whole_folder
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.errors import DataError, SettingsError


def write_vendor_files(bundle: Bundle, windows: Frames, out: Path) -> None:
    """Write a bundle's fp32 variant for other toolchains.

    Args:
        bundle: the bundle.
        windows: calibration frames ``uint8 (N, T, H, W, 3)``.
        out: folder to create.

    Raises:
        SettingsError: the bundle has no fp32 variant, or it has constants.
        Otherwise as ``plain_graphs`` and ``write_vendor_folder``.
    """
    if "fp32" not in bundle.manifest.variants:
        raise SettingsError("no fp32 variant to write for vendors", fix="export a bundle that also ships fp32")
    files = {stage.name: bundle.path(stage.name, "fp32") for stage in bundle.stages}
    write_vendor_folder(plain_graphs(bundle.stages, files, bundle.contract), bundle.contract, windows, out)


def write_vendor_folder(graphs: Sequence[PlainGraph], contract: Contract, windows: Frames, out: Path) -> None:
    """Write plain graphs with calibration data, expected outputs and a README, atomically.

    Raises:
        BundleError: ``out`` exists.
        DataError: there are no frames, or their size differs from the contract's.
    """
    wanted = (contract.frames, *contract.pixel.frame_shape)
    if not len(windows):
        raise DataError("no calibration frames", fix="give labelled data to calibrate on")
    if windows.shape[1:] != wanted or windows.dtype != np.uint8:
        raise DataError(f"calibration windows are {windows.dtype} {windows.shape[1:]}", allowed=f"uint8 {wanted}")
    with whole_folder(out) as staging:
        pixels, known = windows.reshape(-1, *windows.shape[2:]), dict[str, Array]()
        for graph in graphs:
            known |= _write_graph(graph, contract, pixels, known, staging / graph.name if len(graphs) > 1 else staging)
        labels = {target.name: list(target.labels) for target in contract.targets}
        (staging / "labels.json").write_text(json.dumps(labels, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (staging / "README.md").write_text(readme(graphs, contract, len(windows)), encoding="utf-8")


def _write_graph(
    graph: PlainGraph, contract: Contract, pixels: Frames, known: Mapping[str, Array], folder: Path
) -> dict[str, Array]:
    """Write a graph with its data; return its outputs for the frames."""
    feed = graph.feed(pixels, known, contract.pixel)
    expected = graph.run(feed)
    (folder / "expected").mkdir(parents=True)
    save_graph(graph.model, folder / "model.onnx")
    for name, rows in expected.items():
        np.save(folder / "expected" / f"{name}.npy", rows)
    calibration = folder / "calibration"
    _write_inputs(feed, calibration)
    if INPUT in feed:
        np.save(
            calibration / "pixels.npy",
            pixels if graph.frames == 1 else pixels.reshape(-1, graph.frames, *pixels.shape[1:]),
        )
    if graph.takes_picture:
        _write_pictures(pixels, calibration)
        (folder / "hailo.alls").write_text(model_script(graph, contract.pixel), encoding="utf-8")
    return expected


def _write_inputs(feed: Mapping[str, Array], out: Path) -> None:
    """Write the inputs of a graph: an array per input, and raw files with a list of them."""
    (out / "raw").mkdir(parents=True)
    for name, rows in feed.items():
        np.save(out / f"{name}.npy", rows)
    lines = []
    for number in range(len(next(iter(feed.values())))):
        files = {name: f"calibration/raw/{number:04}.{name}.raw" for name in feed}
        for name, file in files.items():
            rows = feed[name]
            rows[number].astype(rows.dtype.newbyteorder("<")).tofile(out.parent / file)
        lines.append(
            " ".join(f"{name}:={file}" for name, file in files.items())
            if len(files) > 1
            else next(iter(files.values()))
        )
    (out / "input_list.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_pictures(pixels: Frames, out: Path) -> None:
    (out / "png").mkdir()
    files = [f"calibration/png/{number:04}.png" for number in range(len(pixels))]
    for file, frame in zip(files, pixels, strict=True):
        Image.fromarray(frame).save(out.parent / file)
    (out / "dataset.txt").write_text("\n".join(files) + "\n", encoding="utf-8")
