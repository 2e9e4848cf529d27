"""Reading embeddings: what they are, their vectors checked and as float32, and all of them memory-mapped.

    facts(embeddings)      dimension, count, similarity, passage space
    read_part(...)         one part's ids and vectors
    part_rows(...)         rows of each part, without reading them
    with_corpus(...)       the inputs of an index of these embeddings
    VectorStore            all vectors as one memory-mapped float16 matrix in the node cache

Vectors are stored as float16. Everything that scores them uses the same float32 values: cast, and for cosine divided by
their length again, which rounding to float16 moved by up to 1e-3. Row i is the corpus's row i.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retort.errors import CorruptError, InputError
from retort.store import Artefact, cache_root
from retort.store.files import storage_errors

__all__ = [
    "EmbeddingFacts",
    "Similarity",
    "VectorStore",
    "as_float32",
    "check_ids",
    "check_vectors",
    "facts",
    "part_rows",
    "read_part",
    "with_corpus",
]

Similarity = Literal["cosine", "inner_product"]
BLOCK_ROWS = 32768


@dataclass(frozen=True)
class EmbeddingFacts:
    """What an embeddings artefact says about itself."""

    count: int
    dimension: int
    similarity: Similarity
    passage_space: str


def facts(embeddings: Artefact) -> EmbeddingFacts:
    """Read from the manifest. InputError for another kind of artefact, or one without these facts."""
    if embeddings.kind != "embeddings":
        raise InputError(
            f"{embeddings} is of kind {embeddings.kind}; embeddings are needed here (retort embed makes them)."
        )
    metrics = embeddings.metrics
    missing = [name for name in ("count", "dimension", "similarity", "passage_space") if name not in metrics]
    if missing:
        raise InputError(f"{embeddings} does not say its {', '.join(missing)}. Make it again: retort embed.")
    return EmbeddingFacts(
        count=int(metrics["count"]),
        dimension=int(metrics["dimension"]),
        similarity=metrics["similarity"],
        passage_space=str(metrics["passage_space"]),
    )


def with_corpus(embeddings: Artefact) -> dict[str, Artefact]:
    """Embeddings and the corpus that they name, by role; NotFoundError where that is no longer in the store.

    A corpus of which only languages, sections or fields changed has embeddings of the same digest, and yet an index of its own: what
    is served and evaluated is found through the index.
    """
    named = any(record.role == "corpus" for record in embeddings.manifest.inputs)  # vectors from elsewhere name none
    return {"embeddings": embeddings, **({"corpus": embeddings.input("corpus")} if named else {})}


def part_rows(artefact: Artefact) -> list[tuple[str, int]]:
    """(part, rows) of each part in order, from the files' footers."""
    found = []
    for part in artefact.parts():
        with artefact.area.open(part) as handle, storage_errors(f"read {artefact.area.full(part)}"):
            found.append((part, pq.ParquetFile(handle).metadata.num_rows))
    return found


def read_part(
    embeddings: Artefact, part: str, dimension: int, similarity: Similarity, start: int = 0, stop: int | None = None
) -> tuple[pa.ChunkedArray, NDArray[np.float32]]:
    """Rows start to stop of a part: passage ids, and checked float32 vectors [rows, dimension].

    Raises InputError for vectors of another dimension, and as `check_vectors`.
    """
    table = embeddings.part(part, columns=["passage_id", "vector"])
    table = table.slice(start, None if stop is None else stop - start)
    where = f"{embeddings}, {part}"
    half = half_matrix(table.column("vector"), dimension, where)
    ids = table.column("passage_id")
    check_vectors(half, ids, where)
    return ids, as_float32(half, similarity)


def half_matrix(column: pa.ChunkedArray, dimension: int, where: str) -> NDArray[np.float16]:
    """A column of vectors as a float16 matrix [rows, dimension]; InputError for another dimension or type."""
    kind = column.type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float16() or kind.list_size != dimension:
        raise InputError(
            f"{where}: column 'vector' is {kind}; expected float16 vectors of {dimension} dimensions. "
            "Embed the corpus again with one encoder: retort embed."
        )
    flat: NDArray[np.float16] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), dimension)


def check_vectors(
    vectors: NDArray[np.float16] | NDArray[np.float32], ids: Sequence[str] | pa.ChunkedArray, where: str
) -> None:
    """InputError, naming the first passage, for a vector with NaN or infinity, or one that is zero."""
    finite = np.all(np.isfinite(vectors), axis=1)
    assert isinstance(finite, np.ndarray)
    bad: NDArray[np.bool_] = ~finite | (vectors == 0).all(axis=1)
    if not bad.any():
        return
    first = int(np.flatnonzero(bad)[0])
    named = ids[first].as_py() if isinstance(ids, pa.ChunkedArray) else ids[first]
    what = "is zero" if finite[first] else "holds NaN or infinity (float16 ends at 65504)"
    raise InputError(
        f"{where}: the vector of passage {named!r} {what}, as are {int(bad.sum()) - 1} others unfit for search. "
        "Look at the encoder that made them; a diverged training gives such vectors."
    )


def as_float32(vectors: NDArray[np.float16], similarity: Similarity) -> NDArray[np.float32]:
    """THE float32 values of stored vectors, [rows, dimension], contiguous."""
    values = np.ascontiguousarray(vectors, dtype=np.float32)
    if similarity == "cosine":
        # einsum and not BLAS: a row's length must not depend, in its last bit, on how many rows are at hand.
        values /= np.sqrt(np.einsum("nd,nd->n", values, values))[:, None]
    return values


class VectorStore:
    """All vectors of an embeddings artefact as one mapped float16 matrix; its pages are shared between processes."""

    def __init__(self, path: Path, facts: EmbeddingFacts) -> None:
        """Map a file made by `open`."""
        self._path, self.facts = path, facts
        # A plain array over the mapping: np.memmap's own bookkeeping costs as much as reading ten vectors.
        self.half: NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)

    def __reduce__(self) -> tuple[type[VectorStore], tuple[Path, EmbeddingFacts]]:
        return (type(self), (self._path, self.facts))

    @classmethod
    def open(cls, embeddings: Artefact) -> Self:
        """Map the vectors; the first time on a machine, copy them to the node cache. Errors as `read_part`."""
        known = facts(embeddings)
        target = cache_root() / "vectors" / f"{embeddings.digest}.npy"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{target.stem}.{uuid.uuid4().hex[:8]}.part")
            try:
                with storage_errors(f"write the vectors of {embeddings} to the node cache {target.parent}"):
                    _copy(embeddings, known, temporary)
                    temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        return cls(target, known)

    def __len__(self) -> int:
        return len(self.half)

    def rows(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Float32 vectors of these rows, [n, dimension]."""
        return as_float32(self.half[rows], self.facts.similarity)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32 vectors) of all rows in order, `rows` at a time."""
        for start in range(0, len(self.half), rows):
            yield start, self.rows(slice(start, start + rows))


def _copy(embeddings: Artefact, known: EmbeddingFacts, target: Path) -> None:
    shape = (known.count, known.dimension)
    matrix = np.lib.format.open_memmap(target, mode="w+", dtype=np.float16, shape=shape)
    done = 0
    for part in embeddings.parts():
        table = embeddings.part(part, columns=["passage_id", "vector"])
        half = half_matrix(table.column("vector"), known.dimension, f"{embeddings}, {part}")
        check_vectors(half, table.column("passage_id"), f"{embeddings}, {part}")
        if done + len(half) <= known.count:
            matrix[done : done + len(half)] = half
        done += len(half)
    if done != known.count:
        raise CorruptError(
            f"{embeddings} has {done} vectors, its manifest says {known.count}. Make it again: retort embed."
        )
    matrix.flush()


def check_ids(embeddings: Artefact) -> None:
    """InputError naming the first duplicate passage id."""
    ids = embeddings.table(columns=["passage_id"]).column("passage_id")
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counted = pc.value_counts(ids)
    twice = counted.filter(pc.greater(counted.field("counts"), 1)).field("values")
    raise InputError(
        f"{embeddings} has {len(twice)} passage ids more than once, such as {twice[0].as_py()!r}. Ids must be unique: mend the corpus and embed again."
    )
