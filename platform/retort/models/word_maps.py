"""The word-level map of a (query, passage) pair: which passage words a teacher's query words look at, and back.

    WordMap           one pair's map, compact; to_bytes / from_bytes / dense
    word_maps_of      dense maps of a batch -> WordMaps
    collate           WordMaps -> padded tensors for a loss; `restrict` leaves out words that a student does not see

Kept are the passage words that are among some query word's k largest (their union: query words share them, so that it
is little larger than k), and for these words every weight in both directions. What a query word gives to the rest of
the passage is one bucket, implied by the sum. Weights are stored as square roots in five bits: at k = 8 a map of a
query of ten words takes 167 bytes on average, and the KL divergence from the unrounded map is 0.003 nats a row (of 2.9
nats entropy); four bits give 136 bytes and 0.015, six bits 197 and 0.0007, and linear five-bit steps 0.044.
Letters: b pairs, q query words, p passage words, k kept passage words of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retort.errors import CorruptError

__all__ = ["WordMap", "WordMapBatch", "collate", "restrict", "word_maps_of"]

VERSION = 1
BITS = 5
_STEPS = (1 << BITS) - 1
_SHIFTS = np.arange(BITS - 1, -1, -1, dtype=np.uint8)


@dataclass(frozen=True)
class WordMap:
    """One pair's map. Passage words are numbered from the start of the whole passage, windows or not."""

    query_words: int  # the teacher saw query words 0..query_words-1
    first: int  # and passage words first..stop-1
    stop: int
    words: NDArray[np.int32]  # [k] kept passage words, ascending
    to_passage: NDArray[np.float32]  # [q, k]; a row sums to 1 less the remainder; all zero where the word had no token
    to_query: NDArray[np.float32]  # [k, q]; a row sums to 1, or is zero

    @property
    def remainder(self) -> NDArray[np.float32]:
        """What each query word gives to the passage words that are not kept, [q]; 0 for rows that are all zero."""
        given = self.to_passage.sum(axis=1)
        rest = np.clip(1 - given, 0, 1) if len(self.words) < self.stop - self.first else np.zeros_like(given)
        return np.where(given > 0, rest, 0).astype(np.float32)

    def dense(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return (to passage [q, p], to query [p, q]) over words first..stop-1; remainders are spread evenly, rows of
        words not kept are zero."""
        p = self.stop - self.first
        forward = np.zeros((self.query_words, p), dtype=np.float32)
        backward = np.zeros((p, self.query_words), dtype=np.float32)
        others = p - len(self.words)
        if others:
            forward += (self.remainder / others)[:, None]
        forward[:, self.words - self.first] = self.to_passage
        backward[self.words - self.first] = self.to_query
        return forward, backward

    def to_bytes(self) -> bytes:
        """Return the stored form: version, four numbers, the kept words, the weights.

        Numbers are LEB128 varints. Kept words are a bit mask over first..stop-1, or gaps as varints where these are
        shorter.
        """
        k = len(self.words)
        head = bytearray([VERSION])
        for number in (self.query_words, self.first, self.stop - self.first, k):
            _put(head, number)
        places = self.words - self.first
        if _as_mask(self.stop - self.first, k):
            mask = np.zeros(self.stop - self.first, dtype=bool)
            mask[places] = True
            head += np.packbits(mask).tobytes()
        else:
            for gap in np.diff(places, prepend=0).tolist():
                _put(head, gap)
        weights = np.concatenate([self.to_passage.reshape(-1), self.to_query.reshape(-1)])
        codes = np.rint(np.sqrt(np.clip(weights, 0, 1)) * _STEPS).astype(np.uint8)
        return bytes(head) + np.packbits((codes[:, None] >> _SHIFTS) & 1).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> WordMap:
        """Read `to_bytes` back; weights are those that were stored, rounded.

        Raises:
            CorruptError: not a map, or one of another version.
        """
        if not data or data[0] != VERSION:
            raise CorruptError(
                f"A word map begins with {data[:1]!r}: expected version {VERSION}. Score the candidates again with "
                "this version."
            )
        try:
            return cls._read(data)
        except (IndexError, ValueError):
            raise CorruptError(
                f"A word map of {len(data)} bytes is cut short or damaged. Score its part again."
            ) from None

    @classmethod
    def _read(cls, data: bytes) -> WordMap:
        at = 1
        numbers = []
        for _ in range(4):
            number, at = _get(data, at)
            numbers.append(number)
        q, first, p, k = numbers
        if k > p:
            raise ValueError(k)
        if _as_mask(p, k):
            size = -(-p // 8)
            places = np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8, size, at), count=p))
            at += size
        else:
            gaps = []
            for _ in range(k):
                gap, at = _get(data, at)
                gaps.append(gap)
            places = np.cumsum(gaps, dtype=np.int64)
        bits = np.unpackbits(np.frombuffer(data, np.uint8, -(-2 * q * k * BITS // 8), at), count=2 * q * k * BITS)
        codes = bits.reshape(-1, BITS) @ (1 << _SHIFTS.astype(np.int64))  # [2 q k]
        weights = ((codes / _STEPS) ** 2).astype(np.float32)
        forward = weights[: q * k].reshape(q, k)
        total = forward.sum(axis=1, keepdims=True)
        # Rounding may have raised a row above 1, and a row over all words of the passage sums to 1 by definition.
        scale = total if k == p else np.maximum(total, 1)
        backward = weights[q * k :].reshape(k, q)
        return cls(
            query_words=q,
            first=first,
            stop=first + p,
            words=(places + first).astype(np.int32).reshape(k),
            to_passage=(forward / np.where(scale > 0, scale, 1)).astype(np.float32),
            to_query=(backward / np.maximum(backward.sum(axis=1, keepdims=True), 1e-9)).astype(np.float32),
        )


def word_maps_of(
    to_passage: Tensor,
    to_query: Tensor,
    query_words: NDArray[np.integer],
    passage_words: NDArray[np.integer],
    first: NDArray[np.integer],
    k: int,
) -> list[WordMap]:
    """Return the compact maps of a batch of dense ones.

    Args:
        to_passage: [b, q, p], rows sum to 1 or are zero; zero beyond a pair's own words.
        to_query: [b, p, q], likewise.
        query_words: [b] query words of each pair.
        passage_words: [b] passage words of each pair, counted from its first.
        first: [b] number of each pair's first passage word in its whole passage.
        k: passage words kept for each query word.
    """
    values, places = to_passage.topk(min(k, to_passage.shape[2]), dim=2)  # [b, q, k]
    # Words without weight are not kept: where k exceeds the words that got any, topk fills up at random.
    kept = torch.zeros(to_passage.shape[0], to_passage.shape[2], device=to_passage.device)  # [b, p]
    kept.scatter_reduce_(1, places.flatten(1), (values > 0).float().flatten(1), "amax")
    keep, forward, backward = kept.cpu().numpy() > 0, to_passage.cpu().numpy(), to_query.cpu().numpy()
    maps = []
    for i, (q, p, start) in enumerate(zip(query_words.tolist(), passage_words.tolist(), first.tolist(), strict=True)):
        chosen = np.flatnonzero(keep[i])
        maps.append(
            WordMap(
                query_words=q,
                first=start,
                stop=start + p,
                words=(chosen + start).astype(np.int32),
                to_passage=forward[i, :q, chosen].T.copy(),  # an index array between slices moves to the front: [k, q]
                to_query=backward[i, chosen, :q].copy(),
            )
        )
    return maps


@dataclass(frozen=True)
class WordMapBatch:
    """Maps of b pairs, padded; targets of the word-level loss in both directions."""

    index: Tensor  # [b, q, k] int64 passage words of each entry, -1 in padding
    weight: Tensor  # [b, q, k] float32
    rest: Tensor  # [b, q] float32, mass outside the entries
    rows: Tensor  # [b, k] int64 passage words that have a row to the query, -1 in padding
    row_weight: Tensor  # [b, k, q] float32
    query_words: Tensor  # [b] int64, how many query words the teacher saw
    seen: Tensor  # [b, 2] int64, the half-open range of passage words that the teacher saw


def collate(maps: Sequence[WordMap | None]) -> WordMapBatch:
    """Pad maps to tensors; None (no map) becomes a pair without rows."""
    b = len(maps)
    q = max((one.query_words for one in maps if one is not None), default=0)
    k = max((len(one.words) for one in maps if one is not None), default=0)
    rows = np.full((b, k), -1, dtype=np.int64)
    weight = np.zeros((b, q, k), dtype=np.float32)
    row_weight = np.zeros((b, k, q), dtype=np.float32)
    rest = np.zeros((b, q), dtype=np.float32)
    sizes = np.zeros((b, 3), dtype=np.int64)
    for i, one in enumerate(maps):
        if one is None:
            continue
        n, m = one.query_words, len(one.words)
        rows[i, :m] = one.words
        weight[i, :n, :m] = one.to_passage
        row_weight[i, :m, :n] = one.to_query
        rest[i, :n] = one.remainder
        sizes[i] = n, one.first, one.stop
    words = torch.from_numpy(rows)
    return WordMapBatch(
        index=words.unsqueeze(1).expand(b, q, k).contiguous(),
        weight=torch.from_numpy(weight),
        rest=torch.from_numpy(rest),
        rows=words,
        row_weight=torch.from_numpy(row_weight),
        query_words=torch.from_numpy(sizes[:, 0]),
        seen=torch.from_numpy(sizes[:, 1:]),
    )


def restrict(batch: WordMapBatch, query_present: Tensor, passage_present: Tensor) -> WordMapBatch:
    """Leave out words without a student's token (cut off, or dropped by its tokenizer) and renormalise what stays.

    A query word that is absent loses its row, a passage word its entries and its row; each direction's rows sum to 1
    again, or are zero.

    Args:
        batch: targets.
        query_present: [b, q] bool, at least as wide as the targets.
        passage_present: [b, p] bool.
    """
    b, q, k = batch.index.shape
    query = query_present[:, :q]
    inside = (batch.rows >= 0) & (batch.rows < passage_present.shape[1])
    if passage_present.shape[1]:
        inside = inside & passage_present.gather(1, batch.rows.clamp(0, passage_present.shape[1] - 1))
    else:
        inside = torch.zeros_like(inside)
    both = query.unsqueeze(2) & inside.unsqueeze(1)  # [b, q, k]
    weight = batch.weight * both
    # A bucket only where the student has words outside the entries: in the range that the teacher saw.
    number = torch.arange(passage_present.shape[1], device=passage_present.device)
    seen = (number >= batch.seen[:, :1]) & (number < batch.seen[:, 1:]) & passage_present  # [b, p]
    rest = batch.rest * query * (seen.sum(dim=1) > inside.sum(dim=1)).unsqueeze(1)
    # Without any entry left a row says nothing about words.
    rest = rest * (weight.sum(dim=2) > 0)
    total = (weight.sum(dim=2) + rest).clamp(min=1e-9)  # [b, q]
    row_weight = batch.row_weight * both.transpose(1, 2)
    return WordMapBatch(
        index=torch.where(inside.unsqueeze(1).expand(b, q, k), batch.index, -1),
        weight=weight / total.unsqueeze(2),
        rest=rest / total,
        rows=torch.where(inside, batch.rows, -1),
        row_weight=row_weight / row_weight.sum(dim=2, keepdim=True).clamp(min=1e-9),
        query_words=batch.query_words,
        seen=batch.seen,
    )


def _as_mask(p: int, k: int) -> bool:
    """Whether a bit mask over p words is no longer than k gaps of a byte."""
    return p <= 8 * k


def _put(out: bytearray, number: int) -> None:
    """Append an unsigned LEB128 varint."""
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _get(data: bytes, at: int) -> tuple[int, int]:
    """Return (number, place after it)."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
