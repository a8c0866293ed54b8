"""Tests of errors: each is one line, and its kind determines the exit code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.runtimes.contract import errors


@given(st.text(), st.none() | st.text(), st.none() | st.text())
def test_every_message_is_one_line(what: str, allowed: str | None, fix: str | None) -> None:
    assert len(str(errors.VidriskError(what, allowed=allowed, fix=fix)).splitlines()) <= 1


def test_message_says_what_allowed_and_fix() -> None:
    error = errors.SettingsError("size 0", allowed="1 to 9", fix="give another")
    assert str(error) == "size 0; allowed: 1 to 9; fix: give another"
    assert (error.what, error.allowed, error.fix) == ("size 0", "1 to 9", "give another")


def test_long_lists_of_names_are_cut() -> None:
    names = [str(number) for number in range(500)]
    assert errors.name_some(names[:20]) == ", ".join(names[:20])
    assert errors.name_some(names) == f"{', '.join(names[:20])} … and 480 more"


def test_exit_codes() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.VidriskError)]
    codes = {kind.__name__: kind.exit_code for kind in kinds}
    assert codes == {
        "VidriskError": 1,
        "SettingsError": 2,
        "SpecError": 1,
        "DataError": 1,
        "UnreadableError": 1,
        "BundleError": 1,
        "RuntimeFailure": 1,
        "EngineMissing": 1,
        "GraphRefused": 1,
        "MissingExtra": 1,
        "GateRefused": 3,
        "AnswersDiffer": 3,
        "Interrupted": 130,
    }


def test_unreadable_carries_its_ledger_state() -> None:
    assert errors.UnreadableError("x").state == "corrupt"
    assert errors.UnreadableError("x", state="partial").state == "partial"


def test_require_names_the_extra() -> None:
    assert errors.require("json", "cpu").loads("1") == 1
    with pytest.raises(
        errors.MissingExtra, match=r"no_such_package is not installed; fix: pip install 'vidrisk\[cpu\]'"
    ):
        errors.require("no_such_package.inside", "cpu")
    assert errors.is_installed("json.decoder")
    assert not errors.is_installed("no_such_package")
    assert not errors.is_installed("no_such_package.inside")
