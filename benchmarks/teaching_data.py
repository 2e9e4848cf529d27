"""The collection, the candidates and the teacher that `teaching.py` measures on; each made once and kept in the store."""

from __future__ import annotations

import random
from functools import cached_property
from typing import Any

import numpy as np
from harness import console
from real_data import debian, debian_vectors
from stored import copied

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.mining.mine import MineConfig, mine
from retort.models.cross_encoder import CrossEncoder
from retort.store import Artefact, Draft, open_store
from retort.teaching.train import TrainTeacherConfig, train_teacher
from retort.terminal import TerminalProgress

Pair = tuple[str, str]
progress = TerminalProgress(console)


class Data:
    """Debian's package descriptions (synopsis -> description), mined candidates, and a teacher trained on them."""

    def __init__(self, store: str, quick: bool) -> None:
        self.store, self.quick = open_store(store), quick
        ingested = debian(store, progress)
        self.corpus = ingested["corpus"]
        self.queries = {split: ingested[split] for split in ("train", "dev", "test")}
        self.vectors = debian_vectors(store, progress)
        self.train_candidates = self._mine("train", bm25_k=2, dense_k=4, max_queries=1500)
        self.dev_candidates = self._mine("dev", bm25_k=0, dense_k=10, max_queries=200)
        self.test_candidates = self._mine("test", bm25_k=0, dense_k=20, max_queries=400)
        self.teacher = self._teacher()

    @property
    def _in_store(self) -> dict[str, str]:
        return {"store": self.store.uri}

    def _mine(self, split: str, **settings: Any) -> Artefact:
        config = {"corpus": self.corpus.uri, "queries": self.queries[split].uri, "embeddings": self.vectors.uri, "random_k": 0, "name": f"debian-{split}", **settings, **self._in_store}  # fmt: skip
        return mine(MineConfig.validated(config), progress)

    def _teacher(self) -> Artefact:
        config = {
            "base": "minilm",
            "corpus": self.corpus.uri,
            "queries": self.queries["train"].uri,
            "candidates": self.train_candidates.uri,
            "dev_queries": self.queries["dev"].uri,
            "dev_candidates": self.dev_candidates.uri,
            "max_steps": 10 if self.quick else 150,
            "evaluate_every": 10 if self.quick else 75,
            "held_out_queries": 60,
            "held_out_depth": 10,
            "max_tokens": 160,
            "name": "debian-quick" if self.quick else "debian",
        }
        return train_teacher(TrainTeacherConfig.validated({**config, **self._in_store}), progress)

    @cached_property
    def test(self) -> QuerySet:
        return QuerySet.open(self.queries["test"])

    @cached_property
    def passages(self) -> Passages:
        return Passages.open(self.corpus)

    def ranked_pairs(self, queries: int, most_tokens: int) -> list[tuple[str, str, Pair]]:
        """(query id, passage id, texts) of the mined candidates of so many test queries, those too long left out."""
        text_of = dict(zip(self.test.ids, self.test.texts, strict=True))
        found: dict[str, dict[str, None]] = {}
        for part in self.test_candidates.parts():
            table = self.test_candidates.part(part, columns=["query_id", "passage_id"])
            for query, passage in zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True):
                if query in found or len(found) < queries:
                    found.setdefault(query, {})[passage] = None
        ids = [(query, passage) for query, passages in found.items() for passage in passages]
        texts = self.passages.texts([passage for _, passage in ids])
        every = [(query, passage, (text_of[query], text)) for (query, passage), text in zip(ids, texts, strict=True)]
        tokenizer = CrossEncoder.load(self.teacher.local()).tokenizer
        lengths = tokenizer([p[0] for _, _, p in every], [p[1] for _, _, p in every], truncation=False, verbose=False)
        fits = np.fromiter((len(ids) <= most_tokens for ids in lengths["input_ids"]), bool, len(every))
        return [row for row, kept in zip(every, fits, strict=True) if kept]

    def pairs(self, count: int, most_tokens: int) -> list[Pair]:
        """A sample of the test queries' candidate pairs, in random order."""
        every = [pair for _, _, pair in self.ranked_pairs(400, most_tokens)]
        return random.Random(13).sample(every, count)

    def mirrored(self, store: str, candidates: Artefact) -> dict[str, str]:
        """A store with copies of what scoring reads, in which nothing is scored yet; URIs by kind."""
        target = open_store(store)
        given = {
            "candidates": candidates,
            "corpus": self.corpus,
            "queries": self.queries["test"],
            "teacher": self.teacher,
        }
        return {role: copied(artefact, target).uri for role, artefact in given.items()}

    def scratch_draft(self, store: str) -> Draft:
        """Somewhere for a bare loop to write its parts."""
        return open_store(store).draft("judgements", "bare", step="benchmark", config={})
