"""Which kind of FAISS index: named kinds, any factory string, and the choice that `auto` makes and explains.

    flat        every vector, exact
    hnsw        a graph over float32 vectors; hnsw-sq8 over a byte, hnsw-sq6 over six bits a dimension
    ivf-flat    inverted lists of float32 vectors; ivf-sq8 of a byte a dimension
    ivf-rabitq  a bit a dimension; ivf-pq half a bit, scanned in registers (fast-scan). Both need `refine`.

`refine` n: the codes propose n x k candidates, which are scored exactly from the stored float16 vectors.
The metric is always the inner product; for encoders of unit vectors that is the cosine.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from retort.errors import InputError
from retort.indexing.faiss_library import faiss

__all__ = ["KINDS", "WIDTHS", "IndexPlan", "Refine", "choose_kind", "empty_index", "plan_index"]

KINDS = {
    "flat": "Flat",
    "hnsw": "HNSW32,Flat",
    "hnsw-sq8": "HNSW32,SQ8",
    "hnsw-sq6": "HNSW14,SQ6",
    "ivf-flat": "IVF{lists},Flat",
    "ivf-sq8": "IVF{lists},SQ8",
    "ivf-rabitq": "IVF{lists},RaBitQ",
    "ivf-pq": "IVF{lists},PQ{quarters}x4fs",
}
"""Names for users, as FAISS factory strings; `{lists}` follows the number of passages, `{quarters}` the dimension."""

WIDTHS = ("nprobe", "efSearch")
"""FAISS's names of how far a search looks; an index has at most one of them."""

Refine = Literal["auto", "off"] | Annotated[int, Field(ge=1, le=1000)]

FLAT_BYTES = 64 << 20
"""Up to here reading every vector takes a few milliseconds a query: 43,000 passages of 384 dimensions."""
GRAPH_COUNT = 2_000_000
"""Beyond it a graph takes too long to build on one thread; inverted lists take minutes."""
CODE_RECALL = 0.97
"""A byte a dimension ranks as the vectors do down to about here (0.98 to 0.99 of the best ten, benchmarks/indexing.py)."""
POINTS_PER_LIST = 39
"""Fewest training vectors a centroid that FAISS asks for."""
EF_CONSTRUCTION = 128
RABITQ_QUERY_BITS = 8
"""Bits of a query's dimensions against RaBitQ's codes: with the default, floats, a search takes several times as long."""


@dataclass(frozen=True)
class IndexPlan:
    """What will be built: the factory string, why it, and how it is searched unless tuning or a release says otherwise."""

    factory: str
    why: str
    exact: bool
    trained: bool
    search: dict[str, int]  # nprobe or efSearch, and `refine` where candidates are scored exactly

    def as_json(self) -> dict[str, Any]:
        """For index.json and between processes."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        return cls(**values)


def plan_index(
    kind: str, count: int, dimension: int, memory_bytes: float, recall: float = 0.95, refine: Refine = "auto"
) -> IndexPlan:
    """Turn the user's `kind` (auto, a name of KINDS, or a factory string) into a plan.

    Args:
        memory_bytes: what the loaded index may take; `auto` keeps to it.
        recall: share of the exact ten best that is wanted; decides what `auto` picks, and how much is refined.
        refine: "auto" where the codes need it, "off", or the factor.

    Raises InputError for what FAISS rejects, or what these passages are too few to train.
    """
    if kind == "auto":
        chosen, why = choose_kind(count, dimension, memory_bytes, recall, refine)
    else:
        chosen, why = kind, f"asked for ({kind})"
    template = KINDS.get(chosen.lower())
    factory = chosen if template is None else template.format(lists=_lists(count), quarters=_quarters(dimension))
    index = empty_index(factory, dimension)
    lists = inverted_lists(index)
    if lists is not None and lists.nlist > count:
        raise InputError(
            f"Index kind {kind!r} has {lists.nlist} inverted lists for {count} passages. Ask for fewer lists, or for kind: flat."
        )
    search = _search_settings(index)
    factor = _refine_factor(index, dimension, recall) if refine == "auto" else 0 if refine == "off" else int(refine)
    if factor and not keeps_vectors(index):
        search["refine"] = factor
    elif isinstance(refine, int):
        raise InputError(f"refine is {refine}, and index kind {kind!r} keeps the vectors themselves: set refine: auto.")
    return IndexPlan(factory, why, exact=factory == "Flat", trained=not index.is_trained, search=search)


def choose_kind(
    count: int, dimension: int, memory_bytes: float, recall: float = 0.95, refine: Refine = "auto"
) -> tuple[str, str]:
    """(name of KINDS, the reason in one sentence) for so many vectors, in so much memory, at this recall."""
    flat = 4 * dimension * count
    size = f"{count:,} passages of {dimension} dimensions"
    if flat <= FLAT_BYTES:
        return "flat", f"{size} take {_mib(flat)}: an exact search reads that in milliseconds"
    if recall >= 1:
        return "flat", f"only an exact search finds all that recall {recall:g} asks for; it reads {_mib(flat)} a query"
    # Without exact scores after them, codes of a byte lose what lies between close neighbours.
    plain = recall > CODE_RECALL and refine == "off"
    vector = 4 * dimension if plain else dimension
    of_what = "float32 vectors" if plain else "a byte per dimension"
    because = (
        f"recall {recall:g} without refine needs the vectors themselves"
        if plain
        else f"a byte per dimension ranks as the vectors do to recall {CODE_RECALL:g}"
        + (f", and refining gives {recall:g}" if recall > CODE_RECALL else "")
    )
    graph = count * (vector + 64 * 4 + 16)  # 64 neighbours of 4 bytes on the lowest level, a little above it
    if graph <= memory_bytes and count <= GRAPH_COUNT:
        return (
            "hnsw" if plain else "hnsw-sq8",
            f"{size} take {_mib(flat)}, too much to read for every query; a graph over {of_what} ({_mib(graph)}) fits the memory of {_mib(memory_bytes)}; {because}",
        )
    reason = (
        f"a graph over {of_what} would take {_mib(graph)} of {_mib(memory_bytes)}"
        if graph > memory_bytes
        else f"a graph of more than {GRAPH_COUNT:,} takes too long to build"
    )
    listed = count * (vector + 8)
    if listed <= memory_bytes:
        return (
            "ivf-flat" if plain else "ivf-sq8",
            f"{size}: {reason}; inverted lists of {of_what} take {_mib(listed)}; {because}",
        )
    name, codes, code = (
        ("ivf-pq", count * (_quarters(dimension) // 2 + 8), "half a bit")
        if _quarters(dimension) * 4 == dimension
        else ("ivf-rabitq", count * (dimension // 8 + 16), "one bit")
    )
    after = (
        "with low recall, for refine is off" if refine == "off" else "and the float16 vectors on disk mend the order"
    )
    return (
        name,
        f"{size}: {reason}, and inverted lists {_mib(listed)}; {code} per dimension takes {_mib(codes)}, {after}",
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
    if isinstance(index, faiss.IndexRefine):
        raise InputError(
            f"Index kind {factory!r}: vectors for re-ranking are stored once, with the embeddings. Leave its Refine part out and set refine."
        )
    lists = inverted_lists(index)
    # Only silences FAISS's warnings on stderr, one per sub-quantiser and iteration.
    for holder in (lists, getattr(lists, "pq", None), getattr(inner_index(index), "pq", None)):
        if holder is not None and hasattr(holder, "cp"):
            holder.cp.min_points_per_centroid = 1
    if isinstance(lists, faiss.IndexIVFRaBitQ):
        lists.qb = RABITQ_QUERY_BITS
    graph = _graph(index)
    if graph is not None:
        graph.efConstruction = EF_CONSTRUCTION
    return index


def faiss_reason(error: BaseException) -> str:
    """What FAISS's message says, without its C++ signature and source path."""
    text = " ".join(str(error).split())
    return text.split(".cpp:", 1)[-1].split(": ", 1)[-1].rstrip(".") or type(error).__name__


def inverted_lists(index: Any) -> Any | None:
    """The inverted-list part of an index, None if it has none."""
    try:
        return faiss.downcast_index(faiss.extract_index_ivf(index))
    except RuntimeError:
        return None


def keeps_vectors(index: Any) -> bool:
    """Whether its scores are those of the float32 vectors, so that refining them changes nothing."""
    return inner_index(index) is index and isinstance(_storage(index), faiss.IndexFlat | faiss.IndexIVFFlat)


def _storage(index: Any) -> Any:
    """What holds the codes: of a graph its storage, else the index behind its transformation."""
    inner = inner_index(index)
    return faiss.downcast_index(inner.storage) if hasattr(inner, "storage") else inner


def inner_index(index: Any) -> Any:
    """The index behind a transformation of its vectors; itself without one."""
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def _graph(index: Any) -> Any | None:
    return getattr(inner_index(index), "hnsw", None)


def _search_settings(index: Any) -> dict[str, int]:
    lists = inverted_lists(index)
    if lists is not None:
        return {"nprobe": int(min(lists.nlist, max(16, lists.nlist // 16)))}
    return {"efSearch": 64} if _graph(index) is not None else {}


def _refine_factor(index: Any, dimension: int, recall: float) -> int:
    """Candidates per hit: none where a byte per dimension does, few for four bits, many for one; 0 is none."""
    bits = 8 * getattr(_storage(index), "code_size", 4 * dimension) / dimension
    if bits >= 6:
        return 2 if recall > CODE_RECALL else 0
    return 4 if bits >= 2 else 8


def _lists(count: int) -> int:
    """Inverted lists for so many passages: a power of two near 4 sqrt(count), with enough training vectors each."""
    wanted = 4 * math.sqrt(count)
    return int(max(1, min(2 ** round(math.log2(max(1.0, wanted))), count // POINTS_PER_LIST)))


def _quarters(dimension: int) -> int:
    """Sub-quantisers of four dimensions each; fewer where four do not divide the dimension."""
    return max((m for m in range(1, dimension // 4 + 1) if dimension % m == 0), default=1)


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB" if size_bytes >= 1 << 30 else f"{size_bytes / (1 << 20):.0f} MiB"
