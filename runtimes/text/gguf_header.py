"""Reader of GGUF headers that does not use llama.cpp, which may abort the process on a broken file.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vidrisk.runtimes.contract.errors import BundleError

MAGIC, VERSIONS = b"GGUF", (2, 3)
DIGEST = "vidrisk.digest"  # metadata key: the export that a file belongs to
TOKENS = "tokenizer.ggml.tokens"
ENDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
MOST_ENTRIES, MOST_ITEMS, MOST_STRING_BYTES = 2**16, 2**22, 2**24
MOST_AXES = 8
ALIGNMENT = "general.alignment"
LEAST_ALIGNMENT, MOST_ALIGNMENT = 8, 2**16
AGAIN = "export the GGUF again"


@dataclass(frozen=True, repr=False)
class GgufHeader:
    """Metadata of a GGUF file and the names of its tensors."""

    metadata: dict[str, Any]
    tensors: tuple[str, ...]

    @property
    def digest(self) -> str | None:
        """Digest of the export that the file belongs to; None if it has none."""
        found = self.metadata.get(DIGEST)
        return found if isinstance(found, str) else None

    @property
    def tokens(self) -> list[str]:
        """Tokens of its vocabulary, by id."""
        found = self.metadata.get(TOKENS)
        return found if isinstance(found, list) and all(isinstance(token, str) for token in found) else []

    @property
    def ends(self) -> set[int]:
        """Ids of the tokens that end a text, according to the file."""
        return {value for key in ENDS if isinstance(value := self.metadata.get(key), int)}

    def __repr__(self) -> str:
        return f"GgufHeader({self.metadata.get('general.architecture')}, {len(self.tensors)} tensors)"


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of a GGUF file.

    Raises:
        BundleError: it cannot be read, is not a GGUF file, is damaged, or is too short for its tensors.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, os.fstat(file.fileno()).st_size).header()
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror}", fix=AGAIN) from error
    except (ValueError, OverflowError) as error:
        raise BundleError(f"{path.name} is not a complete GGUF file: {error}", fix=AGAIN) from error


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def header(self) -> GgufHeader:
        """Read the header.

        Raises:
            ValueError: it is invalid.
        """
        magic, version = self._bytes(4), self._number("I")
        if magic != MAGIC or version not in VERSIONS:
            raise ValueError(f"it begins with {magic!r}, version {version}")
        tensors, entries = self._count(MOST_ENTRIES, "tensors"), self._count(MOST_ENTRIES, "entries")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._string()
            metadata[key] = self._value(self._number("I"))
        names, end = [], 0
        for _ in range(tensors):
            names.append(self._string())
            shape = [self._number("Q") for _ in range(self._number("I", most=MOST_AXES))]
            self._number("I")
            end = max(end, self._number("Q") + (1 if math.prod(shape) else 0))
        alignment = metadata.get(ALIGNMENT, 32)
        if not isinstance(alignment, int) or not LEAST_ALIGNMENT <= alignment <= MOST_ALIGNMENT:
            raise ValueError(f"tensors are aligned to {alignment!r} bytes")
        begin = -(-self._file.tell() // alignment) * alignment
        if begin + end > self._size:
            raise ValueError(f"tensors extend to byte {begin + end} or beyond, but it has {self._size} bytes")
        return GgufHeader(metadata, tuple(names))

    def _value(self, kind: int) -> Any:
        if kind == ARRAY:
            inner, count = self._number("I"), self._count(MOST_ITEMS, "items")
            if inner == STRING:
                return [self._string() for _ in range(count)]
            form = self._form(inner)
            return list(struct.unpack(f"<{count}{form}", self._bytes(count * struct.calcsize(f"<{form}"))))
        return self._string() if kind == STRING else self._number(self._form(kind))

    def _form(self, kind: int) -> str:
        if kind not in SCALARS:
            raise ValueError(f"it has a value of type {kind}")
        return SCALARS[kind]

    def _count(self, most: int, what: str) -> int:
        count: int = self._number("Q")
        if count > most:
            raise ValueError(f"it has {count} {what}")
        return count

    def _number(self, form: str, most: int | None = None) -> Any:
        (value,) = struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))
        if most is not None and value > most:
            raise ValueError(f"it has the value {value} where at most {most} is allowed")
        return value

    def _string(self) -> str:
        size = self._number("Q")
        if size > MOST_STRING_BYTES:
            raise ValueError(f"it has a text of {size} bytes")
        return self._bytes(size).decode("utf-8")

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise ValueError("it ends too early")
        return data
