"""Refusal of options that do not apply in combination with others."""

from __future__ import annotations

from collections.abc import Mapping

from vidrisk.runtimes.contract.errors import SettingsError


def refuse_options(given: Mapping[str, bool], why: str) -> None:
    """Refuse options that were given but do not apply.

    Args:
        given: whether each option was given.
        why: the rest of the message after the option.

    Raises:
        SettingsError: one of them was given.
    """
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise SettingsError(f"{wrong[0]} {why}", fix=f"leave {wrong[0]} out")
