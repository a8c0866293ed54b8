"""The README beside a vision tower with a dynamic grid: what goes in, what comes out, and a script that runs it."""

from __future__ import annotations

from collections.abc import Sequence

from vidrisk.runtimes.contract.specs import TensorSpec

TEXT = """# A vision tower as ONNX, for images and videos of any size

`vision.onnx` makes visual tokens of images and videos. They may be of any size and length, and any number of them go in at once,
one behind the other. It is float32 (opset 20), and it is the trained model's own tower: adapters are merged.

| file | what it is |
|---|---|
| `vision.onnx` | the graph; the weights of a large one are in `vision.onnx.data`, which must lie beside it |
| `vision_grid.py` | two functions on numpy that compute all inputs; neither torch nor transformers is needed |
| `vision.json` | what these functions need to know about this model |

Before it was written, the graph was compared with the model in torch, on windows of unequal and of equal size, on two images, on
several frames, on a single token and on a mixture, by every engine for processors that was installed.

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
`pixel_values_videos` with `video_grid_thw`. A grid is three numbers for each image or video: moments, rows of patches, columns of
patches. A patch is {patch} x {patch} pixels of {times} frames; an image is one moment, and its patches show it {times} times.

## Inputs

All of them but `pixel_values` follow from the grids; `vision_inputs_from_grid` returns them under these names.

| name | type | shape | what it is |
|---|---|---|---|
{inputs}

`tokens` in a shape is the number of visual tokens: there are {unit} patches for each, which are neighbours, in the order of the
processor. {bounds}

## Outputs

| name | type | shape | what it is |
|---|---|---|---|
{outputs}

## Memory

{memory}
If memory is short, give it one image, or one moment of a video, at a time: tokens do not depend on what else is in the call.

The weights keep the licence of the model that they come from.
"""

MEANING = {
    "pixel_values": "patches, normalised: red, then green, then blue; of each, frame after frame, row after row",
    "position_ids": "row and column of each patch in its image",
    "cu_seqlens": "how many patches lie before each moment, the first of which is 0, and at the end how many there are",
    "window_index": "of each token, in the order of windows, its place in the order of the input",
    "cu_window_seqlens": "how many patches lie before each window, and at the end how many there are",
    "interp_indices": "four entries of the table of position embeddings that lie around each patch",
    "interp_weights": "the shares of these four",
    "tokens": "visual tokens, image by image, moment by moment, row by row",
}
DEEPSTACK = "what is added to the states of these tokens behind layer {number} of the language model"
PAIRS = "every pair of patches in one call takes memory, of one image or not."
WINDOWS = f"Most layers look at windows, and take memory in proportion to the patches. The others see whole images: there\n{PAIRS}"
BOUNDS = "`bounds` is one more than there are moments"


def readme(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], pixels: dict[str, int]) -> str:
    """Return the README.

    Args:
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
        bounds=f"{BOUNDS}, `window_bounds` one more than there are windows." if has_windows else f"{BOUNDS}.",
        memory=WINDOWS if has_windows else PAIRS.capitalize(),
    )


def _rows(specs: Sequence[TensorSpec]) -> str:
    return "\n".join(f"| `{spec.name}` | {spec.dtype} | {_shape(spec)} | {_meaning(spec.name)} |" for spec in specs)


def _shape(spec: TensorSpec) -> str:
    return " x ".join(str(axis).replace("*", " ") for axis in spec.shape)


def _meaning(name: str) -> str:
    return MEANING.get(name) or DEEPSTACK.format(number=name.rpartition("_")[2])
