"""Small integers from neighbouring floats, and few bytes from small integers; all of it can be undone exactly.

`delta.py` says what the stored bytes mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.tuning.weights_file import MANTISSA_BITS, Bits

__all__ = ["Plane", "best_order", "by_exponent", "compressed", "decompressed", "from_codes", "to_codes", "unpacked"]

_LEVEL: Final = 9

Bytes = NDArray[np.uint8]
Way = Literal["zero", "raw", "zstd", "mask", "bits"]
Order = Literal["plain", "exponent"]


def to_codes(bits: Bits, reference: Bits, dtype: str) -> Bits:
    """How far each number is from its reference, in units in the last place, zigzag-coded; 0 where they are equal."""
    return _zigzag(_ordered(bits, dtype) - _ordered(reference, dtype))


def from_codes(codes: Bits, reference: Bits, dtype: str) -> Bits:
    """Undo `to_codes`."""
    return _bits_of(_ordered(reference, dtype) + _unzigzag(codes), dtype)


def _ordered(bits: Bits, dtype: str) -> Bits:
    """Unsigned integers in the order of the numbers (NaNs at the ends); neighbouring floats differ by 1."""
    if dtype not in MANTISSA_BITS:
        return bits
    top = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    return np.where(bits & top, ~bits, bits | top)


def _bits_of(ordered: Bits, dtype: str) -> Bits:
    """Undo `_ordered`."""
    if dtype not in MANTISSA_BITS:
        return ordered
    top = ordered.dtype.type(1 << (8 * ordered.itemsize - 1))
    return np.where(ordered & top, ordered & ~top, ~ordered)


def _zigzag(difference: Bits) -> Bits:
    """0, -1, 1, -2 ... (modulo the width) as 0, 1, 2, 3 ..."""
    signed = difference.view(f"<i{difference.itemsize}")
    return ((signed << 1) ^ (signed >> (8 * signed.itemsize - 1))).view(difference.dtype)


def _unzigzag(codes: Bits) -> Bits:
    one = codes.dtype.type(1)
    found: Bits = (codes >> one) ^ (~(codes & one) + one)
    return found


def by_exponent(reference: Bits, dtype: str) -> NDArray[np.int64] | None:
    """The order in which numbers have the same sign and exponent one after another; None for integers."""
    if dtype not in MANTISSA_BITS:
        return None
    exponents = (reference >> reference.dtype.type(MANTISSA_BITS[dtype])).astype(np.uint16)
    return np.argsort(exponents, kind="stable")


@dataclass(frozen=True)
class Plane:
    """One packed plane."""

    way: Way
    parts: Mapping[str, Bytes]  # by what follows the plane's name

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(part) for part in self.parts.values())


def best_order(codes: Bits, order: NDArray[np.int64] | None) -> tuple[Order, list[Plane]]:
    """The planes as they stand or in this order, whichever packs them smaller."""
    plain = [_packed(plane) for plane in _planes(codes)]
    if order is None:
        return "plain", plain
    sorted_ = [_packed(plane) for plane in _planes(codes[order])]
    if sum(plane.size for plane in sorted_) < sum(plane.size for plane in plain):
        return "exponent", sorted_
    return "plain", plain


def _planes(codes: Bits) -> Iterator[Bytes]:
    """Byte i of every number, lowest first."""
    for plane in codes.view(np.uint8).reshape(len(codes), codes.itemsize).T:
        yield np.ascontiguousarray(plane)


def _packed(plane: Bytes) -> Plane:
    """The smallest of the ways."""
    there = plane != 0
    if not there.any():
        return Plane("zero", {})
    ways = [
        Plane("raw", {"": plane}),
        Plane("zstd", {"": compressed(plane)}),
        Plane("mask", {"/mask": compressed(np.packbits(there)), "": compressed(plane[there])}),
        Plane("bits", {"": compressed(np.packbits(_bit_planes(plane), axis=1).reshape(-1))}),
    ]
    return min(ways, key=lambda way: way.size)


def _bit_planes(plane: Bytes) -> Bytes:
    """[8, n] of 0 and 1, highest bit first."""
    return np.stack([(plane >> shift) & 1 for shift in range(7, -1, -1)])


def unpacked(way: Way, count: int, read: Mapping[str, Bytes]) -> Bytes:
    """Undo `_packed`; `read` holds the parts by what follows the plane's name."""
    if way == "zero":
        return np.zeros(count, dtype=np.uint8)
    if way == "raw":
        return read[""]
    if way == "zstd":
        return decompressed(read[""], count)
    if way == "mask":
        there = np.unpackbits(decompressed(read["/mask"], -(-count // 8)), count=count).astype(bool)
        plane = np.zeros(count, dtype=np.uint8)
        plane[there] = decompressed(read[""], int(there.sum()))
        return plane
    if way == "bits":
        packed = decompressed(read[""], 8 * -(-count // 8)).reshape(8, -1)
        bits = np.unpackbits(packed, axis=1, count=count)
        found = np.zeros(count, dtype=np.uint8)
        for row in bits:
            found = (found << 1) | row
        return found
    raise ValueError(f"there is no way {way!r} of packing")


def compressed(values: Bytes) -> Bytes:
    """Zstandard."""
    packed = pa.Codec("zstd", compression_level=_LEVEL).compress(np.ascontiguousarray(values), asbytes=True)
    return np.frombuffer(packed, dtype=np.uint8)


def decompressed(values: Bytes, size: int) -> Bytes:
    """Undo `compressed`; ValueError where the bytes are not those of so many."""
    try:
        found = pa.Codec("zstd").decompress(np.ascontiguousarray(values), decompressed_size=size, asbytes=True)
    except (OSError, pa.ArrowException) as error:  # pyarrow tells broken bytes as OSError
        raise ValueError(str(error)) from None
    if len(found) != size:
        raise ValueError(f"expected {size} bytes, found {len(found)}")
    return np.frombuffer(found, dtype=np.uint8)
