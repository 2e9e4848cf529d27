"""A tuned encoder as the lossless difference to its base: small moves of weights become small integers, and those few bytes.

    write_delta(base_file, tuned_file, out) -> statistics      over two safetensors files
    apply_delta(base_file, delta_file, out)                    gives the tuned file back, byte for byte
    restore_encoder(base_folder, delta_file, out_folder)       a whole encoder folder, ready to serve

The delta is a safetensors file of uint8 tensors. Its metadata entry `retort.delta` is JSON:

    {"version": 1, "base_sha256", "tuned_sha256", "header_bytes", "tensors": {NAME: {"order": "plain" | "exponent", "ways": [WAY, ...]}}}

`header` is the tuned file's own header (zstd): names, types, shapes, order. A tensor that is not named in `tensors` equals the base's.
Of each other tensor, with the unsigned bits of its numbers: the base's bits (float16 and bfloat16 first cast to a float32 tensor's
type) and the tuned ones are mapped to integers in the order of the numbers they stand for, subtracted, and zigzag-coded. Order
"exponent" sorts the results by the base's sign and exponent: like magnitudes move by like numbers of units in the last place.
Byte i of all of them is plane i, `NAME/i`, packed in one WAY:

    zero   nothing is stored: all bytes are 0
    raw    the bytes
    zstd   the bytes, compressed
    mask   one bit for each byte, 1 where it is not 0 (most significant bit first), compressed, as `NAME/i/mask`; then the bytes that
           are not 0, compressed
    bits   the plane's eight bit planes, highest first, one after another, each padded to whole bytes, compressed

A tensor that the base does not have, or has in another shape or type, is taken against zeros.
Neighbours: `weights_file.py`, `packing.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from retort.errors import CorruptError, IncompatibleError, InputError
from retort.store.files import storage_errors
from retort.tuning.packing import best_order, by_exponent, compressed, decompressed, from_codes, to_codes, unpacked
from retort.tuning.weights_file import WeightsFile, tensors_of

__all__ = ["apply_delta", "restore_encoder", "write_delta"]

ENTRY: Final = "retort.delta"
VERSION: Final = 1
_HEADER: Final = "header"


def write_delta(base_file: Path, tuned_file: Path, out: Path) -> dict[str, Any]:
    """Write what changed from `base_file` to `tuned_file`, both safetensors, to `out`.

    Returns:
        tensors, changed_tensors, bytes_whole, bytes_delta, ratio (delta / whole), base_sha256, tuned_sha256.

    Raises:
        InputError: a file is no safetensors file, or has a type of number that is not known here.
    """
    base, tuned = WeightsFile(base_file), WeightsFile(tuned_file)
    stored: dict[str, NDArray[np.uint8]] = {_HEADER: compressed(np.frombuffer(tuned.header, dtype=np.uint8))}
    changed: dict[str, Any] = {}
    for name, about in tuned.tensors.items():
        bits, reference = tuned.bits(name), base.reference(name, about)
        if np.array_equal(bits, reference):
            continue
        order, planes = best_order(to_codes(bits, reference, about.dtype), by_exponent(reference, about.dtype))
        changed[name] = {"order": order, "ways": [plane.way for plane in planes]}
        for number, plane in enumerate(planes):
            stored.update({f"{name}/{number}{suffix}": part for suffix, part in plane.parts.items()})
    facts = {
        "version": VERSION,
        "base_sha256": base.sha256,
        "tuned_sha256": tuned.sha256,
        "header_bytes": len(tuned.header),
        "tensors": changed,
    }
    with _replacing(out) as temporary:
        save_file(stored, temporary, metadata={ENTRY: json.dumps(facts)})
    size, whole = out.stat().st_size, tuned_file.stat().st_size
    return {
        "tensors": len(tuned.tensors),
        "changed_tensors": len(changed),
        "bytes_whole": whole,
        "bytes_delta": size,
        "ratio": round(size / whole, 6),
        "base_sha256": base.sha256,
        "tuned_sha256": tuned.sha256,
    }


def apply_delta(base_file: Path, delta_file: Path, out: Path) -> None:
    """Write the tuned file to `out`, whole or not at all.

    Raises:
        IncompatibleError: the delta belongs to another base.
        CorruptError: the delta's bytes are not what was written.
        InputError: a file is not what it should be.
    """
    base = WeightsFile(base_file)
    with _opened(delta_file) as delta:
        facts = _facts(delta, delta_file)
        if base.sha256 != facts["base_sha256"]:
            raise IncompatibleError(
                f"{delta_file} is a difference to weights with sha256 {facts['base_sha256'][:12]}; {base_file} has {base.sha256[:12]}. "
                "Name the weights file of the base that this encoder was tuned from."
            )
        digest = hashlib.sha256()
        with _replacing(out) as temporary:
            with temporary.open("wb") as handle:
                try:
                    for part in _restored(base, delta, facts):
                        digest.update(part)
                        handle.write(part)
                except (KeyError, ValueError, TypeError, SafetensorError) as error:
                    raise CorruptError(f"{delta_file} cannot be unpacked: {error}. Restore the file.") from None
            if digest.hexdigest() != facts["tuned_sha256"]:
                raise CorruptError(
                    f"{delta_file} on {base_file} gives sha256 {digest.hexdigest()[:12]}, expected {facts['tuned_sha256'][:12]}. Restore the file."
                )


def restore_encoder(base_folder: Path, delta_file: Path, out: Path) -> None:
    """Write the tuned query encoder's folder: the base's files, the tuned weights, and the base's passage space.

    Raises:
        InputError: `out` holds something already, or the base's weights are not one safetensors file. Others as `apply_delta`.
    """
    from retort.models.dual_encoder import DualEncoder  # torch: only where an encoder is read

    weights = "model.safetensors"
    if not (base_folder / weights).is_file():
        raise InputError(
            f"{base_folder} has no {weights}. Name the folder of the encoder that the delta was made against."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already and not empty. Name a new folder.")
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        restored = Path(folder) / weights
        apply_delta(base_folder / weights, delta_file, restored)  # first: a delta of another base leaves nothing behind
        base = DualEncoder.load(base_folder, device="cpu", precision="fp32")
        with storage_errors(f"write {out}"):
            base.save(out, passage_space=base.passage_space)
            shutil.move(restored, out / weights)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        handle = safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is no delta: {error}. Name the delta.safetensors of a tuned encoder.") from None
    with handle as delta:
        yield delta


def _facts(delta: Any, path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((delta.metadata() or {})[ENTRY])
    except (KeyError, ValueError):
        raise InputError(
            f"{path} is a safetensors file but no delta (it has no {ENTRY!r}). Name the delta.safetensors of a tuned encoder."
        ) from None
    if facts.get("version") != VERSION:
        raise InputError(
            f"{path} is a delta of version {facts.get('version')}; this Retort reads version {VERSION}. Use the one that wrote it."
        )
    return facts


def _restored(base: WeightsFile, delta: Any, facts: Mapping[str, Any]) -> Iterator[bytes]:
    """The tuned file's bytes, piece by piece."""
    header = decompressed(delta.get_tensor(_HEADER), facts["header_bytes"]).tobytes()
    yield len(header).to_bytes(8, "little")
    yield header
    changed, names = facts["tensors"], set(delta.keys())
    for name, about in tensors_of(header).items():
        reference = base.reference(name, about)
        if name not in changed:
            yield reference.tobytes()
            continue
        order, ways = changed[name]["order"], changed[name]["ways"]
        codes = np.zeros(len(reference), dtype=reference.dtype)
        planes = codes.view(np.uint8).reshape(len(codes), codes.itemsize)
        for number, way in enumerate(ways):
            stem = f"{name}/{number}"
            read = {part: delta.get_tensor(stem + part) for part in ("", "/mask") if stem + part in names}
            planes[:, number] = unpacked(way, len(codes), read)
        if order == "exponent":
            back = np.empty_like(codes)
            back[by_exponent(reference, about.dtype)] = codes
            codes = back
        yield from_codes(codes, reference, about.dtype).tobytes()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to, moved to `path` when the context ends well."""
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    with storage_errors(f"write {path}"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
