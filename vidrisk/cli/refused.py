"""Options that mean nothing to what they are given with."""

from __future__ import annotations

from collections.abc import Mapping

from vidrisk.runtimes.contract.errors import SettingsError


def refuse_options(given: Mapping[str, bool], why: str) -> None:
    """Refuse options that were given and mean nothing.

    Args:
        given: per option whether it was.

    Raises:
        SettingsError: one was.
    """
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise SettingsError(f"{wrong[0]} {why}", fix=f"leave {wrong[0]} out")
