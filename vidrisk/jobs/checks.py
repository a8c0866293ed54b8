"""Checks of single settings, whose errors give the value and the allowed ones in one line."""

from __future__ import annotations

from collections.abc import Collection
from types import UnionType
from typing import Any

from vidrisk.runtimes.contract.errors import SettingsError


def check_number(settings: object, name: str, least: float, most: float, *, kind: type[int | float] = float) -> None:
    """Check that an attribute is a number from ``least`` to ``most``, both included.

    Args:
        settings: with the attribute.
        name: of the attribute.
        least: smallest allowed value.
        most: largest allowed value.
        kind: ``int`` requires a whole number.

    Raises:
        SettingsError: it is out of range, not finite, or of another type.
    """
    value: Any = getattr(settings, name)
    is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise SettingsError(f"{name} is {value!r}", allowed=f"{least} to {most}{', whole numbers' * (kind is int)}")


def check_choice(settings: object, name: str, allowed: Collection[str]) -> None:
    """Check that an attribute is one of the allowed strings.

    Raises:
        SettingsError: it is not.
    """
    value: Any = getattr(settings, name)
    if not isinstance(value, str) or value not in allowed:
        raise SettingsError(f"{name} is {value!r}", allowed=", ".join(allowed))


def check_instance(settings: object, name: str, kind: type | UnionType, allowed: str) -> None:
    """Check the type of an attribute.

    Raises:
        SettingsError: it has another type.
    """
    value: Any = getattr(settings, name)
    if not isinstance(value, kind):
        raise SettingsError(f"{name} is {value!r}", allowed=allowed)
