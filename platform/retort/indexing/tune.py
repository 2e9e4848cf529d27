"""How far to look: the smallest nprobe or efSearch, and refine factor, that reach the recall wanted.

    TuneGoal.parse("recall@10=0.95")
    ShardTuner(...)("tuning")      measured on the shards as built; run by `stages.py`, and by tests without Ray

Truth is exact search over the stored vectors. Half of the queries choose, the other half say what was reached: a setting
chosen on the queries that judge it would look better than it is. Recall grows with the width, so widths are doubled until
enough and then bisected. Speeds of all that was tried are kept, but choose nothing: the same inputs give the same index.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from retort.corpus.queries import QuerySet
from retort.errors import ConfigError, InputError
from retort.indexing.brute import best_rows
from retort.indexing.faiss_library import faiss
from retort.indexing.kinds import WIDTHS, IndexPlan, empty_index, inverted_lists, keeps_vectors
from retort.indexing.merge import Hits, merge_shards
from retort.indexing.opening import Shard
from retort.indexing.refine import Refiner
from retort.indexing.vectors import VectorStore
from retort.metrics.significance import bootstrap_interval
from retort.models.dual_encoder import DualEncoder
from retort.store import Artefact, Draft

__all__ = ["ShardTuner", "TuneGoal", "encoded_queries", "made_queries", "recall_of"]

REFINE_FACTORS = (1, 2, 4, 8, 16, 32, 64)
WIDEST = 4096
"""Largest nprobe or efSearch tried: beyond it a flat index is the better answer."""
COSINE_OF_MADE = 0.8
SEED_OF_MADE = 11
TIMED_S = 0.5
FEWEST = 20


@dataclass(frozen=True)
class TuneGoal:
    """Recall wanted among the k best."""

    k: int
    recall: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `recall@10=0.95`. ConfigError for anything else."""
        match = re.fullmatch(r"recall@(\d+)\s*=\s*([0-9.]+)", text.strip())
        try:
            k, recall = (int(match[1]), float(match[2])) if match else (0, 0.0)
        except ValueError:
            k, recall = 0, 0.0
        if not (1 <= k <= 1000 and 0 < recall <= 1):
            raise ConfigError(f"tune is {text!r}; expected recall@K=R such as recall@10=0.95, K to 1000 and R to 1.")
        return cls(k, recall)

    def __str__(self) -> str:
        return f"recall@{self.k}={self.recall:g}"


def made_queries(store: VectorStore, count: int, seed: int) -> NDArray[np.float32]:
    """Queries [count, dim] for a collection without any: passages moved away, within the space that passages fill.

    Each is a passage moved along the difference of two others to a cosine of 0.8: about as far as a question is from
    its answer, and not the passage itself, which every index finds.
    """
    generator = np.random.default_rng([seed, SEED_OF_MADE])
    base, one, other = (store.rows(np.sort(generator.choice(len(store), count, replace=len(store) < count))) for _ in range(3))  # fmt: skip
    away = generator.permutation(one) - generator.permutation(other)
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    away -= unit * np.einsum("nd,nd->n", away, unit)[:, None]
    length = np.linalg.norm(away, axis=1, keepdims=True)
    away = np.divide(away, length, out=np.zeros_like(away), where=length > 0)
    made: NDArray[np.float32] = (COSINE_OF_MADE * unit + np.sqrt(1 - COSINE_OF_MADE**2) * away).astype(np.float32)
    return made


def encoded_queries(queries: Artefact, embeddings: Artefact, count: int, seed: int) -> NDArray[np.float32]:
    """Vectors [n, dim] of at most `count` queries, by the encoder that embedded the passages. InputError for fewer than 20."""
    texts = QuerySet.open(queries).texts
    if len(texts) < FEWEST:
        raise InputError(
            f"tune_queries: {queries} has {len(texts)} queries; at least {FEWEST} are needed to measure a recall."
        )
    chosen = np.random.default_rng([seed, SEED_OF_MADE]).permutation(len(texts))[:count]
    encoder = DualEncoder.load(embeddings.input("encoder").local()).pack()
    return encoder.encode([texts[place] for place in chosen], side="query")


def recall_of(found: NDArray[np.int64], scores: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of the k best of each query that was found, [n].

    Counted by score: a passage that ties with the k-th best is as right as it. `found` are rows [n, k], `scores` their exact
    scores, `truth` the exact scores of the k best, [n, k].
    """
    edge = truth.min(axis=1, keepdims=True)
    right = (found >= 0) & (scores >= edge - 1e-6 * np.abs(edge))
    share: NDArray[np.float64] = right.sum(axis=1) / truth.shape[1]
    return np.minimum(share, 1.0)


class ShardTuner:
    """Opens the shards of a draft, searches them at many settings, and chooses one."""

    def __init__(
        self,
        *,
        draft: Draft,
        embeddings: Artefact,
        plan: IndexPlan,
        shards: Sequence[Mapping[str, Any]],
        goal: TuneGoal,
        queries: Artefact | None,
        asked: int,
        seed: int,
        factor: int | None,
    ) -> None:
        """`shards` are entries of index.json; `queries` None: passages are moved; `asked` is how many at most. `factor` fixes refine; None: it is chosen."""
        self._plan, self._goal, self._factor = plan, goal, factor
        self._store = VectorStore.open(embeddings)
        if queries is None:
            self._of = f"passages moved to a cosine of {COSINE_OF_MADE:g}"
            self._queries = made_queries(self._store, asked, seed)
        else:
            self._of = f"{queries.name}, encoded by the encoder of the passages"
            self._queries = encoded_queries(queries, embeddings, asked, seed)
        facts = self._store.facts
        self._folder = tempfile.TemporaryDirectory(prefix="retort-tune-")  # for the shards of a draft that is elsewhere
        self._shards = [
            Shard(
                _local(draft, entry["file"], Path(self._folder.name)),
                f"Shard {entry['file']} as written",
                first_row=entry["first_row"],
                count=entry["count"],
                dimension=facts.dimension,
                exact=plan.exact,
                settings=plan.search,
                store=self._store,
            )
            for entry in shards
        ]
        self._k = min(goal.k, facts.count)
        empty = empty_index(plan.factory, facts.dimension)
        self._keeps = keeps_vectors(empty)
        lists = inverted_lists(empty)
        self._width = next((name for name in WIDTHS if name in plan.search), None)
        self._widest = min(WIDEST, int(lists.nlist) if lists is not None else max(self._k, facts.count))
        self._curve: dict[tuple[int, int], dict[str, Any]] = {}

    def __call__(self, part: str) -> dict[str, Any]:
        """Tune; returns the settings chosen (`search`), what they reach on which queries, and the curve. `part` is only a name.

        Raises InputError if no setting reaches the recall wanted.
        """
        truth = self._truth()
        half = len(self._queries) // 2
        choosing, judging = slice(0, half), slice(half, None)
        factor = self._chosen_factor(choosing, truth)
        width = self._chosen_width(factor, choosing, truth)
        reached = self._recall(width, factor, judging, truth)
        interval = bootstrap_interval(reached)
        search = dict(self._plan.search)
        search.pop("refine", None)
        if self._width:
            search[self._width] = width
        if factor:
            search["refine"] = factor
        return {
            "goal": str(self._goal),
            "search": search,
            "queries": len(self._queries),
            "queries_are": self._of,
            "judged_on": len(reached),
            "recall": round(interval.mean, 4),
            "low": round(interval.low, 4),
            "high": round(interval.high, 4),
            "curve": [self._curve[key] for key in sorted(self._curve)],
        }

    def _truth(self) -> NDArray[np.float32]:
        """Exact scores [n, k] of the k best."""
        scores, _ = best_rows(self._queries, self._store.blocks(), self._k)
        return scores

    def _chosen_factor(self, choosing: slice, truth: NDArray[np.float32]) -> int:
        """The least refinement with which the widest search leaves half of the allowed loss to narrower ones; 0 for none."""
        if self._factor is not None:
            return self._factor
        if self._keeps:
            return 0
        needed = self._goal.recall + (1 - self._goal.recall) / 2
        wide = self._widest if self._width else 0
        best = 0.0
        for factor in (0, *REFINE_FACTORS):
            if factor * self._k > self._store.facts.count:
                break
            recall = float(self._recall(wide, factor, choosing, truth).mean())
            if recall >= needed:
                return factor
            if recall >= self._goal.recall and not self._width:
                return factor
            best = max(best, recall)
        if best >= self._goal.recall:  # only just: the deepest refinement, so that the widest search reaches it
            return max(key[1] for key in self._curve)
        raise self._unreachable(best)

    def _chosen_width(self, factor: int, choosing: slice, truth: NDArray[np.float32]) -> int:
        """The least width whose recall suffices: doubled, then bisected."""

        def enough(width: int) -> bool:
            return float(self._recall(width, factor, choosing, truth).mean()) >= self._goal.recall

        if self._width is None:
            if not enough(0):
                raise self._unreachable(max(point["recall"] for point in self._curve.values()))
            return 0
        low, high = 0, 1 if self._width == "nprobe" else min(self._widest, max(8, self._k))
        while not enough(high):
            if high >= self._widest:
                raise self._unreachable(max(point["recall"] for point in self._curve.values()))
            low, high = high, min(2 * high, self._widest)
        while high - low > max(1, high // 16):
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def _recall(self, width: int, factor: int, part: slice, truth: NDArray[np.float32]) -> NDArray[np.float64]:
        """Recall [n] of the queries in `part` at this setting; notes mean and speed on the curve."""
        if self._width:
            for shard in self._shards:
                shard.look({self._width: width})
        search = _searching(self._shards, Refiner(self._store, factor) if factor else None, self._k)
        asked = self._queries[part]
        hits = search(asked)
        # By their exact scores, also where the search ranks by codes.
        exact = hits if self._keeps else Refiner(self._store, 1).rescored(asked, [hits], self._k)
        recall = recall_of(exact.rows, exact.scores, truth[part])
        if part.start == 0:
            point = {"recall": round(float(recall.mean()), 4), "queries_per_s": round(_rate(search, asked), 1)}
            setting = ({self._width: width} if self._width else {}) | ({"refine": factor} if factor else {})
            self._curve[width, factor] = {**setting, **point}
        return recall

    def _unreachable(self, best: float) -> InputError:
        return InputError(
            f"tune: {self._goal} cannot be reached by index kind {self._plan.factory!r}: its widest search finds {best:.4f} of the "
            f"{self._k} best of {len(self._queries) // 2} queries. Ask for less, let refine be auto, or choose a kind that keeps more: hnsw, ivf-flat, flat."
        )


def _searching(shards: Sequence[Shard], refiner: Refiner | None, k: int) -> Callable[[NDArray[np.float32]], Hits]:
    """As ShardedIndex searches, one thread; ties go by row, which recall by score does not see."""

    def search(queries: NDArray[np.float32]) -> Hits:
        faiss.omp_set_num_threads(1)
        depth = refiner.depth(k) if refiner else k
        found = [shard.search(queries, depth) for shard in shards]
        if refiner is not None:
            found = [refiner.rescored(queries, found, depth)]
        return merge_shards(found, k, lambda rows: [f"{row:020d}" for row in rows])

    return search


def _rate(search: Callable[[NDArray[np.float32]], Hits], queries: NDArray[np.float32]) -> float:
    """Queries per second, one query a call, one thread, for half a second."""
    began, done = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < TIMED_S:
        search(queries[done % len(queries)][None, :])
        done += 1
    return done / seconds


def _local(draft: Draft, path: str, folder: Path) -> Path:
    if draft.area.is_local:
        return draft.area.root / path
    draft.area.download(path, folder / path)
    return folder / path
