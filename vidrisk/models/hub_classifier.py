"""Hugging Face classifiers of images and videos that were fine-tuned elsewhere.

They are read from safetensors in a local folder; no code from it is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidrisk.models.families.family import Source
from vidrisk.models.families.hub import refuse_adapter
from vidrisk.models.hub_pixels import PREPROCESSOR, pixel_from_preprocessor
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.errors import BundleError, DataError, SettingsError, first_line, require
from vidrisk.runtimes.contract.specs import MAX_FRAMES, PixelSpec

CONFIG = "config.json"
BATCH_FRAMES = 16
FRAME_KEYS = ("num_frames", "frames_per_clip")


@dataclass(frozen=True)
class HubClassifier:
    """A classifier, its labels, and its pixel contract.

    Attributes:
        frames: of a window; None for a classifier of images.
        digest: sha256 over the weights.
    """

    model: nn.Module
    labels: tuple[str, ...]
    pixel: PixelSpec
    frames: int | None
    architecture: str
    digest: str

    def module(self, frames: int, order: Sequence[int]) -> nn.Module:
        """Return a module from ``frames: uint8 (batch, T, H, W, 3)`` to logits, columns in ``order``."""
        return _WindowClassifier(self, frames, order)

    def logits(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return logits (N, C), in the order of ``labels``, of N windows of normalised pixels (N, T, 3, H, W).

        Raises:
            DataError: pixels that the model does not take.
        """
        frames = pixels.shape[1]
        step = max(1, BATCH_FRAMES // frames)
        module = _WindowClassifier(self, frames, range(len(self.labels)))
        try:
            with torch.inference_mode():
                parts = [
                    module.logits(torch.from_numpy(pixels[begin : begin + step]).flatten(0, 1))
                    for begin in range(0, len(pixels), step)
                ]
                return torch.cat(parts).numpy()
        except Exception as error:  # models of transformers raise many types
            reason = first_line(error)
            shape = f"{frames}x{pixels.shape[-2]}x{pixels.shape[-1]}"
            raise DataError(
                f"{self.architecture} does not take windows of {shape}: {reason}", fix=f"correct size in {PREPROCESSOR}"
            ) from error


class _WindowClassifier(nn.Module):
    """A classifier behind the contract's pixels.

    An image classifier sees each of the T frames, and its logits are averaged.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, classifier: HubClassifier, frames: int, order: Sequence[int]) -> None:
        super().__init__()
        self.model, self.frames, self.is_video = classifier.model, frames, classifier.frames is not None
        self.order = list(order) if list(order) != sorted(order) else None
        self.input = getattr(classifier.model, "main_input_name", "pixel_values")
        mean, std = torch.tensor(classifier.pixel.mean), torch.tensor(classifier.pixel.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        # Cast, then permute: TensorRT takes a uint8 input into a Cast only.
        pixels = frames.to(torch.float32).flatten(0, 1).permute(0, 3, 1, 2) * self.scale + self.shift
        logits = self.logits(pixels)
        return logits if self.order is None else logits[:, self.order]

    def logits(self, pixels: Tensor) -> Tensor:
        """Return logits in the model's order of normalised pixels (batch · T, 3, H, W)."""
        if self.is_video:
            pixels = pixels.reshape(-1, self.frames, *pixels.shape[1:])
        logits: Tensor = self.model(**{self.input: pixels}).logits
        if not self.is_video and self.frames > 1:
            logits = logits.reshape(-1, self.frames, logits.shape[-1]).mean(dim=1)
        return logits


def load_hub_classifier(folder: Path, *, is_video: bool) -> HubClassifier:
    """Load a classifier from a folder written by ``save_pretrained``.

    Args:
        folder: of the classifier.
        is_video: whether the data are videos: classifiers of either kind take videos, image classifiers also photos.

    Raises:
        BundleError: no such folder, or a damaged one.
        DataError: invalid labels or pixels.
        SettingsError: not a classifier, a video classifier for photos, or weights that are not safetensors.
    """
    config = _read_json(folder / CONFIG)
    architecture = _architecture(config)
    takes_videos = architecture.endswith("ForVideoClassification")
    if not takes_videos and not architecture.endswith("ForImageClassification"):
        raise SettingsError(f"{folder} holds {architecture}", allowed="an image or video classifier of transformers")
    if "auto_map" in config:
        raise SettingsError(f"{folder} contains code of its own", allowed="architectures of transformers itself")
    refuse_adapter(Source(str(folder), local_only=True), str(folder))
    if takes_videos and not is_video:
        raise SettingsError(f"{folder} holds a classifier of videos, and the data are photos", fix="give videos")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise SettingsError(
            f"{folder} has no safetensors", fix="save it with save_pretrained(folder, safe_serialization=True)"
        )
    if config.get("problem_type") == "multi_label_classification":
        raise SettingsError(f"{folder} is a multi-label classifier", allowed="classifiers with exactly one true label")
    labels = _labels(config)
    frames = _frames(config) if takes_videos else None
    pixel = pixel_from_preprocessor(_read_json(folder / PREPROCESSOR), config)
    model = _load_model(
        folder, "AutoModelForVideoClassification" if takes_videos else "AutoModelForImageClassification", architecture
    )
    digest = hashlib.sha256("".join(sha256_of(path) for path in weights).encode()).hexdigest()
    return HubClassifier(model, labels, pixel, frames, architecture, digest)


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures") or ["no architecture"]
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise DataError(f"{CONFIG} has architectures {json.dumps(named)[:80]}", allowed="a list of one class name")
    return str(named[0])


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    given = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if not isinstance(given, Mapping) or not all(key.isascii() and key.isdigit() and len(key) < 10 for key in given):
        raise DataError(
            f"{CONFIG} has id2label {json.dumps(given)[:80]}", allowed="an object of labels by index, from 0 on"
        )
    named = {int(index): str(label) for index, label in given.items()}
    labels = tuple(named.get(index, "") for index in range(len(given)))
    if "" in labels or len(set(labels)) < max(2, len(labels)):
        raise DataError(
            f"{CONFIG} has labels {list(named.values())[:10]}",
            allowed="at least two, all different, from index 0 on",
            fix="correct id2label",
        )
    return labels


def _frames(config: Mapping[str, Any]) -> int:
    key = next((key for key in FRAME_KEYS if config.get(key) is not None), None)
    frames = 16 if key is None else config[key]
    if not isinstance(frames, int) or isinstance(frames, bool) or not 1 <= frames <= MAX_FRAMES:
        raise DataError(f"{CONFIG} has {key} {json.dumps(frames)[:80]}", allowed=f"1 to {MAX_FRAMES}")
    return frames


def _load_model(folder: Path, auto: str, architecture: str) -> nn.Module:
    transformers: Any = require("transformers", "train")
    # Set explicitly: otherwise the folder chooses, and could name kernels on the hub.
    attention = "sdpa" if getattr(getattr(transformers, architecture, None), "_supports_sdpa", False) else "eager"
    try:
        model, loaded = getattr(transformers, auto).from_pretrained(
            folder,
            use_safetensors=True,
            use_kernels=False,  # see vidrisk.models.families.hub.load_model
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and safetensors raise many types
        reason = first_line(error)
        raise SettingsError(f"{folder} cannot be loaded: {reason}", fix="save it again with save_pretrained") from error
    if loaded["missing_keys"]:
        raise SettingsError(
            f"{folder} lacks {len(loaded['missing_keys'])} weights, such as {sorted(loaded['missing_keys'])[0]}",
            fix="save the fine-tuned classifier whole",
        )
    result: nn.Module = model.eval().float()  # weights may be stored in half precision
    return result.requires_grad_(False)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{path.parent} is not a Hugging Face model: {path.name} cannot be read ({error})",
            fix="give a folder written by save_pretrained, including that of the image processor",
        ) from error
    if not isinstance(data, dict):
        raise BundleError(f"{path} does not hold an object", fix="save the model again with save_pretrained")
    return data
