"""Reading judgements: what a teacher said about each query's candidates, query by query, in bounded memory.

`teaching/score.py` writes them, `mining/` and `distillation/` read them through this file. The Parquet parts are turned
into one uncompressed Arrow file in the node cache, once per machine; after that a group is a few memory-mapped pages, so
that access in any order (shuffled batches) costs no more than access in file order.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.errors import NotFoundError
from retort.store import Artefact, cache_root
from retort.store.schemas import JUDGEMENT

__all__ = ["JudgedGroup", "Judgements"]


@dataclass(frozen=True)
class JudgedGroup:
    """One query's judgements, in the order of its candidates (labelled passages included)."""

    query_id: str
    passage_ids: list[str]  # n
    scores: NDArray[np.float32]  # [n] raw logits
    trust: NDArray[np.float32]  # [n] in [0, 1]
    windows: NDArray[np.int16]  # [n] which window of a long passage the judgement is about, from 0
    word_maps: list[bytes | None]  # n; see models/word_maps.py; None where the word level was off

    def __len__(self) -> int:
        return len(self.passage_ids)


class Judgements:
    """All judgements of an artefact; `judgements[i]` is the group of `judgements.query_ids[i]`."""

    def __init__(self, path: Path) -> None:
        """Map an Arrow file made by `open`."""
        # RecordBatchFileReader keeps the map open; batches are views of it.
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._path = path
        self.query_ids: list[str] = []
        self.pairs = 0
        places: list[NDArray[np.int64]] = []
        for number in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(number)
            self.pairs += batch.num_rows
            starts = _group_starts(batch.column("query_id"))
            stops = np.append(starts[1:], batch.num_rows)
            self.query_ids.extend(batch.column("query_id").take(pa.array(starts)).to_pylist())
            places.append(np.stack([np.full(len(starts), number), starts, stops], axis=1).reshape(-1, 3))
        self._places = np.concatenate(places) if places else np.zeros((0, 3), dtype=np.int64)
        self._index = {query: i for i, query in enumerate(self.query_ids)}

    @classmethod
    def open(cls, artefact: Artefact) -> Judgements:
        """Open a judgements artefact; the first time on a machine, copy it to the node cache in mappable form."""
        target = cache_root() / "judgements" / f"{artefact.digest}.arrow"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_suffix(f".{uuid.uuid4().hex[:8]}.part")
            try:
                with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, JUDGEMENT) as writer:
                    for part in artefact.parts():
                        # One batch per part: a query lies in one part, so it lies in one batch.
                        for batch in artefact.part(part).select(JUDGEMENT.names).combine_chunks().to_batches():
                            writer.write_batch(batch)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        return cls(target)

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.query_ids)

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._index

    def __iter__(self) -> Iterator[JudgedGroup]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> JudgedGroup:
        number, start, stop = (int(value) for value in self._places[i])
        rows = self._reader.get_batch(number).slice(start, stop - start)
        return JudgedGroup(
            query_id=self.query_ids[i],
            passage_ids=rows.column("passage_id").to_pylist(),
            scores=rows.column("score").to_numpy(zero_copy_only=False).astype(np.float32),
            trust=rows.column("trust").to_numpy(zero_copy_only=False).astype(np.float32),
            windows=rows.column("window").to_numpy(zero_copy_only=False).astype(np.int16),
            word_maps=rows.column("word_map").to_pylist(),
        )

    def group(self, query_id: str) -> JudgedGroup:
        """Return one query's judgements.

        Raises:
            NotFoundError: the query was not judged.
        """
        if query_id not in self._index:
            raise NotFoundError(
                f"Query {query_id!r} has no judgements in {self._path.stem[:12]}; expected one of its {len(self)} queries."
            )
        return self[self._index[query_id]]


def _group_starts(query_ids: pa.Array) -> NDArray[np.int64]:
    """Return the rows where another query begins; [groups] int64."""
    if len(query_ids) == 0:
        return np.zeros(0, dtype=np.int64)
    codes = query_ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return np.flatnonzero(np.concatenate([[True], np.diff(codes) != 0])).astype(np.int64)
