"""The README of a vision tower with a dynamic grid: inputs, outputs, and a script that runs it."""

from __future__ import annotations

from collections.abc import Sequence

from vidrisk.runtimes.contract.specs import TensorSpec

TEXT = """# A vision tower as ONNX, for images and videos of any size

`vision.onnx` computes visual tokens of images and videos. They may be of any size and length, and any number of them
can be passed at once, concatenated. It is float32 (opset 20), and it is the trained model's own tower, with adapters
merged.

| file | what it is |
|---|---|
| `vision.onnx` | the graph; the weights of a large one are in `vision.onnx.data`, which must be in the same folder |
| `vision_grid.py` | two numpy functions that compute all inputs; neither torch nor transformers is needed |
| `vision.json` | the model's parameters for these functions |

Before it was written, the graph was compared with the model in torch on windows of unequal and of equal size, two
images, several frames, a single token and a mixture, with every CPU engine that was installed.

## Run it

From this folder, with numpy and onnxruntime:

```python
import json
import numpy as np
import onnxruntime
from vision_grid import patches_from_frames, vision_inputs_from_grid

settings = json.load(open("vision.json", encoding="utf-8"))
photo = np.zeros(({height}, {width}, 3), np.uint8)  # RGB; height and width are multiples of {side}
video = np.zeros((6, {side}, {width}, 3), np.uint8)  # {times} frames make one moment
patches, grid = zip(*(patches_from_frames(each, **settings["pixels"]) for each in (photo, video)))
feed = {{"pixel_values": np.concatenate(patches), **vision_inputs_from_grid(grid, **settings["grid"])}}
tokens = onnxruntime.InferenceSession("vision.onnx").run(["tokens"], feed)[0]
print(tokens.shape)
```

`pixel_values` and the grid may also come from the model's own processor: `pixel_values` with `image_grid_thw`, or
`pixel_values_videos` with `video_grid_thw`. A grid is three numbers for each image or video: moments, rows of patches,
columns of patches. A patch is {patch} x {patch} pixels of {times} frames; an image is one moment, and its patches
repeat it {times} times.

## Inputs

All inputs except `pixel_values` follow from the grids; `vision_inputs_from_grid` returns them under these names.

| name | type | shape | what it is |
|---|---|---|---|
{inputs}

`tokens` in a shape is the number of visual tokens. Each consists of {unit} adjacent patches, in the order of the
processor. {bounds}

## Outputs

| name | type | shape | what it is |
|---|---|---|---|
{outputs}

## Memory

{memory}
If memory is short, pass one image, or one moment of a video, at a time: tokens do not depend on other inputs of the
call.

The weights keep the licence of the model that they come from.
"""

MEANING = {
    "pixel_values": "normalised patches: red, then green, then blue; each frame by frame, row by row",
    "position_ids": "row and column of each patch in its image",
    "cu_seqlens": "number of patches before each moment, starting with 0, and finally the total",
    "window_index": "input index of each token, in the order of windows",
    "cu_window_seqlens": "number of patches before each window, and finally the total",
    "interp_indices": "the four entries of the table of position embeddings around each patch",
    "interp_weights": "interpolation weights of these four",
    "tokens": "visual tokens, image by image, moment by moment, row by row",
}
DEEPSTACK = "added to the states of these tokens after layer {number} of the language model"
PAIRS = "every pair of patches in one call takes memory, whether of the same image or not."
WINDOWS = (
    "Most layers attend within windows, and take memory in proportion to the patches. The others attend to whole\n"
    f"images: there {PAIRS}"
)
BOUNDS = "`bounds` is the number of moments plus one"


def readme(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], pixels: dict[str, int]) -> str:
    """Return the README.

    Args:
        inputs: of the graph.
        outputs: of the graph.
        pixels: ``patch``, ``merge`` and ``frames_per_patch``.
    """
    side = pixels["patch"] * pixels["merge"]
    has_windows = any(spec.name == "window_index" for spec in inputs)
    return TEXT.format(
        inputs=_rows(inputs),
        outputs=_rows(outputs),
        side=side,
        height=4 * side,
        width=3 * side,
        patch=pixels["patch"],
        times=pixels["frames_per_patch"],
        unit=pixels["merge"] ** 2,
        bounds=f"{BOUNDS}, `window_bounds` the number of windows plus one." if has_windows else f"{BOUNDS}.",
        memory=WINDOWS if has_windows else PAIRS.capitalize(),
    )


def _rows(specs: Sequence[TensorSpec]) -> str:
    return "\n".join(f"| `{spec.name}` | {spec.dtype} | {_shape(spec)} | {_meaning(spec.name)} |" for spec in specs)


def _shape(spec: TensorSpec) -> str:
    return " x ".join(str(axis).replace("*", " ") for axis in spec.shape)


def _meaning(name: str) -> str:
    return MEANING.get(name) or DEEPSTACK.format(number=name.rpartition("_")[2])
