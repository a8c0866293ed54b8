"""Loading of LLaVA models as composed backbones: published ones in transformers' layout, and those vidrisk saved."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from vidrisk.models.config import VlmSettings
from vidrisk.models.encoders import Encoder
from vidrisk.models.families import FAMILIES, Family, Source
from vidrisk.models.families.hub import hub_family, quietly
from vidrisk.models.vlm.composed import Composed, Pretrained, Projector
from vidrisk.models.vlm.llava_config import CLASS, IMAGE, SAVE_AGAIN, STRATEGIES, LlavaSettings, read_llava_config
from vidrisk.models.vlm.llava_projector import fold_projector, read_own_projector
from vidrisk.models.vlm.loading import load_language_model, load_tokenizer, read_json
from vidrisk.runtimes.contract.errors import SettingsError, first_line, require
from vidrisk.runtimes.contract.specs import PixelSpec

log = logging.getLogger(__name__)

TOWER, PROJECTOR = "vision_tower", "multi_modal_projector"
UNREAD = tuple(
    f"model.{TOWER}.{child}." for child in ("head", "pooler", "post_layernorm")
)  # weights that are never or rarely used
SINGLE = ("processor_config.json", "chat_template.json")


def load_llava(source: Source, pixel: PixelSpec, settings: VlmSettings, *, with_token: bool = True) -> Composed:
    """Load a LLaVA model: its trained tower, projector and language model.

    Raises:
        SettingsError: a part is missing, or belongs to another model.
        BundleError: a file added by vidrisk is damaged.
    """
    found = read_llava_config(source)
    tokenizer, image = _load_tokenizer(source, found.config)
    token = _find_token(source, tokenizer, found, settings)
    unread = (f"model.{TOWER}.",) if found.embedded else UNREAD[:2] if found.is_normed else UNREAD
    with _exact_vision():
        model = load_language_model(source, CLASS, settings.weights, config=found.config, unused=unread)
    tower = _encoder(source, _tower(source, model, found, pixel), pixel, found)
    projector = _projector(source, model.model.multi_modal_projector)
    return Composed(
        tower,
        _language_model(source, model),
        tokenizer,
        settings.model_copy(update={"grid": found.grid}),
        with_token=with_token,
        pretrained=Pretrained(projector, image, token),
    )


@contextmanager
def _exact_vision() -> Iterator[None]:
    """Keep tower and projector in single precision, as in new composed models, whatever the type of the language model.

    A subclass would not work: transformers renames weights only for its own classes.
    """
    model: Any = require("transformers", "train").LlavaForConditionalGeneration
    before = model._keep_in_fp32_modules_strict
    model._keep_in_fp32_modules_strict = (TOWER, PROJECTOR)
    try:
        yield
    finally:
        model._keep_in_fp32_modules_strict = before


def _load_tokenizer(source: Source, config: Any) -> tuple[Any, str]:
    """Load the tokenizer with its chat template, and return it with the text of the image token."""
    with quietly(require("transformers", "train")):  # it warns about an unknown model_type
        tokenizer = load_tokenizer(source)
    processor, template = (read_json(source, name) for name in SINGLE)
    if not tokenizer.chat_template and isinstance(template.get("chat_template"), str):
        tokenizer.chat_template = template["chat_template"]
    image = processor.get("image_token") or getattr(tokenizer, "image_token", None) or IMAGE
    number = tokenizer.get_vocab().get(image)
    if number != config.image_token_id:
        raise SettingsError(
            f"{image} is token {number} to the tokenizer of {source.backbone!r}, and {config.image_token_id} to "
            "the model",
            allowed="the tokenizer of the same model",
            fix="copy the backbone whole",
        )
    return tokenizer, image


def _find_token(source: Source, tokenizer: Any, found: LlavaSettings, settings: VlmSettings) -> int | None:
    """Return the id of the token that is classified, or None if vidrisk has not added it before."""
    notes = found.notes
    if notes is None or notes.token != settings.token:
        return None
    number = tokenizer.get_vocab().get(notes.token)
    if number is None or number != notes.token_id or number >= found.config.text_config.vocab_size:
        raise SettingsError(
            f"{notes.token} is token {number} to the tokenizer of {source.backbone!r}, and {notes.token_id} to "
            "config.json",
            allowed="the tokenizer of the same model",
            fix=SAVE_AGAIN,
        )
    return int(number)


def _tower(source: Source, model: Any, found: LlavaSettings, pixel: PixelSpec) -> nn.Module:
    """Return the vision tower without unused layers."""
    if found.embedded:
        tower = FAMILIES[found.embedded].load(source, pixel, 1)
        try:
            tower.load_state_dict(_tower_weights(Path(source.backbone)))
        except (RuntimeError, OSError, safetensors.SafetensorError) as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise SettingsError(
                f"the weights of backbone {source.backbone!r} do not fit {found.embedded}: {reason}", fix=SAVE_AGAIN
            ) from error
        return tower.eval()
    tower = model.model.vision_tower
    if getattr(tower, "pooler", None) is not None and found.config.vision_config.model_type == "vit":
        tower.pooler = None
    if tower.config.model_type in STRATEGIES and found.layers < len(tower.encoder.layers):
        tower.encoder.layers = tower.encoder.layers[: found.layers]
        tower.config.num_hidden_layers = found.layers
    if tower.config.model_type == "siglip_vision_model" and not found.is_normed:
        tower.post_layernorm = nn.Identity()  # hidden states are taken before it
    return tower  # type: ignore[no-any-return]


def _tower_weights(folder: Path) -> dict[str, Tensor]:
    weights = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                _, mark, rest = f".{name}".partition(f".{TOWER}.")
                if mark:
                    weights[rest] = file.get_tensor(name)
    return weights


def _encoder(source: Source, tower: nn.Module, pixel: PixelSpec, found: LlavaSettings) -> Encoder:
    try:
        return Encoder(tower, pixel, pool="avg" if found.embedded else "mean", family=_family(found))
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise SettingsError(
            f"the tower of backbone {source.backbone!r} does not take {pixel.height}x{pixel.width} images: "
            f"{first_line(error)}",
            allowed=f"{found.pixel.height}x{found.pixel.width}",
            fix="leave pixel.height and pixel.width out",
        ) from error


def _family(found: LlavaSettings) -> Family:
    name = found.embedded or found.config.vision_config.model_type
    return FAMILIES.get(name) or hub_family(name, "AutoModel", "mean", is_known=False)


def _projector(source: Source, trained: Any) -> Projector:
    """Return the two layers.

    The standardisation is separate if vidrisk has saved it and the layers have not changed since.
    """
    width, features = trained.linear_1.weight.shape
    plain = Projector(features, width)
    with torch.no_grad():
        for name in ("linear_1", "linear_2"):
            ours, theirs = getattr(plain, name), getattr(trained, name)
            ours.weight.copy_(theirs.weight)
            ours.bias.copy_(theirs.bias if theirs.bias is not None else torch.zeros_like(ours.bias))
    own = read_own_projector(Path(source.backbone), features, width)
    if own is None:
        return plain
    if all(
        torch.allclose(value, getattr(plain, layer).get_parameter(name), rtol=1e-4, atol=1e-5)
        for layer, name, value in fold_projector(own)
    ):
        return own
    log.info("the projector of %s was trained further after vidrisk saved it: using it unchanged", source.backbone)
    return plain


def _language_model(source: Source, model: Any) -> Any:
    """Return the decoder and its output embeddings as a causal language model."""
    transformers: Any = require("transformers", "train")
    config = model.config.get_text_config()
    config.tie_word_embeddings = model.config.tie_word_embeddings
    try:
        with torch.device("meta"):
            causal = transformers.AutoModelForCausalLM.from_config(config)
        if not hasattr(causal, causal.base_model_prefix):
            raise AttributeError(f"{type(causal).__name__} has no {causal.base_model_prefix}")
        setattr(causal, causal.base_model_prefix, model.model.language_model)
        causal.set_output_embeddings(model.lm_head)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise SettingsError(
            f"the language model {config.model_type!r} of backbone {source.backbone!r} is not causal: "
            f"{first_line(error)}",
            allowed="such as Llama, Qwen, Mistral or Gemma",
        ) from error
    left = [name for name, parameter in causal.named_parameters() if parameter.is_meta]
    if left:
        raise SettingsError(
            f"the language model {config.model_type!r} of backbone {source.backbone!r} has {left[0]}, which LLaVA "
            "does not have",
            allowed="such as Llama, Qwen, Mistral or Gemma",
        )
    causal.generation_config = model.generation_config
    return causal.eval()
