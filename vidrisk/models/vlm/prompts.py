"""Prompt templates: pairs of a question about the input and a reply that contains the model's token once."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vidrisk.models.config import PromptPair
from vidrisk.runtimes.contract.choices import LabelTask
from vidrisk.runtimes.contract.errors import SettingsError, require

PLACE = "{token}"  # stands for the token in a reply, whatever its name
ALLOWED = "pairs of `question` and `reply`; the reply holds {token} once"


def prompts_from_settings(prompts: Path | Sequence[PromptPair] | None, task: LabelTask) -> tuple[PromptPair, ...]:
    """Return the pairs that the settings select.

    Args:
        prompts: pairs, a YAML file with a list of them, or None for vidrisk's own for the task.
        task: of the model.

    Raises:
        SettingsError: an unreadable file, no pair, or a reply that does not contain the token exactly once.
    """
    if prompts is None:
        text = resources.files(__package__).joinpath("prompts.yaml").read_text(encoding="utf-8")
        pairs = _pairs_from_rows(require("yaml", "train").safe_load(text)[task], "prompts.yaml")
    elif isinstance(prompts, Path):
        pairs = _pairs_from_file(prompts)
    else:
        pairs = tuple(prompts)
    if not pairs:
        raise SettingsError("vlm.prompts is empty", allowed=ALLOWED)
    for number, pair in enumerate(pairs):
        if pair.reply.count(PLACE) != 1 or PLACE in pair.question:
            raise SettingsError(
                f"pair {number} of vlm.prompts holds {PLACE} {pair.reply.count(PLACE)} times in its reply and "
                f"{pair.question.count(PLACE)} times in its question",
                allowed=ALLOWED,
            )
    return pairs


def _pairs_from_file(path: Path) -> tuple[PromptPair, ...]:
    yaml: Any = require("yaml", "train")
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(
            f"vlm.prompts {path} cannot be read: {error}", allowed=f"a YAML list of {ALLOWED}"
        ) from error
    return _pairs_from_rows(rows, str(path))


def _pairs_from_rows(rows: object, source: str) -> tuple[PromptPair, ...]:
    if not isinstance(rows, list):
        raise SettingsError(f"{source} holds a {type(rows).__name__}", allowed=f"a list of {ALLOWED}")
    pairs = []
    for number, row in enumerate(rows):
        try:
            pairs.append(PromptPair.model_validate(row))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise SettingsError(
                f"pair {number} of {source}: {where} {first['msg']}".strip(), allowed=ALLOWED
            ) from error
    return tuple(pairs)
