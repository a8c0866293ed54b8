"""Tests of GGUF headers: they are read as written, and damage is refused in one line or does no harm."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.runtimes.contract.errors import BundleError
from vidrisk.runtimes.text.gguf_header import read_gguf

TOKENS = ["a", "裂", "<end>"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1, 1, 3])
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(1)
    writer.add_string("vidrisk.digest", "abc")
    writer.add_float64("d", 0.5)
    writer.add_int8("i", -3)
    writer.add_bool("b", True)
    writer.add_tensor("one", np.ones((4, 8), np.float32))
    writer.add_tensor("two", np.ones(5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_header_is_read_as_it_was_written(whole: Path) -> None:
    header = read_gguf(whole)
    assert (header.tokens, header.ends, header.digest, header.tensors) == (TOKENS, {1, 2}, "abc", ("one", "two"))
    assert {key: header.metadata[key] for key in ("d", "i", "b", "tokenizer.ggml.token_type")} == {
        "d": 0.5,
        "i": -3,
        "b": True,
        "tokenizer.ggml.token_type": [1, 1, 3],
    }


def test_a_file_that_ends_too_early_is_refused(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    assert content.rfind(np.float32(1).tobytes()) > 200
    for length in range(0, len(content) - 32, 3):  # the last tensor may be cut: llama.cpp says so
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        with pytest.raises(BundleError, match="not a complete GGUF"):
            read_gguf(tmp_path / "cut.gguf")


@given(place=st.integers(0, 420), put=st.binary(min_size=1, max_size=9))
def test_damage_is_refused_or_harmless(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, place: int, put: bytes
) -> None:
    content = bytearray(whole.read_bytes())
    content[place : place + len(put)] = put
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content)
    try:
        assert len(read_gguf(path).tensors) < 1000
    except BundleError as error:
        assert "\n" not in str(error)


def header(
    *, magic: bytes = b"GGUF", version: int = 3, tensors: int = 0, entries: bytes = b"", count: int = 0
) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, count) + entries


def entry(kind: int, value: bytes) -> dict[str, Any]:
    return {"entries": struct.pack("<Q", 1) + b"k" + struct.pack("<I", kind) + value, "count": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header(magic=b"GGML"), "b'GGML'"),
        (header(version=1), "version 1"),
        (header(tensors=2**40), "tensors"),
        (header(count=2**40), "entries"),
        (header(**entry(99, b"")), "type 99"),
        (header(**entry(8, struct.pack("<Q", 2**60))), "a text of"),
        (header(**entry(9, struct.pack("<IQ", 0, 2**50))), "items"),
        (header(**entry(9, struct.pack("<IQ", 9, 1))), "type 9"),
        (header(**entry(8, struct.pack("<Q", 1) + b"\xff")), "utf-8"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "odd.gguf").write_bytes(content)
    with pytest.raises(BundleError, match=said):
        read_gguf(tmp_path / "odd.gguf")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"absent\.gguf cannot be read"):
        read_gguf(tmp_path / "absent.gguf")
