"""Opening releases: everything one names is loaded, checked to belong together, and warmed up.

Parts keeps what is open by digest, so that two releases that share an index, a corpus or an encoder share it in memory,
and a change of the rest takes milliseconds. What no release holds any more is let go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

from retort.errors import IncompatibleError
from retort.releases.masks import hidden_rows
from retort.releases.promote import check_rows
from retort.releases.release import ArtefactRef, Release, passage_space_of
from retort.serving.canaries import check_canaries, check_own_queries
from retort.serving.corpus_view import CorpusView
from retort.serving.needs import QueryEncoder
from retort.serving.searcher import Searcher
from retort.store import Artefact, Store

__all__ = ["Parts", "open_release"]

Part = TypeVar("Part")


class Parts:
    """What is open in this process, by kind and digest. Safe from several threads."""

    def __init__(
        self,
        store: Store,
        threads: int = 1,
        device: str | None = None,
        *,
        backend: Literal["torch", "onnx", "onnx-int8"] = "torch",
        kept_vectors: int = 0,
        open_index: Callable[[Artefact], Any] | None = None,
    ) -> None:
        """`open_index` opens what searches in place of a ShardedIndex of this process."""
        self._backend, self._open_index = backend, open_index
        self._store, self._threads, self._device, self._kept_vectors = store, threads, device, kept_vectors
        self._open: WeakValueDictionary[tuple[str, str], Any] = WeakValueDictionary()
        self._passed: set[tuple[str, str]] = set()  # (index, encoder) digests whose check need not be made again
        self._spaces: dict[str, str] = {}
        self._lock = threading.Lock()

    def open(self, release: Release) -> Searcher:
        """Load what is not open yet, check that it belongs together, answer canary queries.

        Raises NotFoundError, CorruptError or IncompatibleError; the sentence says what was wrong.
        """
        with self._lock:
            index = self._shared(release.index, self._load_index)
            corpus = self._shared(release.corpus, self._load_corpus)
            check_rows(release, index, corpus.passages)
            passages: Any = corpus.passages
            hidden = hidden_rows(self._store, release, passages)
            encoders: dict[str, QueryEncoder] = {}
            for name, ref in release.encoders.items():
                self._check_space(ref, index.passage_space)
                encoders[name] = self._shared(ref, self._load_encoder)
            whole = Searcher(encoders, release.default_encoder, index, corpus)
            searcher = Searcher(
                encoders,
                release.default_encoder,
                index if hidden is None else index.hiding(hidden),
                corpus,
                words=self._shared(release.corpus, self._load_words, "bm25") if release.bm25 else None,
                reranker=self._shared(release.reranker, self._load_teacher) if release.reranker else None,
                shown=None if hidden is None else ~hidden,
                kept_vectors=self._kept_vectors,
            )
            searcher.warm_up()
            for name, ref in release.encoders.items():
                if (pair := (release.index.digest, ref.digest)) not in self._passed:
                    check_own_queries(whole, name)  # hidden passages do not find themselves
                    self._passed.add(pair)
            check_canaries(searcher, release.canaries)
            return searcher

    def _shared(self, ref: ArtefactRef, load: Callable[[Artefact], Part], what: str | None = None) -> Part:
        key = (what or ref.kind, ref.digest)
        found: Part | None = self._open.get(key)
        if found is None:
            found = load(ref.find(self._store))
            self._open[key] = found
        return found

    def _load_index(self, artefact: Artefact) -> Any:
        if self._open_index is not None:
            return self._open_index(artefact)
        from retort.indexing.search import ShardedIndex

        return ShardedIndex.open(artefact, threads=self._threads)

    def _load_corpus(self, artefact: Artefact) -> CorpusView:
        from retort.corpus.lookup import Passages

        return CorpusView(Passages.open(artefact))

    def _load_encoder(self, artefact: Artefact) -> Any:
        from retort.models.dual_encoder import DualEncoder

        return DualEncoder.load(artefact.local(), device=self._device, backend=self._backend).pack(for_queries=True)

    def _load_words(self, artefact: Artefact) -> Any:
        from retort.mining.bm25 import Bm25

        return Bm25.open(artefact)

    def _load_teacher(self, artefact: Artefact) -> Any:
        from retort.models.cross_encoder import CrossEncoder

        return CrossEncoder.load(artefact.local(), device=self._device)

    def _check_space(self, ref: ArtefactRef, wanted: str) -> None:
        # Before weights are loaded (a manifest says it): scores across two spaces would be silent nonsense.
        if ref.digest not in self._spaces:
            self._spaces[ref.digest] = passage_space_of(ref.find(self._store))
        space = self._spaces[ref.digest]
        if space != wanted:
            raise IncompatibleError(
                f"Query encoder {ref.name!r} scores in passage space {space[:12]}, the index is in {wanted[:12]}. "
                "Promote an encoder that fits this index, or embed and index the corpus again with this one."
            )


def open_release(release: Release, store: Store, threads: int = 1, device: str | None = None) -> Searcher:
    """One release, opened by itself; errors as `Parts.open`."""
    return Parts(store, threads, device).open(release)
