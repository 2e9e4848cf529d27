"""A safetensors file as the delta sees it: the header's bytes, and every tensor's numbers as unsigned integers.

Neighbours: `delta.py` compares two of them, `packing.py` packs what differs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from retort.errors import InputError

__all__ = ["MANTISSA_BITS", "WIDTHS", "Bits", "StoredTensor", "WeightsFile", "tensors_of"]

WIDTHS: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of a number of each type."""
MANTISSA_BITS: Final = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}
"""Of the types that are sign, exponent and mantissa here."""
_CHUNK: Final = 1 << 22

Bits = NDArray[Any]
"""Unsigned integers of a tensor's width, flat."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: type, shape, and where its bytes are after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return (self.stop - self.start) // WIDTHS[self.dtype]


def tensors_of(header: bytes) -> dict[str, StoredTensor]:
    """The tensors that a header names, in the order of their bytes. ValueError, KeyError, TypeError or AttributeError for no header."""
    known = json.loads(header)
    found = {
        name: StoredTensor(about["dtype"], tuple(about["shape"]), *about["data_offsets"])
        for name, about in known.items()
        if name != "__metadata__"
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)))


class WeightsFile:
    """A safetensors file, mapped: 8 bytes (the header's length), the header (JSON), the tensors' bytes."""

    def __init__(self, path: Path) -> None:
        """Read the header; InputError for another kind of file."""
        self.path = path
        try:
            with path.open("rb") as handle:
                length = int.from_bytes(handle.read(8), "little")
                if not 0 < length <= path.stat().st_size - 8:
                    raise ValueError("its header does not fit into it")
                self.header = handle.read(length)
            self.tensors = tensors_of(self.header)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no safetensors file: {error}. Name a model.safetensors.") from None
        strange = sorted({about.dtype for about in self.tensors.values()} - WIDTHS.keys())
        if strange:
            raise InputError(f"{path} holds numbers of type {', '.join(strange)}; expected {', '.join(WIDTHS)}.")

    @cached_property
    def sha256(self) -> str:
        """Checksum of the whole file, hex."""
        digest = hashlib.sha256()
        with self.path.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def bits(self, name: str) -> Bits:
        """A tensor's numbers as unsigned integers, flat."""
        about = self.tensors[name]
        width = WIDTHS[about.dtype]
        if about.count == 0:
            return np.zeros(0, dtype=f"<u{width}")
        start = 8 + len(self.header) + about.start
        return np.fromfile(self.path, dtype=f"<u{width}", count=about.count, offset=start)

    def reference(self, name: str, wanted: StoredTensor) -> Bits:
        """What a tensor of another file is compared with: this file's, cast; zeros where there is none that fits."""
        own = self.tensors.get(name)
        if own is not None and own.shape == wanted.shape:
            if own.dtype == wanted.dtype:
                return self.bits(name)
            if wanted.dtype == "F32" and own.dtype in ("F16", "BF16"):
                return _widened(self.bits(name), own.dtype)
        return np.zeros(wanted.count, dtype=f"<u{WIDTHS[wanted.dtype]}")


def _widened(bits: Bits, dtype: str) -> Bits:
    """The same numbers as float32."""
    wide: Bits
    if dtype == "BF16":
        wide = bits.astype("<u4") << np.uint32(16)
        return wide
    wide = bits.view("<f2").astype("<f4").view("<u4")
    # Processors differ in what becomes of a NaN's payload: it is moved by hand.
    nan = (bits & 0x7FFF) > 0x7C00
    narrow = bits[nan].astype("<u4")
    wide[nan] = (narrow & 0x8000) << 16 | 0x7F800000 | (narrow & 0x3FF) << 13
    return wide
