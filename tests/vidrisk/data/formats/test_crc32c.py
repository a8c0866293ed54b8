"""Tests of CRC-32C as RFC 3720 defines it and TFRecord files use it."""

from __future__ import annotations

import random

import pytest

from vidrisk.data.formats.tfrecord.crc32c import crc32c, masked_crc32c


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_vectors_of_rfc_3720(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc == crc32c(memoryview(data))


def test_the_mask_is_that_of_tensorflow() -> None:
    assert masked_crc32c(bytes(8)).to_bytes(4, "little").hex() == "29039807"  # how every empty record begins
    assert masked_crc32c(b"").to_bytes(4, "little").hex() == "d8ea82a2"


def bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("length", [*range(28, 80), 127, 128, 129, 1000, 4095, 4096, 4097, 65_537])
def test_any_length_is_as_bit_by_bit(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert crc32c(data) == bit_by_bit(data)
