"""Small caches of one release: query vectors by encoder and text, answers by everything that decides them.

They go with their release, so nothing in them can be out of date.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Value = TypeVar("Value")

_VECTORS_PER_ANSWER = 4
_HITS_PER_ANSWER = 16


class VectorCache:
    """The most recently used query vectors. Safe from several threads; `size` 0 keeps nothing."""

    def __init__(self, size: int) -> None:
        self._kept: LRUCache[tuple[str, str], Vectors] = LRUCache(max(1, size))
        self._size = size
        self._lock = threading.Lock()

    def encode(self, encoder: str, texts: Sequence[str], encode: Callable[[Sequence[str]], Vectors]) -> Vectors:
        """[n, dimension] float32 of `texts`: kept ones, and the rest by one call of `encode`."""
        if self._size == 0:
            return encode(texts)
        with self._lock:
            found = {text: kept for text in texts if (kept := self._kept.get((encoder, text))) is not None}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            made = encode(missing)
            found.update(zip(missing, made, strict=True))
            with self._lock:
                for text, vector in zip(missing, made, strict=True):
                    self._kept[encoder, text] = vector.copy()  # not the whole batch behind one row
        return np.stack([found[text] for text in texts])


class AnswerCache(Generic[Value]):
    """The most recently used answers, on one event loop; `size` 0 keeps nothing.

    Bounded by the hits in them, so that a few requests for a thousand hits each cannot fill the memory.
    """

    def __init__(self, size: int) -> None:
        self._most = _HITS_PER_ANSWER * size
        self._kept: LRUCache[Hashable, tuple[Value, int]] = LRUCache(max(1, self._most), getsizeof=lambda item: item[1])

    @property
    def keeps(self) -> bool:
        """Whether it keeps anything at all."""
        return self._most > 0

    def get(self, key: Hashable) -> Value | None:
        """The answer, if it is kept."""
        found = self._kept.get(key)
        return found[0] if found else None

    def put(self, key: Hashable, value: Value, hits: int) -> None:
        """Keep an answer of so many hits, unless it alone would push out many others."""
        if hits <= self._most // 8:
            self._kept[key] = (value, max(1, hits))


def vectors_for(answers: int) -> int:
    """Query vectors to keep beside so many answers: pages and filters of one query share its vector."""
    return _VECTORS_PER_ANSWER * answers
