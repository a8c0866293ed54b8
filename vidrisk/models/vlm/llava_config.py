"""Reading of a LLaVA model's config.json, whether of transformers or saved by vidrisk: its tower, pixels and layers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from vidrisk.models.families import FAMILIES, Source
from vidrisk.models.families.composed_folder import is_composed_folder
from vidrisk.models.families.hub import hub_config, pixel_from_processor
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.contract import Sealed
from vidrisk.runtimes.contract.errors import DataError, SettingsError, first_line, require
from vidrisk.runtimes.contract.specs import PixelSpec

CLASS = "LlavaForConditionalGeneration"  # of transformers
IMAGE = "<image>"
NOTES = "vidrisk"  # the key in config.json
STRATEGIES = {
    "clip_vision_model": "default",
    "siglip_vision_model": "full",
}  # vision_feature_select_strategy of each tower
SAVE_AGAIN = "save the composed model again, or copy the folder whole"
KEYS = ("text_config", "vision_config", "image_token_index", "image_seq_length", "tie_word_embeddings")


class Notes(Sealed):
    """Additions of vidrisk to config.json.

    Attributes:
        pixel: the contract that the model was trained with.
        grid: averages of the feature map per side, as ``vlm.grid``.
        tower: name of an embedded tower, which transformers does not have.
        token, token_id: the token that is classified, if the model has one.
    """

    pixel: PixelSpec
    grid: int | None = Field(None, ge=1, le=64)
    tower: str | None = None
    token: str | None = None
    token_id: int | None = Field(None, ge=0)


@dataclass(frozen=True)
class LlavaSettings:
    """A checked configuration.

    Attributes:
        config: of ``transformers.LlavaForConditionalGeneration``; for an embedded tower, with the smallest tower of its
            width in its place.
        notes: None if vidrisk did not save the model.
        pixel: default of the pixel contract.
        layers: number of the tower's layers that are run.
        is_normed: whether the layer norm after the last one is also run.
    """

    config: Any
    notes: Notes | None
    pixel: PixelSpec
    layers: int
    is_normed: bool

    @property
    def embedded(self) -> str | None:
        return self.notes.tower if self.notes else None

    @property
    def grid(self) -> int | None:
        return self.notes.grid if self.notes else None


def read_llava_config(source: Source) -> LlavaSettings:
    """Read the configuration of a LLaVA model.

    Raises:
        SettingsError: its parts do not fit, or need something that vidrisk does not support.
    """
    is_own = is_composed_folder(source)
    config, record = _own_config(source) if is_own else _plain_config(source)
    notes = _notes(source, record)
    if is_own and notes is None:
        raise _refusal(source, f"no key {NOTES!r}", "what vidrisk has saved", SAVE_AGAIN)
    if getattr(config, "projector_hidden_act", None) != "gelu":
        raise _refusal(source, f"projector_hidden_act {config.projector_hidden_act!r}", "gelu")
    vision = config.vision_config
    depth = int(getattr(vision, "num_hidden_layers", 0))
    layer = config.vision_feature_layer
    if not is_own:
        strategy = config.vision_feature_select_strategy
        if vision.model_type not in STRATEGIES:
            raise _refusal(
                source,
                f"a tower {vision.model_type!r}",
                "clip_vision_model, siglip_vision_model",
                "compose the model of its tower and its language model: compose:TOWER+LLM",
            )
        if strategy != STRATEGIES[vision.model_type]:
            raise _refusal(
                source,
                f"vision_feature_select_strategy {strategy!r} with a tower {vision.model_type!r}",
                f"{STRATEGIES[vision.model_type]}: all patches and no class token",
            )
        if not isinstance(layer, int) or not -depth <= layer <= depth or layer == 0:
            raise _refusal(source, f"vision_feature_layer {layer!r}", f"one of -{depth} to -1, or 1 to {depth}")
    layers = layer if layer > 0 else depth + 1 + layer
    is_normed = layers == depth and getattr(vision, "tie_last_hidden_states", None) is True
    return LlavaSettings(config, notes, notes.pixel if notes else _pixel(source, vision), layers, is_normed)


def _refusal(source: Source, what: str, allowed: str, fix: str | None = None) -> SettingsError:
    return SettingsError(f"config.json of backbone {source.backbone!r} has {what}", allowed=allowed, fix=fix)


def _plain_config(source: Source) -> tuple[Any, Any]:
    config = hub_config(source)
    return config, getattr(config, NOTES, None)


def _own_config(source: Source) -> tuple[Any, Any]:
    """Read the configuration of a folder that transformers alone cannot run.

    An embedded tower is replaced by a small one of its width.
    """
    transformers: Any = require("transformers", "train")
    path = Path(source.backbone) / "config.json"
    try:
        raw = json.loads(path.read_bytes())
        values = {key: raw[key] for key in KEYS}
        if (
            values["vision_config"]["model_type"] in FAMILIES
            and FAMILIES[values["vision_config"]["model_type"]].is_embedded
        ):
            values["vision_config"] = small_tower(int(values["vision_config"]["hidden_size"]))
        return transformers.LlavaConfig(**values, vision_feature_layer=-1), raw.get(NOTES)
    except Exception as error:  # transformers checks types by exceptions of its own
        raise SettingsError(
            f"{path} cannot be read: {type(error).__name__}: {first_line(error)}", fix=SAVE_AGAIN
        ) from error


def small_tower(width: int) -> dict[str, Any]:
    """Return the configuration of a tower without layers, for models whose tower transformers does not have."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": 1,
        "num_hidden_layers": 0,
        "num_attention_heads": 1,
        "image_size": 1,
        "patch_size": 1,
    }


def _notes(source: Source, record: Any) -> Notes | None:
    if record is None:
        return None
    try:
        notes = versions.COMPOSED.read_model(record, Notes)
    except (ValidationError, DataError) as error:
        reason = first_line(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()
        raise _refusal(
            source, f"a key {NOTES!r} that is damaged: {reason}", "what vidrisk has saved", SAVE_AGAIN
        ) from error
    if notes.tower is not None and not (notes.tower in FAMILIES and FAMILIES[notes.tower].is_embedded):
        raise _refusal(
            source,
            f"an embedded tower {notes.tower!r}",
            ", ".join(name for name, family in FAMILIES.items() if family.is_embedded),
        )
    return notes


def _pixel(source: Source, vision: Any) -> PixelSpec:
    """Return the size of the tower, and mean, deviation and filter of the processor."""
    side = vision.image_size
    height, width = (side, side) if isinstance(side, int) else side
    try:
        return pixel_from_processor(source, PixelSpec(height, width))
    except DataError as error:
        raise SettingsError(
            f"the image processor of {source.backbone!r} gives no mean and deviation: {error.what}",
            allowed="image_mean and image_std",
            fix="copy preprocessor_config.json of that model",
        ) from error
