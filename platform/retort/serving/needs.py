"""What search needs of encoders and indices, as protocols: the small world of fakes.py has them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Side = Literal["query", "passage"]


class QueryEncoder(Protocol):
    """What search needs of an encoder; models.DualEncoder is one."""

    @property
    def dimension(self) -> int:
        """Length of its vectors."""

    @property
    def normalise(self) -> bool:
        """Whether they have length 1, so that scores are cosines."""

    def encode(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        """[n, dimension] float32, in the order of `texts`."""

    def tokenize(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Token ids of each text."""


class Hits(Protocol):
    """What an index finds; indexing.merge.Hits is one."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """Scores [n, k]."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Corpus rows [n, k], -1 where there are no more."""


class VectorIndex(Protocol):
    """What search needs of an index; indexing.search.ShardedIndex is one."""

    def __len__(self) -> int:
        """Passages in it."""

    def search(self, vectors: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None) -> Hits:
        """Scores and corpus rows [n, k], best first, ties by passage id; row -1 where there are no more.

        `allowed` [corpus rows] says which may be found; None: all.
        """


@runtime_checkable
class Leaky(Protocol):
    """An index whose shards may be late; scattered.ScatteredIndex is one."""

    def take_missing(self) -> list[int]:
        """Shards left out in this thread's searches since the last call."""
