"""From artefacts to what training reads: which queries, positives and candidates, and their tokens.

A labelled query learns from its positives and, as hard negatives, from its other judged candidates without those that
the filter takes for false negatives. A query without labels learns from the teacher alone: all its judged candidates.
Passages that are neither positive nor candidate of any training query are not read at all.

Neighbours: `mining/filtering.py` decides what a false negative is, `training_set.py` holds the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retort.distillation.dev_pool import DevPool
from retort.distillation.neighbours import neighbour_vectors
from retort.distillation.training_set import Texts, TrainingSet, lists_of
from retort.errors import InputError
from retort.models.dual_encoder import DualEncoder, Side
from retort.models.judgements import JudgedGroup, Judgements
from retort.store import Artefact

__all__ = ["Coverage", "KnownPassages", "KnownQueries", "prepare", "prepare_dev"]

TEXTS_AT_ONCE = 8192

FalseNegatives = Callable[[JudgedGroup], NDArray[np.bool_]]
"""A query's judgements -> [n] True for candidates to drop."""


class KnownQueries(Protocol):
    """What is asked of queries: `corpus.queries.QuerySet`."""

    @property
    def ids(self) -> list[str]:
        """Ids in order."""

    @property
    def texts(self) -> list[str]:
        """Texts in the same order."""

    def positives(self, query_id: str) -> list[str]:
        """Ids of the passages labelled relevant."""


class KnownPassages(Protocol):
    """What is asked of passages: `corpus.lookup.Passages`."""

    @property
    def ids(self) -> list[str]:
        """Ids in row order."""

    def texts(self, ids: Iterable[str]) -> list[str]:
        """Text of each id."""


@dataclass
class Coverage:
    """What the training set covers; written into the encoder's metrics."""

    labelled: int = 0
    unlabelled: int = 0
    without_judgements: int = 0  # labelled, but no candidate of theirs was judged: in-batch negatives only
    left_out: int = 0  # neither labelled nor judged, or not wanted
    dropped_negatives: int = 0
    hard_negatives: int = 0
    short_of_negatives: int = 0  # judged queries with fewer candidates left than a list takes
    word_maps: int = 0
    words_seen_share: float | None = None  # of the passage words in the teacher's maps, what the student reads too
    passages: int = 0

    def as_metrics(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def prepare(
    *,
    queries: KnownQueries,
    passages: KnownPassages,
    judgements: Judgements,
    encoder: DualEncoder,
    false_negatives: FalseNegatives,
    negatives: int,
    use_unlabelled: bool,
    use_unjudged: bool,
    words: bool,
    passage_vectors: Callable[[Sequence[str]], Mapping[str, NDArray[np.float32]]] | None,
    similar: bool,
) -> tuple[TrainingSet, Coverage]:
    """Build the training set.

    Args:
        queries: training queries with their qrels.
        passages: the corpus.
        judgements: the teacher's.
        encoder: the base; its tokenizer cuts the texts, to the lengths that training uses.
        false_negatives: which candidates of a query to drop.
        negatives: candidates per list, to count the queries that have fewer.
        use_unlabelled: learn from judged queries without labels too.
        use_unjudged: learn from labelled queries without judgements too.
        words: whether the word level is on.
        passage_vectors: vectors of passages by id, of the same base; with them neighbours are found by query *and* answer.
        similar: whether neighbours are to be found at all.

    Raises:
        InputError: nothing to learn from, judgements of other queries, fewer hard negatives than asked for, or word maps
            of other parts of the passages than the student reads.
        NotFoundError: a judged passage is not in the corpus.
    """
    coverage = Coverage()
    places_of = {query: place for place, query in enumerate(judgements.query_ids)}
    if places_of and places_of.keys().isdisjoint(queries.ids):
        raise InputError(
            f"Not one of the {len(places_of)} judged queries is among the {len(queries.ids)} training queries, such as {queries.ids[0]!r}; "
            f"judged were such as {judgements.query_ids[0]!r}. Score candidates of the training queries."
        )
    rows: dict[str, int] = {}

    def rows_of(ids: Iterable[str]) -> list[int]:
        return [rows.setdefault(passage, len(rows)) for passage in ids]

    chosen: list[int] = []
    positives: list[list[int]] = []
    pool: list[list[int]] = []
    known: list[list[int]] = []
    judged: list[NDArray[np.int32]] = []
    scores, trust, places, groups = [], [], [], []
    for number, query in enumerate(queries.ids):
        relevant = queries.positives(query)
        group = judgements[places_of[query]] if query in places_of else None
        judged_well = group is not None and len(group) > 1
        if not (judged_well and (relevant or use_unlabelled)) and not (relevant and use_unjudged):
            coverage.left_out += 1
            continue
        chosen.append(number)
        positives.append(rows_of(relevant))
        coverage.labelled += bool(relevant)
        coverage.unlabelled += not relevant
        if group is None:
            coverage.without_judgements += 1
            pool.append([])
            known.append(positives[-1])
            judged.append(np.zeros(0, dtype=np.int32))
            groups.append(-1)
            continue
        mine = np.array(rows_of(group.passage_ids), dtype=np.int32)
        is_positive = np.isin(mine, positives[-1])
        dropped = false_negatives(group) & ~is_positive if relevant else np.zeros(len(group), dtype=bool)
        coverage.dropped_negatives += int(dropped.sum())
        pool.append(mine[~is_positive & ~dropped].tolist())
        known.append([*positives[-1], *mine[dropped].tolist()])
        # A false negative is still a passage that the teacher has something to say about.
        order = np.argsort(mine, kind="stable")
        judged.append(mine[order])
        scores.append(group.scores[order])
        trust.append(group.trust[order])
        usable = np.array([words and blob is not None for blob in group.word_maps])
        coverage.word_maps += int(usable.sum())
        places.append(np.where(usable, np.arange(len(group)), -1)[order])
        groups.append(places_of[query])
    if not chosen:
        raise InputError(
            "There is nothing to learn from: no training query has a passage labelled relevant or two judged candidates. "
            "Give labelled queries, or score candidates with a teacher first."
        )
    coverage.hard_negatives = sum(len(entry) for entry in pool)
    sizes = [len(entry) for entry, group in zip(pool, groups, strict=True) if group >= 0]
    coverage.short_of_negatives = sum(size < negatives for size in sizes)
    coverage.passages = len(rows)
    if negatives and not coverage.hard_negatives:
        raise InputError(
            f"{negatives} hard negatives per query are asked for, but the judgements leave none ({coverage.dropped_negatives} "
            "were dropped as false negatives). Mine more candidates, loosen the filter, or set negatives to 0."
        )
    if max(sizes, default=negatives) < negatives:
        raise InputError(
            f"{negatives} hard negatives per query are asked for, but no judged query has more than {max(sizes)} "
            f"({coverage.dropped_negatives} were dropped as false negatives). Mine and score more candidates, or lower negatives to {max(sizes)}."
        )
    query_texts = [queries.texts[i] for i in chosen]
    ids = list(rows)
    return (
        TrainingSet(
            query_ids=[queries.ids[i] for i in chosen],
            passage_ids=ids,
            queries=_tokenise(encoder, [query_texts], "query", words),
            passages=_tokenise(encoder, _in_batches(passages, ids), "passage", words),
            positives=lists_of(positives),
            pool=lists_of(pool),
            known=lists_of(known),
            judged=lists_of(judged),
            scores=_flat(scores, np.float32),
            trust=_flat(trust, np.float32),
            places=_flat(places, np.int32),
            groups=np.array(groups, dtype=np.int64),
            vectors=neighbour_vectors(encoder, query_texts, positives, ids, passage_vectors) if similar else None,
        ),
        coverage,
    )


def prepare_dev(
    *,
    queries: KnownQueries,
    passages: KnownPassages,
    candidates: Artefact | None,
    encoder: DualEncoder,
    most_queries: int,
    pool_size: int,
    seed: int,
) -> DevPool | None:
    """Build the dev pool (see `dev_pool.py`); None where no dev query has a passage labelled relevant."""
    generator = np.random.default_rng([seed, 7])
    able = [i for i, query in enumerate(queries.ids) if queries.positives(query)]
    able = [able[i] for i in sorted(generator.permutation(len(able))[:most_queries].tolist())]
    if not able:
        return None
    rows: dict[str, int] = {}
    positives = [[rows.setdefault(passage, len(rows)) for passage in queries.positives(queries.ids[i])] for i in able]
    for passage in _best_candidates(candidates, {queries.ids[i] for i in able}):
        if len(rows) >= pool_size:
            break
        rows.setdefault(passage, len(rows))
    everything = passages.ids
    for place in generator.permutation(len(everything)):
        if len(rows) >= pool_size:
            break
        rows.setdefault(everything[place], len(rows))
    return DevPool(
        queries=_tokenise(encoder, [[queries.texts[i] for i in able]], "query", False).tokens,
        passages=_tokenise(encoder, _in_batches(passages, list(rows)), "passage", False).tokens,
        positives=lists_of(positives),
    )


def _best_candidates(candidates: Artefact | None, wanted: set[str]) -> Iterator[str]:
    """Candidates of the wanted queries, best ranks of all of them first; random ones are left out."""
    if candidates is None:
        return
    found: list[tuple[int, str, str]] = []
    for part in candidates.parts():
        table = candidates.part(part, columns=["query_id", "rank", "source", "passage_id"])
        for query, rank, source, passage in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if query in wanted and source != "random":
                found.append((rank, query, passage))
    yield from (passage for _, _, passage in sorted(found))


def _in_batches(passages: KnownPassages, ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), TEXTS_AT_ONCE):
        yield passages.texts(ids[start : start + TEXTS_AT_ONCE])


def _tokenise(encoder: DualEncoder, batches: Iterable[Sequence[str]], side: Side, words: bool) -> Texts:
    """Tokens of texts that come in batches, and their words if the word level is on."""
    tokens: list[NDArray[np.int32]] = []
    ranges: list[NDArray[np.int32]] = []
    for texts in batches:
        if words:
            for ids, found in encoder.tokenize_words(texts, side):
                tokens.append(np.array(ids, dtype=np.int32))
                ranges.append(found.reshape(-1))
        else:
            tokens.extend(np.array(ids, dtype=np.int32) for ids in encoder.tokenize(texts, side))
    nothing = np.zeros(0, dtype=np.int32)
    return Texts(tokens=lists_of(tokens), words=lists_of(ranges if words else [nothing] * len(tokens)))


def _flat(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype=dtype)
