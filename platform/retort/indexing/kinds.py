"""Which kind of FAISS index: named kinds, any factory string, and the choice by size that `auto` makes and explains.

    flat (exact) -> hnsw (graph over float32) -> ivf-sq8 (a byte per dimension) -> ivf-rabitq (a bit per dimension)

The metric is always the inner product; for encoders of unit vectors that is the cosine.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

from retort.errors import InputError
from retort.indexing.faiss_library import faiss

__all__ = ["KINDS", "IndexPlan", "choose_kind", "empty_index", "plan_index"]

KINDS = {
    "flat": "Flat",
    "hnsw": "HNSW32,Flat",
    "ivf-flat": "IVF{lists},Flat",
    "ivf-sq8": "IVF{lists},SQ8",
    "ivf-rabitq": "IVF{lists},RaBitQ",
}
"""Names for users, as FAISS factory strings; `{lists}` follows the number of passages."""

FLAT_BYTES = 64 << 20
"""Up to here reading every vector takes a few milliseconds a query: 43,000 passages of 384 dimensions."""
HNSW_COUNT = 2_000_000
"""Beyond it a graph takes hours to build on one thread; inverted lists take minutes."""
POINTS_PER_LIST = 39
"""Fewest training vectors a centroid that FAISS asks for."""
EF_CONSTRUCTION = 128


@dataclass(frozen=True)
class IndexPlan:
    """What will be built: the factory string, why it, and how it is searched unless a release says otherwise."""

    factory: str
    why: str
    exact: bool
    trained: bool
    search: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """For index.json and between processes."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        return cls(**values)


def plan_index(kind: str, count: int, dimension: int, memory_bytes: float) -> IndexPlan:
    """Turn the user's `kind` (auto, a name of KINDS, or a factory string) into a plan.

    Raises InputError for what FAISS rejects, or what these passages are too few to train.
    """
    if kind == "auto":
        chosen, why = choose_kind(count, dimension, memory_bytes)
    else:
        chosen, why = kind, f"asked for ({kind})"
    factory = KINDS.get(chosen.lower(), chosen).format(lists=_lists(count)) if chosen.lower() in KINDS else chosen
    index = empty_index(factory, dimension)
    lists = _inverted_lists(index)
    if lists is not None and lists.nlist > count:
        raise InputError(
            f"Index kind {kind!r} has {lists.nlist} inverted lists for {count} passages. Ask for fewer lists, or for kind: flat."
        )
    return IndexPlan(
        factory, why, exact=factory == "Flat", trained=not index.is_trained, search=_search_settings(index)
    )


def choose_kind(count: int, dimension: int, memory_bytes: float) -> tuple[str, str]:
    """(name of KINDS, the reason in one sentence) for so many vectors in so much memory."""
    flat = 4 * dimension * count
    size = f"{count:,} passages of {dimension} dimensions"
    if flat <= FLAT_BYTES:
        return "flat", f"{size} take {_mib(flat)}: an exact search reads that in milliseconds"
    graph = flat + count * (2 * 32 * 4 + 24)  # two times 32 neighbours of 4 bytes on the lowest level
    if graph <= memory_bytes and count <= HNSW_COUNT:
        return (
            "hnsw",
            f"{size} take {_mib(flat)}, too much to read for every query; the graph ({_mib(graph)}) fits the memory of {_mib(memory_bytes)}",
        )
    reason = (
        f"a graph would take {_mib(graph)} of {_mib(memory_bytes)}"
        if graph > memory_bytes
        else f"a graph of more than {HNSW_COUNT:,} takes too long to build"
    )
    bytes_ = count * (dimension + 8)
    if bytes_ <= memory_bytes:
        return "ivf-sq8", f"{size}: {reason}; one byte per dimension takes {_mib(bytes_)}"
    bits = count * (dimension // 8 + 16)
    return (
        "ivf-rabitq",
        f"{size}: even one byte per dimension would take {_mib(bytes_)} of {_mib(memory_bytes)}; one bit takes {_mib(bits)}, with lower recall",
    )


def empty_index(factory: str, dimension: int) -> Any:
    """An untrained FAISS index of inner products; InputError with FAISS's own reason if it rejects the factory string."""
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"FAISS rejects index kind {factory!r} for {dimension} dimensions: {faiss_reason(error)}. "
            f"Expected auto, {', '.join(KINDS)}, or a FAISS factory string such as 'IVF1024,SQ8'."
        ) from None
    if "IDMap" in factory:
        raise InputError(f"Index kind {factory!r}: passages are numbered here already, so leave IDMap out.")
    lists = _inverted_lists(index)
    # Only silences FAISS's warnings on stderr, one per sub-quantiser and iteration.
    for holder in (lists, getattr(lists, "pq", None), getattr(_inner(index), "pq", None)):
        if holder is not None and hasattr(holder, "cp"):
            holder.cp.min_points_per_centroid = 1
    graph = _graph(index)
    if graph is not None:
        graph.efConstruction = EF_CONSTRUCTION
    return index


def faiss_reason(error: BaseException) -> str:
    """What FAISS's message says, without its C++ signature and source path."""
    text = " ".join(str(error).split())
    return text.split(".cpp:", 1)[-1].split(": ", 1)[-1].rstrip(".") or type(error).__name__


def _inverted_lists(index: Any) -> Any | None:
    try:
        return faiss.downcast_index(faiss.extract_index_ivf(index))
    except RuntimeError:
        return None


def _inner(index: Any) -> Any:
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def _graph(index: Any) -> Any | None:
    return getattr(_inner(index), "hnsw", None)


def _search_settings(index: Any) -> dict[str, int]:
    lists = _inverted_lists(index)
    if lists is not None:
        return {"nprobe": int(min(lists.nlist, max(16, lists.nlist // 32)))}
    return {"efSearch": 64} if _graph(index) is not None else {}


def _lists(count: int) -> int:
    """Inverted lists for so many passages: a power of two near 4 sqrt(count), with enough training vectors each."""
    wanted = 4 * math.sqrt(count)
    return int(max(1, min(2 ** round(math.log2(max(1.0, wanted))), count // POINTS_PER_LIST)))


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB" if size_bytes >= 1 << 30 else f"{size_bytes / (1 << 20):.0f} MiB"
