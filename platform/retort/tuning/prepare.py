"""From artefacts to what tuning reads: which queries, their tokens, positives and mined negatives.

Hard negatives are what the untuned encoder finds among the stored vectors. They come from the passages in the language
of the positive only: a translation of the positive is no negative. No passage is encoded; queries are, once, to mine.

Neighbours: `training_set.py` holds the result, `batches.py` draws from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.distillation.training_set import Lists, lists_of
from retort.errors import IncompatibleError, InputError
from retort.indexing.brute import best_rows
from retort.indexing.vectors import BLOCK_ROWS, VectorStore
from retort.models.dual_encoder import DualEncoder
from retort.models.judgements import Judgements
from retort.progress import Task
from retort.tuning.collection import language_tag
from retort.tuning.training_set import TrainingSet

__all__ = ["Coverage", "prepare"]


@dataclass
class Coverage:
    """What the training set covers; written into the encoder's metrics."""

    queries: int = 0  # learnt from
    left_out: int = 0  # without labels (for loss distil: without judgements too), of another language, or not needed
    hard_negatives: int = 0
    without_hard_negatives: int = 0  # queries that have random negatives only
    dropped_negatives: int = 0  # by false_negative_cut
    other_language_positives: int = 0  # labelled passages in another language than the query's first: not learnt from

    def as_metrics(self) -> dict[str, Any]:
        """JSON-ready."""
        return {f"training_{name}": value for name, value in asdict(self).items()}


def prepare(
    *,
    queries: QuerySet,
    passages: Passages,
    vectors: VectorStore,
    encoder: DualEncoder,
    judgements: Judgements | None,
    most_queries: int,
    hard_depth: int,
    false_negative_cut: float | None,
    seed: int,
    task: Task | None = None,
) -> tuple[TrainingSet, Coverage]:
    """Build the training set.

    Args:
        queries: those to learn from, with qrels.
        passages: the corpus.
        vectors: its stored vectors, row by row.
        encoder: the untuned query encoder, with the limits that training uses.
        judgements: the teacher's, where the loss wants them; then unlabelled queries count too.
        most_queries: a random sample of so many; a run that sees fewer queries needs no more.
        hard_depth: negatives mined per query.
        false_negative_cut: share of the positive's score above which a negative is left out.
        seed: of the sample.
        task: told how many queries are encoded.

    Raises:
        InputError: nothing to learn from. IncompatibleError: the vectors are not those of this corpus, row by row.
        NotFoundError: a label names a passage that the corpus has not.
    """
    if len(passages) != len(vectors):
        raise IncompatibleError(
            f"There are {len(vectors):,} stored vectors and {len(passages):,} passages in their corpus. Embed the corpus again."
        )
    coverage = Coverage()
    codes, names = _language_codes(passages)
    judged = {query: i for i, query in enumerate(judgements.query_ids)} if judgements is not None else {}
    able = [
        i for i, query in enumerate(queries.ids) if queries.positives(query) or _learnable(judgements, judged, query)
    ]
    if len(able) > most_queries:
        order = np.random.default_rng([seed, 5]).permutation(len(able))
        able = [able[i] for i in sorted(order[:most_queries].tolist())]
    coverage.queries, coverage.left_out = len(able), len(queries) - len(able)
    if not able:
        raise InputError(
            "There is nothing to learn from: no training query has a passage labelled relevant. Give queries with qrels of this corpus."
        )
    known = [passages.rows(queries.positives(queries.ids[i])) for i in able]
    first = [
        int(codes[rows[0]]) if len(rows) else _query_code(queries.langs[i], names)
        for i, rows in zip(able, known, strict=True)
    ]
    positives = [rows[codes[rows] == code] for rows, code in zip(known, first, strict=True)]
    coverage.other_language_positives = sum(len(a) - len(b) for a, b in zip(known, positives, strict=True))
    tokens = encoder.tokenize([queries.texts[i] for i in able], "query")
    by_language = np.argsort(codes, kind="stable").astype(np.int32)
    starts = np.searchsorted(codes[by_language], np.arange(len(names) + 1)).astype(np.int64)
    asked = encoder.encode_tokens(tokens, progress=task)  # [queries, dim]
    language = np.array(first, dtype=np.int32)
    mined = _mine(
        asked, vectors, positives, known, language, by_language, starts, hard_depth, false_negative_cut, coverage
    )
    coverage.hard_negatives = sum(len(rows) for rows in mined)
    coverage.without_hard_negatives = sum(not len(rows) for rows in mined)
    lists, scores, trust = _judged([queries.ids[i] for i in able], judgements, judged, passages)
    data = TrainingSet(
        query_ids=[queries.ids[i] for i in able],
        tokens=lists_of(tokens),
        positives=lists_of(positives),
        known=lists_of(known),
        negatives=lists_of(mined),
        judged=lists,
        scores=scores,
        trust=trust,
        language=language,
        passage_language=codes,
        by_language=by_language,
        starts=starts,
    )
    return data, coverage


def _language_codes(passages: Passages) -> tuple[NDArray[np.int32], list[str]]:
    """A number per passage for its language, and the languages."""
    encoded = passages.column("lang").dictionary_encode().unify_dictionaries()
    if not len(encoded):
        return np.zeros(0, dtype=np.int32), [""]
    raw = [language_tag(name) for name in encoded.chunk(0).dictionary.to_pylist()]
    names = sorted(set(raw))
    numbers = np.array([names.index(name) for name in raw], dtype=np.int32)
    indices = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks])
    return numbers[indices], names


def _query_code(lang: str, names: Sequence[str]) -> int:
    """For a query without labels: passages in its own language, where there are any."""
    tag = language_tag(lang)
    return names.index(tag) if tag in names else 0


def _learnable(judgements: Judgements | None, judged: dict[str, int], query: str) -> bool:
    return judgements is not None and query in judged and len(judgements[judged[query]]) > 1


def _mine(
    asked: NDArray[np.float32],
    vectors: VectorStore,
    positives: Sequence[NDArray[np.int64]],
    known: Sequence[NDArray[np.int64]],
    language: NDArray[np.int32],
    by_language: NDArray[np.int32],
    starts: NDArray[np.int64],
    depth: int,
    cut: float | None,
    coverage: Coverage,
) -> list[NDArray[np.int64]]:
    """The `depth` best passages of each query in its language that are not known to be relevant, best first."""
    mined: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)] * len(asked)
    for code in np.unique(language):
        rows = by_language[starts[code] : starts[code + 1]].astype(np.int64)
        mine = np.flatnonzero(language == code).tolist()
        wanted = min(len(rows), depth + max(len(known[i]) for i in mine))
        scores, places = best_rows(np.ascontiguousarray(asked[mine]), _blocks(vectors, rows), wanted)
        for i, own, found in zip(mine, scores, rows[places], strict=True):
            keep = ~np.isin(found, known[i])
            if cut is not None and len(positives[i]):
                limit = cut * float((vectors.rows(positives[i]) @ asked[i]).max())
                coverage.dropped_negatives += int((keep & (own > limit)).sum())
                keep &= own <= limit
            order = np.lexsort((found[keep], -own[keep]))
            mined[i] = found[keep][order][:depth]
    return mined


def _blocks(vectors: VectorStore, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, len(rows), BLOCK_ROWS):
        yield start, vectors.rows(rows[start : start + BLOCK_ROWS])


def _judged(
    ids: Sequence[str], judgements: Judgements | None, judged: dict[str, int], passages: Passages
) -> tuple[Lists, NDArray[np.float32], NDArray[np.float32]]:
    """What the teacher said about each query's candidates: rows, logits, trust."""
    nothing = np.zeros(0, dtype=np.float32)
    if judgements is None:
        return lists_of([[] for _ in ids]), nothing, nothing
    groups = [judgements[judged[query]] if query in judged else None for query in ids]
    rows: list[Any] = [passages.rows(group.passage_ids) if group is not None else [] for group in groups]
    there = [group for group in groups if group is not None]
    scores = np.concatenate([nothing, *(group.scores for group in there)])
    trust = np.concatenate([nothing, *(group.trust for group in there)])
    return lists_of(rows), scores, trust
