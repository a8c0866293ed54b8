"""A weight matrix packed in 4 or 8 bits, with a scale and a zero point for each group of inputs.

    w  float32 (K, N)  →  codes uint8 (N, groups, group · bits / 8)   the first of two 4-bit codes in the low half
                          scales float32 (N, groups)                  w ≈ scale · (code − zero point)
                          zero points uint8 (N, ⌈groups · bits / 8⌉)  packed like the codes

This is the layout of ``com.microsoft::MatMulNBits`` (ONNX Runtime, "Contrib Operators"), implemented here in numpy:
ONNX Runtime's own quantiser holds whole matrices in memory, and derives scales only from a group's range. Codes have
zero points: without them, the error is 0.2 to 2 dB larger (random weights, from normal to heavy-tailed).

A scale minimises the squared error, in which each weight counts by its square: clipping the large weights of a language
model costs more than their number suggests. (SmolLM2-135M in 4 bits and groups of 128: the next token's distribution
diverges by 0.42 nats; by 0.44 with a group's range as its scale, and by 0.55 if all weights count equally.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

from vidrisk.calibration.graph import FloatArray
from vidrisk.calibration.weights import SMALLEST_SCALE
from vidrisk.runtimes.contract.errors import DataError, SettingsError

Codes = npt.NDArray[np.uint8]
Bits = Literal[4, 8]
GROUPS = (256, 128, 64, 32, 16)  # that the operator supports
SMALLEST_GROUP = GROUPS[-1]
CHUNK_VALUES = 2**18  # number of weights in floating point at once
# Shares of a group's range that its codes may span: clipping the largest weights may cost less than rounding all others
# coarsely.
RATIOS: dict[Bits, tuple[float, ...]] = {4: (1.0, 0.95, 0.9, 0.85), 8: (1.0,)}


@dataclass(frozen=True)
class WeightGrid:
    """How weights are rounded.

    Attributes:
        bits: 4 or 8.
        group: number of inputs that share a scale, a power of two from 16 to 256.

    Raises:
        SettingsError: the operator does not support the bits or the group.
    """

    bits: Bits
    group: int

    def __post_init__(self) -> None:
        if self.bits not in RATIOS or self.group not in GROUPS:
            raise SettingsError(
                f"weights of {self.bits} bits in groups of {self.group}",
                allowed=f"4 or 8 bits, in groups of {', '.join(map(str, reversed(GROUPS)))}",
            )

    def __str__(self) -> str:
        return f"int{self.bits} weights in groups of {self.group}"

    def group_of(self, depth: int) -> int:
        """Return the group size of a matrix with ``depth`` inputs.

        It divides them if a power of two from 16 does: OpenVINO keeps such a matrix packed in memory, but holds one
        that must be padded with zeros in float32.
        """
        least = min(self.group, max(SMALLEST_GROUP, 1 << (depth - 1).bit_length()))  # a longer one would only be padded
        return next((group for group in GROUPS if group <= least and depth % group == 0), least)

    def size_bytes(self, depth: int, width: int) -> int:
        """Return the size in bytes of a packed matrix ``(depth, width)``."""
        group = self.group_of(depth)
        groups = -(-depth // group)
        return width * (groups * group * self.bits // 8 + 4 * groups + -(-groups * self.bits // 8))


@dataclass(frozen=True)
class PackedWeight:
    """A packed matrix.

    Attributes:
        depth: number of inputs K; padding of the last group beyond them is ignored.
    """

    codes: Codes
    scales: FloatArray
    zero_points: Codes
    bits: Bits
    group: int
    depth: int

    def __repr__(self) -> str:
        return f"PackedWeight({self.depth}, {len(self.codes)}) in {self.bits} bits, groups of {self.group}"


def pack_weight(weight: FloatArray, grid: WeightGrid, name: str = "a weight") -> PackedWeight:
    """Round a matrix ``(K, N)``, a part at a time.

    Args:
        weight: may be a view of a file; the whole matrix is never in memory.
        grid: how to round it.
        name: for errors.

    Raises:
        DataError: a value is not finite.
    """
    depth, width = weight.shape
    group = grid.group_of(depth)
    groups = -(-depth // group)
    codes = np.empty((width, groups, group * grid.bits // 8), np.uint8)
    scales = np.empty((width, groups), np.float32)
    zero_points = np.empty((width, groups), np.uint8)
    few = min(width, CHUNK_VALUES // group)
    step = CHUNK_VALUES // group // few
    for first, start in product(range(0, groups, step), range(0, width, few)):
        rows, columns = slice(first, min(groups, first + step)), slice(start, start + few)
        part = weight[rows.start * group : rows.stop * group, columns]
        if not np.isfinite(part).all():
            raise DataError(
                f"{name} has values that are not finite", fix="train again, or export an earlier checkpoint"
            )
        values = np.zeros(((rows.stop - rows.start) * group, part.shape[1]), np.float32)
        values[: len(part)] = part
        found, of_groups, zeros = round_groups(values.reshape(-1, group, part.shape[1]), grid.bits)
        codes[columns, rows] = pack_codes(found.transpose(2, 0, 1), grid.bits)
        scales[columns, rows], zero_points[columns, rows] = of_groups.T, zeros.T
    return PackedWeight(codes, scales, pack_codes(zero_points, grid.bits), grid.bits, group, depth)


def weight_from_packed(packed: PackedWeight) -> FloatArray:
    """Return the matrix ``(K, N)`` that a packed one represents."""
    codes = unpack_codes(packed.codes, packed.bits, packed.group).astype(np.float32)
    zero_points = unpack_codes(packed.zero_points, packed.bits, packed.scales.shape[1]).astype(np.float32)
    values = (codes - zero_points[..., None]) * packed.scales[..., None]
    weight: FloatArray = values.reshape(len(codes), -1)[:, : packed.depth].T
    return weight


def round_groups(values: FloatArray, bits: Bits) -> tuple[Codes, FloatArray, Codes]:
    """Return codes, scales and zero points of least squared error, weighted by squares.

    Each of ``RATIOS`` shrinks the range that the codes of a group span; its scale is then fitted to the codes by least
    squares; the ratio with the least error wins.

    Args:
        values: ``(M, group, N)``.
        bits: 4 or 8.

    Returns:
        Codes of the same shape, and scales and zero points ``(M, N)``.
    """
    low, high = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    unit = _scale(low, high, bits)
    values, low, high = values / unit[:, None], low / unit, high / unit  # squares of small weights would underflow
    importance = np.square(values)
    weighted = importance * values
    codes, scales, zero_points = round_range(values, low, high, bits)
    errors = np.full(unit.shape, np.inf, np.float32)
    for ratio in RATIOS[bits]:
        tried, fitted, zeros = round_range(values, low * np.float32(ratio), high * np.float32(ratio), bits)
        steps = tried.astype(np.float32) - zeros[:, None]
        across, power = _sums(steps, weighted), _sums(np.square(steps), importance)
        fitted = np.where(across > 0, across / np.where(power > 0, power, 1), fitted).astype(np.float32)
        steps *= fitted[:, None]
        steps -= values
        found = _sums(np.square(steps, out=steps), importance)
        is_better = found < errors
        np.copyto(errors, found, where=is_better)
        np.copyto(scales, fitted, where=is_better)
        np.copyto(zero_points, zeros, where=is_better)
        np.copyto(codes, tried, where=is_better[:, None])
    return codes, (scales * unit).astype(np.float32), zero_points


def _sums(one: FloatArray, other: FloatArray) -> FloatArray:
    sums: FloatArray = np.einsum("mgn,mgn->mn", one, other)
    return sums


def round_range(values: FloatArray, low: FloatArray, high: FloatArray, bits: Bits) -> tuple[Codes, FloatArray, Codes]:
    """Return codes that span a range, their scales and zero points.

    The error of a value inside the range is at most half a scale, and a zero stays zero.

    Args:
        values: ``(M, group, N)``.
        low: lower end of each group's range, ``(M, N)``, not above 0.
        high: upper end of each group's range, ``(M, N)``, not below 0.
        bits: 4 or 8.
    """
    top = 2**bits - 1
    scales = _scale(low, high, bits)
    zero_points = np.clip(np.rint(-low / scales), 0, top)
    codes = values / scales[:, None]
    np.rint(codes, out=codes)
    codes += zero_points[:, None]
    return np.clip(codes, 0, top, out=codes).astype(np.uint8), scales, zero_points.astype(np.uint8)


def _scale(low: FloatArray, high: FloatArray, bits: Bits) -> FloatArray:
    """Return the scale of each group; a negligible group gets 1, like a dead channel."""
    top = np.float32(2**bits - 1)
    scale = high / top - low / top
    return np.where(scale >= SMALLEST_SCALE, scale, 1).astype(np.float32)


def pack_codes(codes: Codes, bits: Bits) -> Codes:
    """Pack codes along the last axis into bytes; an odd last code has zeros in the high half of its byte."""
    if bits == 8:
        return codes
    even, odd = codes[..., 0::2], codes[..., 1::2]
    packed = even.copy()
    packed[..., : odd.shape[-1]] |= odd << 4
    return packed


def unpack_codes(packed: Codes, bits: Bits, count: int) -> Codes:
    """Unpack ``count`` codes along the last axis from bytes."""
    if bits == 8:
        return packed
    halves = np.stack([packed & 15, packed >> 4], axis=-1)
    codes: Codes = halves.reshape(*packed.shape[:-1], -1)[..., :count]
    return codes
