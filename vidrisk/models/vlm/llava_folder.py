"""Saving of composed models as folders that ``transformers.LlavaForConditionalGeneration`` loads.

Models that LLaVA cannot express (a feature map that is averaged, a tower that is neither CLIP nor SigLIP) are saved in
the same layout under another model_type: vidrisk reads it, and transformers refuses it instead of computing something
else.
"""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from vidrisk.models.families.composed_folder import COMPOSED_FOLDER
from vidrisk.models.families.hub import quietly
from vidrisk.models.vlm.composed import Composed
from vidrisk.models.vlm.llava_config import CLASS, IMAGE, NOTES, STRATEGIES, Notes, small_tower
from vidrisk.models.vlm.llava_processor import preprocessor_from_pixel, processor_settings, template_from_tokenizer
from vidrisk.models.vlm.llava_projector import fold_projector, save_own_projector
from vidrisk.models.vlm.llava_readme import readme_text
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.bundle import whole_folder
from vidrisk.runtimes.contract.errors import SettingsError, VidriskError, first_line, require

log = logging.getLogger(__name__)

CONFIG, OUTPUT = "config.json", "lm_head.weight"


def save_llava(composed: Composed, folder: Path) -> None:
    """Write a composed model with its tokenizer and its processor; the model is not changed.

    Args:
        composed: without adapters, or with merged ones.
        folder: to be created.

    Raises:
        SettingsError: adapters that are not merged, weights in 4 bits, or a language model that LLaVA cannot hold.
        BundleError: the folder exists.
        VidriskError: the disk is full or not writable.
    """
    transformers: Any = require("transformers", "train")
    if hasattr(composed.model, "get_base_model"):
        raise SettingsError("a composed model with adapters", allowed="merged weights", fix="call merge() first")
    language = composed.base.language_model
    if not all(parameter.is_floating_point() for parameter in language.parameters()):
        raise SettingsError(
            "a composed model whose language model is held in 4 bits",
            allowed="float32, bfloat16",
            fix="load it with vlm.weights float32",
        )
    encoder, tokenizer = composed.vision.tower, copy.deepcopy(composed.tokenizer)
    image = _image_token(tokenizer, composed.image or IMAGE)
    reason = _why_not_plain(composed)
    state = _state(composed, language, image)
    config = _config(transformers, composed, language, image, len(state[OUTPUT]))
    try:
        with torch.device("meta"):
            llava = getattr(transformers, CLASS)(config)
    except (AttributeError, ValueError, TypeError) as error:
        raise _unfit(language, f"other layers than LLaVA expects: {first_line(error)}") from error
    _check_names(llava, state, language)
    if composed.image is None:
        tokenizer.chat_template = template_from_tokenizer(tokenizer)
    llava.generation_config = copy.deepcopy(language.generation_config)
    try:
        with whole_folder(folder) as staged, quietly(transformers):
            llava.save_pretrained(staged, state_dict=state)
            tokenizer.save_pretrained(staged)
            save_own_projector(composed.own_projector, staged)
            preprocessor, left = preprocessor_from_pixel(encoder.pixel)
            if reason is None:
                _write_json(staged / "preprocessor_config.json", preprocessor)
                _write_json(
                    staged / "processor_config.json",
                    processor_settings(
                        encoder.backbone.config.patch_size, STRATEGIES[encoder.backbone.config.model_type]
                    ),
                )
            else:
                _rename_architecture(staged / CONFIG, encoder.family.name if encoder.family.is_embedded else None)
            text = readme_text(
                folder.name,
                tower=encoder.family.name,
                language=type(language).__name__,
                reason=reason,
                version=transformers.__version__,
                is_normed=_is_normed(encoder.backbone),
                left=left,
            )
            (staged / "README.md").write_text(text, encoding="utf-8")
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise VidriskError(
            f"{folder} cannot be written: {first_line(error)}", fix="make room, or choose another folder"
        ) from error
    if reason is not None:
        log.warning("transformers alone cannot run %s: %s; vidrisk can", folder, reason)


def _why_not_plain(composed: Composed) -> str | None:
    name = composed.vision.tower.family.name
    if name not in STRATEGIES:
        return f"its LLaVA does not run the tower {name} as vidrisk does"
    if composed.vision.average is not None:
        return f"its LLaVA does not average a feature map to {composed.vision.height}x{composed.vision.width}"
    return None


def _is_normed(tower: Any) -> bool:
    """Return whether a layer norm follows the last hidden state: SigLIP's, unless it was removed."""
    return getattr(getattr(tower, "config", None), "model_type", None) == "siglip_vision_model" and isinstance(
        tower.post_layernorm, nn.LayerNorm
    )


def _image_token(tokenizer: Any, image: str) -> int:
    """Return the id of the image token, adding it to the tokenizer if necessary."""
    if image not in tokenizer.get_vocab():
        tokenizer.add_tokens([image], special_tokens=True)
    number = int(tokenizer.convert_tokens_to_ids(image))
    if tokenizer(image, add_special_tokens=False)["input_ids"] != [number]:
        raise SettingsError(
            f"the tokenizer splits {image} into several tokens",
            allowed="one that has it as one token, or not at all",
            fix="choose another language model",
        )
    return number


def _state(composed: Composed, language: Any, image: int) -> dict[str, Tensor]:
    """Return all weights by LLaVA's names; a token without a row gets one, the mean of all rows."""
    decoder, output = getattr(language, language.base_model_prefix), language.get_output_embeddings()
    if getattr(output, "bias", None) is not None:
        raise _unfit(language, "output embeddings with a bias")
    embeddings = language.get_input_embeddings().weight
    state = {f"model.language_model.{name}": value.detach() for name, value in decoder.state_dict().items()}
    rows = next(f"model.language_model.{name}" for name, value in decoder.named_parameters() if value is embeddings)
    state[rows] = _with_row(embeddings.detach(), image)
    state[OUTPUT] = state[rows] if _is_tied(language) else _with_row(output.weight.detach(), image)
    tower = composed.tower
    state |= {f"model.vision_tower.{name}": value for name, value in tower.state_dict().items()}
    config = getattr(tower, "config", None)
    if getattr(config, "model_type", None) == "siglip_vision_model" and not _is_normed(tower):
        for name, value in (("weight", torch.ones), ("bias", torch.zeros)):  # required by transformers, but not used
            state[f"model.vision_tower.post_layernorm.{name}"] = value(config.hidden_size)  # type: ignore[union-attr]
    return state | {
        f"model.multi_modal_projector.{layer}.{name}": value
        for layer, name, value in fold_projector(composed.own_projector)
    }


def _with_row(matrix: Tensor, row: int) -> Tensor:
    missing = row + 1 - len(matrix)
    if missing <= 0:
        return matrix
    return torch.cat([matrix, matrix.float().mean(dim=0, keepdim=True).to(matrix.dtype).expand(missing, -1)])


def _is_tied(language: Any) -> bool:
    return language.get_output_embeddings().weight is language.get_input_embeddings().weight


def _config(transformers: Any, composed: Composed, language: Any, image: int, rows: int) -> Any:
    encoder = composed.vision.tower
    tower = encoder.backbone
    text = copy.deepcopy(language.config.get_text_config())
    text.vocab_size, text.tie_word_embeddings = rows, _is_tied(language)
    vision: Any = small_tower(composed.vision.features)
    if not encoder.family.is_embedded:
        vision = copy.deepcopy(tower.config)
        if vision.model_type == "siglip_vision_model":
            vision.vision_use_head = False  # its pooled output is not used
            vision.tie_last_hidden_states = _is_normed(tower)
    has_token = composed.settings.token in composed.tokenizer.get_vocab()
    notes = Notes(
        pixel=encoder.pixel,
        grid=composed.settings.grid,
        tower=encoder.family.name if encoder.family.is_embedded else None,
        token=composed.settings.token if has_token else None,
        token_id=composed.token if has_token else None,
    )
    height, width = encoder.token_grid
    return transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        image_seq_length=height * width,
        vision_feature_layer=-1,
        vision_feature_select_strategy=STRATEGIES.get(getattr(vision, "model_type", ""), "full"),
        projector_hidden_act="gelu",
        tie_word_embeddings=text.tie_word_embeddings,
        **{NOTES: versions.COMPOSED.stamp(notes.model_dump(mode="json"))},
    )


def _check_names(llava: Any, state: dict[str, Tensor], language: Any) -> None:
    """Refuse a language model that has other weights inside LLaVA."""
    wanted = {name: value.shape for name, value in llava.state_dict().items() if ".vision_tower." not in name}
    found = {name: value.shape for name, value in state.items() if ".vision_tower." not in name}
    if wanted != found:
        raise _unfit(
            language, f"other weights inside LLaVA, such as {min(name for name, _ in wanted.items() ^ found.items())}"
        )


def _unfit(language: Any, reason: str) -> SettingsError:
    return SettingsError(
        f"{type(language).__name__} as the language model of LLaVA: it has {reason}",
        allowed="such as Llama, Qwen, Mistral or Gemma",
        fix="choose another language model",
    )


def _rename_architecture(path: Path, embedded: str | None) -> None:
    """Make transformers refuse the folder: by the strategy if the class is given by name, else by the model_type."""
    config = json.loads(path.read_bytes())
    config |= {
        "model_type": COMPOSED_FOLDER,
        "architectures": ["Composed"],
        "vision_feature_select_strategy": COMPOSED_FOLDER,
    }
    if embedded is not None:
        config["vision_config"] = {"model_type": embedded, "hidden_size": config["vision_config"]["hidden_size"]}
    _write_json(path, config)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
