"""Tests of the choice of a bundle's variants, by the request and by their speed."""

from __future__ import annotations

import pytest

from vidrisk.export.plans import choose_shipped
from vidrisk.runtimes.contract.manifest import VariantName

FILES: dict[VariantName, int] = {"fp32": 0, "fp16": 1, "mixed": 2, "int8-tensorrt": 3}


@pytest.mark.parametrize(
    ("only", "slow", "slower", "shipped"),
    [
        (None, (), (), ["fp32", "fp16", "mixed", "int8-tensorrt"]),
        ("fp16", (), (), ["fp16"]),
        ("int8", (), (), ["mixed", "int8-tensorrt"]),
        ("int8", ("mixed",), ("mixed",), ["fp32", "int8-tensorrt"]),  # nothing would be left for processors
        ("int8", (), ("mixed",), ["fp32", "mixed", "int8-tensorrt"]),  # it ships for its size, and never alone
        (None, (), ("mixed",), ["fp32", "fp16", "mixed", "int8-tensorrt"]),
        ("fp16", (), ("mixed",), ["fp16"]),
    ],
)
def test_what_is_slower_never_ships_alone(
    only: str | None, slow: tuple[str, ...], slower: tuple[str, ...], shipped: list[str]
) -> None:
    found = choose_shipped(FILES, only, slow, slower)
    assert sorted(found) == sorted(shipped) and all(FILES[name] == made for name, made in found.items())
