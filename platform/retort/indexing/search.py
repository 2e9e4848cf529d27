"""ShardedIndex: all shards of an index artefact searched as one.

    index = ShardedIndex.open(artefact, threads=1)
    hits = index.search(vectors, k)             scores [n, k], rows [n, k]
    index.passage_ids(hits.rows[0])             the user's ids; texts come from corpus/lookup.py

Row i is passage i of the corpus that was embedded, in its order. index.json (layout 2) may name shards of an earlier index
(`artefact`) with a map from their positions to rows of this corpus (`rows`); such a partial index takes its passage ids from
its embeddings.
"""

from __future__ import annotations

import copy
import io
import math
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retort.errors import CorruptError, IncompatibleError, InputError, NotFoundError
from retort.indexing.faiss_library import faiss
from retort.indexing.merge import Hits, merge_shards
from retort.indexing.opening import Shard, verified
from retort.indexing.refine import Candidates, Refiner
from retort.indexing.vectors import Similarity, VectorStore
from retort.store import Artefact, Store, cache_root
from retort.store.files import storage_errors

__all__ = ["Hits", "PassageIds", "ShardedIndex", "checked_queries", "holder_of"]

NEWEST_LAYOUT = 2


class PassageIds:
    """Passage ids by row, memory-mapped: shared between processes, nothing held per id."""

    def __init__(self, path: Path) -> None:
        """Map an Arrow file made by `write`."""
        self._chunks = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("passage_id").chunks
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks], dtype=np.int64)

    @classmethod
    def open(cls, name: str, tables: Sequence[Callable[[], pa.Table]], count: int, what: str) -> Self:
        """Map the ids called `name` in the node cache, made there if absent from `tables` (each read in turn, with a column passage_id).

        Raises CorruptError if they are not `count`.
        """
        target = cache_root() / "ids" / f"{name}.arrow"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{target.stem}.{uuid.uuid4().hex[:8]}.part")
            schema = pa.schema([pa.field("passage_id", pa.large_string())])
            try:
                with storage_errors(f"write passage ids to the node cache {target.parent}"):
                    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                        for read in tables:
                            writer.write_table(read().select(["passage_id"]).cast(schema))
                    temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        ids = cls(target)
        if len(ids) != count:
            target.unlink(missing_ok=True)
            raise CorruptError(f"{what} has {len(ids)} passage ids for {count} vectors. Make it again.")
        return ids

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def at(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of these rows."""
        # Not `take`: on a chunked column of strings it copies all of it, 2 ms for a million ids.
        places = np.searchsorted(self._ends, rows, side="right").tolist()
        return [
            self._chunks[place][row - (int(self._ends[place - 1]) if place else 0)].as_py()
            for place, row in zip(places, rows.tolist(), strict=True)
        ]


def checked_queries(vectors: NDArray[np.float32], k: int, dimension: int, what: object) -> NDArray[np.float32]:
    """Query vectors as contiguous float32 [n, dimension].

    Raises IncompatibleError for another dimension, InputError for NaN or infinity or k < 1.
    """
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1.")
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise IncompatibleError(
            f"Query vectors of shape {list(vectors.shape)} do not fit {what}, whose vectors have {dimension} dimensions. "
            "Use a query encoder of the same passage space."
        )
    queries = np.ascontiguousarray(vectors, dtype=np.float32)
    # A sum of squares is finite only if all values are; it may overflow where they are, so it decides nothing alone.
    if not math.isfinite(np.vdot(queries, queries)) and not np.isfinite(queries).all():
        row = int(np.flatnonzero(~np.isfinite(queries).all(axis=1))[0])
        raise InputError(f"Query vector {row} holds NaN or infinity. Look at the query encoder that made it.")
    return queries


class ShardedIndex:
    """An opened index; safe to search from several threads."""

    def __init__(
        self,
        artefact: Artefact,
        description: dict[str, Any],
        shards: list[Shard],
        ids: PassageIds,
        threads: int,
        refiner: Refiner | None = None,
        foreign_bytes: int = 0,
    ) -> None:
        """Take opened shards; use `open`."""
        self._foreign_bytes = foreign_bytes
        self._artefact, self._shards, self._ids, self._threads = artefact, shards, ids, threads
        self._refiner = refiner
        self.description = description
        self.dimension = int(description["dimension"])
        self.similarity: Similarity = description["similarity"]
        self.passage_space = str(description["passage_space"])
        self.exact = bool(description["exact"])
        self._whole: ShardedIndex | None = None
        pooled = threads > 1 and len(shards) > 1
        self._pool = (
            ThreadPoolExecutor(min(threads, len(shards)), thread_name_prefix="retort-shard") if pooled else None
        )

    @classmethod
    def open(cls, artefact: Artefact, threads: int = 1, shards: Collection[int] | None = None) -> Self:
        """Verify every file (once per machine), map the shards.

        Args:
            artefact: of kind index.
            threads: FAISS threads of each search.
            shards: numbers of the shards to open, for a process that holds a part of the index; None: all.

        Raises:
            InputError: another kind of artefact. CorruptError: a shard is missing, or its bytes are not those published;
            names the shard.
        """
        if artefact.kind != "index":
            raise InputError(
                f"{artefact} is of kind {artefact.kind}; an index is needed here (retort index makes one)."
            )
        verified(artefact, "index.json")
        description = artefact.json("index.json")
        if description.get("layout", 1) > NEWEST_LAYOUT:
            raise InputError(
                f"{artefact} has layout {description['layout']}, this version of Retort reads up to {NEWEST_LAYOUT}. Use the version that made it, or a newer one."
            )
        refiner = _refiner(artefact, int(description["search"].get("refine", 0)))
        entries = [entry for number, entry in enumerate(description["shards"]) if shards is None or number in shards]
        opened = []
        for entry in entries:
            holder = holder_of(artefact, entry)
            opened.append(
                Shard(
                    verified(holder, entry["file"]),
                    f"{holder}, {entry['file']}",
                    first_row=entry["first_row"],
                    count=entry["count"],
                    dimension=description["dimension"],
                    exact=description["exact"],
                    settings=description["search"],
                    rows=_row_map(artefact, entry),
                    store=None if refiner is None else refiner.store,
                )
            )
        foreign_bytes = sum(
            shard.size_bytes for shard, entry in zip(opened, entries, strict=True) if "artefact" in entry
        )
        ids = _passage_ids(artefact, description)
        return cls(artefact, description, opened, ids, threads, refiner, foreign_bytes)

    def look(self, settings: Mapping[str, int]) -> None:
        """Search with these settings (nprobe or efSearch, refine) from now on; for measuring, not while others search."""
        for shard in self._shards:
            shard.look(settings)
        if "refine" in settings:
            store = None if self._refiner is None else self._refiner.store
            self._refiner = _refiner(self._artefact, settings["refine"], store)

    def hiding(self, hidden: NDArray[np.bool_]) -> Self:
        """This index, its open files shared, without the rows that are true in `hidden` [count]."""
        _check_mask(hidden, len(self), self._artefact)
        view = copy.copy(self)
        view._shards = [shard.hiding(hidden) for shard in self._shards]
        view._whole = self  # who keeps open indexes weakly must see that this one is in use
        return view

    def __len__(self) -> int:
        return int(self.description["count"])

    @property
    def shard_count(self) -> int:
        """Shards that are open."""
        return len(self._shards)

    @property
    def index_bytes(self) -> int:
        """Bytes of all its files on disk, those that it shares with an earlier index included."""
        return self._artefact.size_bytes + self._foreign_bytes

    @property
    def mapped_bytes(self) -> int:
        """Bytes of shards that processes on one machine share."""
        return sum(shard.size_bytes for shard in self._shards if shard.mapped)

    @property
    def private_bytes(self) -> int:
        """Bytes of shards that each process holds for itself, because FAISS cannot map their kind (fast-scan)."""
        return sum(shard.size_bytes for shard in self._shards if not shard.mapped)

    def search(self, vectors: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None) -> Hits:
        """The k best rows of each query vector, best first, equal scores by passage id.

        Args:
            vectors: [n, dimension] float32.
            k: hits wanted; where there are fewer, rows are -1 and scores -inf.
            allowed: [count] true for rows that may be found; None: all that are not hidden.

        Raises IncompatibleError for vectors of another dimension, InputError for NaN, infinity, k < 1 or a mask of another length.
        """
        queries = checked_queries(vectors, k, self.dimension, self._artefact)
        depth = self.depth(k, allowed)
        found = self._found(queries, depth, allowed)
        if self._refiner is not None:
            found = [self._refiner.rescored(queries, found, depth)]
        return merge_shards(found, k, self.passage_ids)

    def depth(self, k: int, allowed: NDArray[np.bool_] | None = None) -> int:
        """How many candidates a search for k hits looks at: k, unless the index refines."""
        return k if self._refiner is None else self._refiner.depth(k, allowed)

    def candidates(
        self, vectors: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_] | None = None
    ) -> Candidates:
        """What the open shards have to say to a search of all of them: their best `depth`, to be joined with others'.

        Arguments and errors as `search`.
        """
        queries = checked_queries(vectors, depth, self.dimension, self._artefact)
        found = self._found(queries, depth, allowed)
        if self._refiner is not None:
            return self._refiner.candidates(queries, found, depth)
        scores, rows = merge_shards(found, depth, self.passage_ids)
        return Candidates(scores, rows, scores)

    def joined(self, parts: Sequence[Candidates], k: int, depth: int) -> Hits:
        """The hits of a search, from what the parts of the index had to say (`candidates`): bit by bit those of `search` over all of it."""
        if self._refiner is None:
            return merge_shards([Hits(part.scores, part.rows) for part in parts], k, self.passage_ids)
        best = Candidates.joined(parts).best(depth)
        return merge_shards([Hits(best.scores, best.rows)], k, self.passage_ids)

    def _found(self, queries: NDArray[np.float32], depth: int, allowed: NDArray[np.bool_] | None) -> list[Hits]:
        """The best `depth` of each shard, by the scores that it keeps."""
        if allowed is not None:
            _check_mask(allowed, len(self), self._artefact)
        # One query is one thread's work inside FAISS; several threads help it only by taking a shard each.
        if self._pool is not None and len(queries) == 1:
            return list(self._pool.map(lambda shard: _search_with(shard, queries, depth, 1, allowed), self._shards))
        return [_search_with(shard, queries, depth, self._threads, allowed) for shard in self._shards]

    def passage_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The user's passage ids of these rows (none may be -1)."""
        return self._ids.at(rows)


def _search_with(
    shard: Shard, queries: NDArray[np.float32], k: int, threads: int, allowed: NDArray[np.bool_] | None
) -> Hits:
    # OpenMP keeps this number per calling thread, so it is set where the search runs.
    faiss.omp_set_num_threads(threads)
    return shard.search(queries, k, allowed)


def _check_mask(mask: NDArray[np.bool_], count: int, artefact: Artefact) -> None:
    if mask.shape != (count,) or mask.dtype != np.bool_:
        raise InputError(
            f"{artefact} has {count} passages; a mask over them has shape {list(mask.shape)} of {mask.dtype}, expected [{count}] of bool."
        )


def holder_of(artefact: Artefact, entry: dict[str, Any]) -> Artefact:
    """The artefact that holds a shard's file: this one, or the earlier one that index.json names."""
    named = entry.get("artefact")
    if named is None:
        return artefact
    found = Store(artefact.store_area()).find("index", named["key"])
    if found is None:
        raise NotFoundError(
            f"{artefact} shares shard {entry['file']} with index {named['key'][:12]}, which is not in {artefact.store_area().uri}. "
            "Restore that index, or build this one whole: retort index."
        )
    if found.digest != named["digest"]:
        raise CorruptError(
            f"{artefact} shares shard {entry['file']} with index {named['key'][:12]} of digest {named['digest'][:12]}; the store has {found.digest[:12]} there. "
            "Build this index whole: retort index."
        )
    return found


def _row_map(artefact: Artefact, entry: dict[str, Any]) -> NDArray[np.int64] | None:
    """The map from positions of a shard to rows, memory-mapped; None where there is none."""
    if "rows" not in entry:
        return None
    rows: NDArray[np.int64] = np.load(verified(artefact, entry["rows"]), mmap_mode="r", allow_pickle=False)
    if rows.dtype != np.int64:
        raise CorruptError(f"{artefact}, {entry['rows']} holds {rows.dtype}; expected int64. Make the index again.")
    return rows


def _refiner(artefact: Artefact, factor: int, store: VectorStore | None = None) -> Refiner | None:
    """What scores `factor` candidates a hit exactly, by the vectors of the embeddings that the index is bound to; None for 0."""
    if not factor:
        return None
    return Refiner(VectorStore.open(artefact.input("embeddings")) if store is None else store, factor)


def _passage_ids(artefact: Artefact, description: dict[str, Any]) -> PassageIds:
    count, entries = description["count"], description["shards"]
    if any("rows" in entry or "artefact" in entry for entry in entries):
        embeddings = artefact.input("embeddings")
        readers = [lambda part=part: embeddings.part(part, columns=["passage_id"]) for part in embeddings.parts()]
        return PassageIds.open(embeddings.digest, readers, count, str(embeddings))
    tables = [_ids_reader(artefact, entry["ids"]) for entry in entries]
    return PassageIds.open(artefact.digest, tables, count, str(artefact))


def _ids_reader(artefact: Artefact, path: str) -> Callable[[], pa.Table]:
    def read() -> pa.Table:
        return pq.read_table(io.BytesIO(verified(artefact, path).read_bytes()), columns=["passage_id"])

    return read
