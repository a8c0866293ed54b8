"""Loads a scheme from ``scheme.yaml``, and reports errors in the file in one line."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vidrisk.data.scheme import Scheme
from vidrisk.runtimes.contract.errors import DataError, SettingsError, SpecError, require

BUILT_IN = ("three-levels", "three-levels-en", "riskva")
MAX_FILE_BYTES = 1 << 20


def load_scheme(source: str | Path) -> Scheme:
    """Read a scheme: a built-in one by its name, else a YAML or JSON file.

    Raises:
        SettingsError: neither a built-in name nor a file.
        DataError: a file that is not a valid scheme; the message says what is wrong.
        MissingExtra: PyYAML is not installed.
    """
    name = str(source)
    if name in BUILT_IN:
        text = resources.files(__package__).joinpath("schemes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        return scheme_from_text(text, name)
    path = Path(source)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MB", allowed="a scheme")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SettingsError(f"scheme {name!r}", allowed=f"{', '.join(BUILT_IN)}, or a YAML file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text", fix="save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return scheme_from_text(text, path.name)


def scheme_from_text(text: str, source: str) -> Scheme:
    """Read a scheme from YAML, or from JSON, which is YAML.

    Raises:
        DataError: not a valid scheme; the message says what is wrong.
        MissingExtra: PyYAML is not installed, and the text is not JSON.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _value_from_yaml(text, source)
    if not isinstance(value, dict):
        raise DataError(f"{source} is not a scheme", allowed="a mapping with name, levels and fields")
    try:
        return Scheme.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise DataError(
            f"{source}: {place or 'scheme'}: {first['msg']}",
            fix="write a text that looks like a number or like yes or no between quotes"
            if first["type"] == "string_type"
            else None,
        ) from error
    except SpecError as error:
        raise DataError(f"{source}: {error.what}", allowed=error.allowed, fix=error.fix) from error


def _value_from_yaml(text: str, source: str) -> Any:
    yaml: Any = require("yaml", "train")
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise DataError(f"{source}, line {line} is not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{source} is not YAML: {error}") from error
