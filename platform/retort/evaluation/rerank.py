"""The teacher reads the student's best passages for every test query: the heavy part of an evaluation.

The pairs are cut into parts of `PART_QUERIES` queries, written into the report's draft as scratch; a part that was
scored before a run was killed is not scored again. `RerankWorker` does one part and knows nothing of Ray; stages.py
runs it on a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa

from retort.corpus.lookup import Passages
from retort.models.cross_encoder import CrossEncoder
from retort.progress import Progress
from retort.resources import Resources, gpu_count
from retort.store import Artefact, Draft

Ranking = list[tuple[str, float]]

PART_QUERIES: Final = 32


def reranked(ranking: Ranking, scores: Mapping[str, float]) -> Ranking:
    """The scored passages by score, then the others in the order they had.

    The others get scores below the lowest, one apart, so that every measure sees that order. Equal scores keep the
    order of `ranking` here; measures.py breaks ties in its own way.
    """
    read = sorted(
        ((passage, scores[passage]) for passage, _ in ranking if passage in scores), key=lambda item: -item[1]
    )
    floor = read[-1][1] if read else 0.0
    rest = [passage for passage, _ in ranking if passage not in scores]
    return read + [(passage, floor - place) for place, passage in enumerate(rest, start=1)]


class RerankWorker:
    """Scores the pairs of one part."""

    def __init__(self, teacher: Artefact, corpus: Artefact, draft: Draft) -> None:
        self._teacher = CrossEncoder.load(teacher.local())
        self._passages = Passages.open(corpus)
        self._draft = draft

    def __call__(self, part: str) -> dict[str, Any]:
        """Read `_rerank/first-<part>.parquet`, write `_rerank/scored-<part>.parquet`; returns `{"pairs": number}`."""
        pairs = self._draft.read_table(_first_path(part))
        texts = self._passages.texts(pairs["passage_id"].to_pylist())
        logits = self._teacher.score(list(zip(pairs["text"].to_pylist(), texts, strict=True)))
        scored = pairs.select(["query_id", "passage_id"]).append_column("score", pa.array(logits, pa.float32()))
        self._draft.write_table(_scored_path(part), scored)
        return {"pairs": pairs.num_rows}


def rerank_all(
    rankings: Mapping[str, Ranking],
    query_text: Mapping[str, str],
    *,
    top: int,
    teacher: Artefact,
    corpus: Artefact,
    draft: Draft,
    resources: Resources,
    progress: Progress,
) -> dict[str, Ranking]:
    """Every ranking with its first `top` passages in the teacher's order, `{query_id: ranking}`.

    One worker works in this process (starting a pool would cost more than it gives); several, or GPUs that this
    machine does not have, through Ray Data.
    """
    sizes: dict[str, float] = {}
    for part, table in _parts(rankings, query_text, top):
        if not _is_scored(draft, part, table):
            draft.write_table(_first_path(part), table)
            sizes[part] = float(table.num_rows)
    settings: dict[str, Any] = {"teacher": teacher, "corpus": corpus, "draft": draft}
    allotment = resources.resolve()
    if not sizes:
        pass
    elif allotment.workers == 1 and (allotment.gpus_per_worker == 0 or gpu_count() > 0):
        worker = RerankWorker(**settings)
        with progress.task("teacher re-ranking", sum(sizes.values())) as task:
            for part, size in sizes.items():
                worker(part)
                task.update(size)
    else:
        from retort.evaluation.stages import rerank_parts  # Ray: only where it is needed

        rerank_parts(settings, sizes, resources, progress)
    found: dict[str, Ranking] = {}
    for part, _ in _parts(rankings, query_text, top):
        scored = draft.read_table(_scored_path(part))
        logits: dict[str, dict[str, float]] = {}
        for query, passage, score in zip(*(scored[name].to_pylist() for name in scored.column_names), strict=True):
            logits.setdefault(query, {})[passage] = score
        found |= {query: reranked(rankings[query], scores) for query, scores in logits.items()}
    # A query without any hit has no pairs: nothing to read again.
    return {query: found.get(query, list(rankings[query])) for query in rankings}


def _parts(rankings: Mapping[str, Ranking], query_text: Mapping[str, str], top: int) -> Iterator[tuple[str, pa.Table]]:
    queries = list(rankings)
    for start in range(0, len(queries), PART_QUERIES):
        rows = [
            (query, query_text[query], passage)
            for query in queries[start : start + PART_QUERIES]
            for passage, _ in rankings[query][:top]
        ]
        if rows:
            columns = zip(("query_id", "text", "passage_id"), zip(*rows, strict=True), strict=True)
            yield (
                f"{start // PART_QUERIES:05d}",
                pa.table({name: pa.array(values, pa.string()) for name, values in columns}),
            )


def _is_scored(draft: Draft, part: str, pairs: pa.Table) -> bool:
    """Whether an earlier run scored exactly these pairs (floating point may have ordered them differently then)."""
    path = _scored_path(part)
    names = ["query_id", "passage_id"]
    return draft.has(path) and draft.read_table(path, columns=names).equals(pairs.select(names))


def _first_path(part: str) -> str:
    return f"_rerank/first-{part}.parquet"


def _scored_path(part: str) -> str:
    return f"_rerank/scored-{part}.parquet"
