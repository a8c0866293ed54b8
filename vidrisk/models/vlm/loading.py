"""Loading of language models with their tokenizers and processors, in the weight type used for training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from vidrisk.export.convert.peft_library import import_bitsandbytes
from vidrisk.models.families.family import Source
from vidrisk.models.families.hub import load_model
from vidrisk.models.vlm.smollm2 import smollm2_folder
from vidrisk.runtimes.contract.errors import MissingExtra, SettingsError, first_line, is_installed, require

SMOLLM2 = "smollm2-135m"  # the embedded language model's name
Weights = Literal["float32", "bfloat16", "4bit"]
# Suffixes and prefixes of layers that are not quantised: output embeddings, and a vision tower, whose features are kept
# and exported.
NOT_QUANTIZED = ["lm_head", "embed_out", r"(?:.*\.)?(?:visual|vision_tower|multi_modal_projector)"]
NEEDED = "it needs config.json, model.safetensors and the files of its tokenizer"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
FURTHER_FILES = ("video_preprocessor_config.json", "chat_template.json", "chat_template.jinja")


def language_source(source: Source) -> Source:
    """Return the source of a language model's files; the embedded one is unpacked at first use."""
    return Source(str(smollm2_folder()), local_only=True) if source.backbone == SMOLLM2 else source


def load_language_model(
    source: Source, model_class: str, weights: Weights, *, config: Any = None, unused: tuple[str, ...] = ()
) -> Any:
    """Load a model that contains a language model, ready to be adapted.

    Args:
        source: of the model.
        model_class: name in ``transformers``.
        weights: data type of the weights.
        config: as in ``load_model``.
        unused: as in ``load_model``.

    Raises:
        SettingsError: it does not exist, is not such a model, or 4-bit weights do not work on this machine.
        MissingExtra: bitsandbytes is not installed, and 4-bit weights are requested.
    """
    model = load_model(source, model_class, needed=NEEDED, config=config, unused=unused, **_options(weights))
    return model.eval()


def _options(weights: Weights) -> dict[str, Any]:
    """Return options of ``from_pretrained``.

    4 bits are NF4 with double quantisation (QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).
    """
    torch: Any = require("torch", "train")
    if weights != "4bit":
        return {"dtype": getattr(torch, weights)}
    transformers: Any = require("transformers", "train")
    if not is_installed("bitsandbytes"):
        raise MissingExtra("bitsandbytes", "4bit")
    try:
        import_bitsandbytes()
    except Exception as error:  # it loads a native library, and may raise anything
        raise SettingsError(
            f"bitsandbytes does not work here: {first_line(error)}",
            allowed="vlm.weights float32 or bfloat16",
            fix="set vlm.weights=bfloat16, with gradient_checkpointing",
        ) from error
    compute = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return {
        "dtype": compute,
        "quantization_config": transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
            llm_int8_skip_modules=NOT_QUANTIZED,
        ),
    }


def load_tokenizer(source: Source) -> Any:
    """Load a tokenizer.

    Raises:
        SettingsError: there is none.
    """
    transformers: Any = require("transformers", "train")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.backbone, **source.options)
    except Exception as error:  # tokenizers raises bare exceptions, and a missing package an ImportError
        raise SettingsError(
            f"backbone {source.backbone!r} has no tokenizer: {first_line(error)}", fix=NEEDED
        ) from error
    if not tokenizer("a", add_special_tokens=False)[
        "input_ids"
    ]:  # transformers creates an empty one if files are missing
        raise SettingsError(f"backbone {source.backbone!r} has a tokenizer without a vocabulary", fix=NEEDED)
    return tokenizer


def find_file(source: Source, name: str) -> Path | None:
    """Return the path of a checkpoint's file, or None if it has no such file.

    The file is in the checkpoint's folder, in the hub's cache, or downloaded from the hub.

    Raises:
        SettingsError: it cannot be fetched.
    """
    utils: Any = require("transformers.utils", "train")
    try:
        path = utils.cached_file(
            source.backbone, name, local_files_only=source.local_only, _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:
        raise _unreadable(source, name, error) from error
    return Path(path) if path else None


def read_json(source: Source, name: str) -> dict[str, Any]:
    """Read settings from a file of a checkpoint; empty if it has no such file.

    Raises:
        SettingsError: it cannot be read, or does not hold an object.
    """
    path = find_file(source, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__} instead of settings")
    except (OSError, ValueError) as error:
        raise _unreadable(source, name, error) from error
    return content


def _unreadable(source: Source, name: str, error: Exception) -> SettingsError:
    return SettingsError(
        f"{name} of backbone {source.backbone!r} cannot be read: {first_line(error)}", fix="copy the backbone whole"
    )


def find_processor(source: Source) -> list[Path]:
    """Find the files of a processor: of images, of videos, and the chat template.

    Raises:
        SettingsError: that of images is missing.
    """
    found = [path for name in (*PROCESSOR_FILES, *FURTHER_FILES) if (path := find_file(source, name))]
    if not any(path.name in PROCESSOR_FILES for path in found):
        raise _no_processor(source)
    return found


def _no_processor(source: Source) -> SettingsError:
    return SettingsError(
        f"backbone {source.backbone!r} has no image processor",
        allowed=" or ".join(PROCESSOR_FILES),
        fix="copy the backbone whole: mean, deviation and patch size are in it",
    )


def check_processor(source: Source, config: Any) -> None:
    """Refuse a backbone whose image processor is missing, or uses other patches than the model.

    Raises:
        SettingsError: the processor is missing, unreadable or of another model.
    """
    find_processor(source)  # fetches all of its files with the weights, since a merged model includes them
    found: dict[str, Any] = {}
    for name in PROCESSOR_FILES:
        content = read_json(source, name)
        images = content.get("image_processor", {})
        if not isinstance(images, dict):
            raise _unreadable(source, name, ValueError(f"it holds a {type(images).__name__} instead of settings"))
        found = {**images, **content, **found}
    if not found:
        raise _no_processor(source)
    vision = config.vision_config
    for key, wanted in (
        ("patch_size", vision.patch_size),
        ("merge_size", vision.spatial_merge_size),
        ("temporal_patch_size", vision.temporal_patch_size),
    ):
        if found.get(key, wanted) != wanted:
            raise SettingsError(
                f"the image processor of {source.backbone!r} has {key} {found[key]}, and the model {wanted}",
                allowed="the processor of the same model",
                fix="copy preprocessor_config.json of that model",
            )
