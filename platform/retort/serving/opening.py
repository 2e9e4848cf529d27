"""Opening a release: everything it names is loaded, checked to belong together, and warmed up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retort.errors import CorruptError
from retort.releases.release import Release
from retort.serving.searcher import QueryEncoder, Searcher
from retort.store import Store

if TYPE_CHECKING:
    from retort.corpus.lookup import Passages
    from retort.indexing.search import ShardedIndex

__all__ = ["open_release"]


def open_release(release: Release, store: Store, threads: int = 1, device: str | None = None) -> Searcher:
    """Load everything that a release names, check that it belongs together, and answer one query to warm up."""
    from retort.corpus.lookup import Passages
    from retort.indexing.search import ShardedIndex
    from retort.models.dual_encoder import DualEncoder

    index = ShardedIndex.open(release.index.find(store), threads=threads)
    passages = Passages.open(release.corpus.find(store))
    _check_rows(release, index, passages)
    encoders: dict[str, QueryEncoder] = {
        name: DualEncoder.load(ref.find(store).local(), device=device) for name, ref in release.encoders.items()
    }
    searcher = Searcher(encoders, release.default_encoder, index, passages)
    searcher.warm_up()
    return searcher


def _check_rows(release: Release, index: ShardedIndex, passages: Passages) -> None:
    """A row of the index is that row of the corpus: hits are fetched by row."""
    count = len(index)
    rows = np.unique(np.linspace(0, count - 1, num=min(count, 16), dtype=np.int64))
    if count != len(passages) or index.passage_ids(rows) != passages.ids_at(rows.tolist()):
        raise CorruptError(
            f"Index {release.index.name!r} ({count} passages) does not line up with corpus {release.corpus.name!r} ({len(passages)}). "
            "Embed and index the corpus again."
        )
