"""What every row of `distillation.py` has in common: collection, base vectors, candidates, teacher, judgements; made once.

The full mode is Debian's package descriptions whole, under the keys that `teaching_data.py` gives them; the quick mode a
cut of them, written as a BEIR folder and ingested like any other.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from distillation_plan import Plan
from harness import SHARED, console, need
from real_data import rows, write_qrels, write_rows

from retort.corpus.ingest import IngestConfig, ingest
from retort.corpus.lookup import Passages
from retort.evaluation.measuring import TestQueries, open_queries
from retort.indexing.embed import EmbedConfig, embed
from retort.mining.mine import MineConfig, mine
from retort.store import Artefact, open_store
from retort.teaching.score import ScoreConfig, score
from retort.teaching.train import TrainTeacherConfig, train_teacher
from retort.terminal import TerminalProgress

progress = TerminalProgress(console)
SPLITS = ("train", "dev", "test")


class Data:
    """The collection and the teacher."""

    def __init__(self, store: str, plan: Plan) -> None:
        self.store, self.plan = open_store(store), plan
        self.prefix = "debian" if plan.passages is None else "debian-cut"
        self._judged: list[Artefact] = []
        made = self._ingest()
        self.corpus = made["corpus"]
        self.queries = {split: made[split] for split in SPLITS}
        self.vectors = self.embedded("minilm", f"{self.prefix}-minilm", "auto")
        self.candidates = self.mined(self.vectors, "train", plan.taught, f"{self.prefix}-taught")
        self.dev_candidates = self.mined(self.vectors, "dev", plan.dev_queries, f"{self.prefix}-dev-pool")
        self.teacher = self._teacher()
        self.judgements = self.judged(self.candidates, f"{self.prefix}-judged-0")

    @property
    def _here(self) -> dict[str, str]:
        return {"store": self.store.uri}

    def _ingest(self) -> dict[str, Artefact]:
        source = need(SHARED / "debian")
        config = {"sample_passages": 2400, "name": self.prefix, **self._here}
        if self.plan.passages is None:
            return ingest(IngestConfig.validated({**config, "source": str(source)}), progress)
        with tempfile.TemporaryDirectory() as folder:
            cut(source, Path(folder), self.plan.passages)
            return ingest(IngestConfig.validated({**config, "source": folder}), progress)

    def embedded(self, encoder: str, name: str, backend: str) -> Artefact:
        """The corpus's vectors by an encoder."""
        config = {"corpus": self.corpus.uri, "encoder": encoder, "name": name, "backend": backend, **self._here}
        return embed(EmbedConfig.validated(config), progress)

    def systems_vectors(self, encoder: str, name: str) -> Artefact:
        """As `embedded`, the way that all systems are measured and all students mined with: in int8, twice as fast (indexing's `embed_fast_loss`)."""
        # A cut collection is embedded sooner than a graph is exported.
        return self.embedded(encoder, name, "onnx-int8" if self.plan.passages is None else "auto")

    def mined(self, vectors: Artefact, split: str, at_most: int, name: str) -> Artefact:
        """Candidates of some queries by BM25 and by the encoder of these vectors."""
        config = {"corpus": self.corpus.uri, "queries": self.queries[split].uri, "embeddings": vectors.uri, "max_queries": at_most, "name": name}  # fmt: skip
        return mine(MineConfig.validated({**config, **self.plan.mined, **self._here}), progress)

    def judged(self, candidates: Artefact, name: str) -> Artefact:
        """The teacher's judgements of candidates, both levels; pairs that any cell had judged before are taken over."""
        config: dict[str, Any] = {"candidates": candidates.uri, "corpus": self.corpus.uri, "queries": self.queries["train"].uri, "teacher": self.teacher.uri, "name": name}  # fmt: skip
        config["reuse"] = tuple(one.uri for one in self._judged)
        made = score(ScoreConfig.validated({**config, **self._here}), progress)
        self._judged.append(made)
        return made

    def _teacher(self) -> Artefact:
        candidates = self.mined(self.vectors, "train", self.plan.teacher_queries, f"{self.prefix}-teacher-lists")
        config = {
            "base": "minilm", "corpus": self.corpus.uri, "queries": self.queries["train"].uri, "candidates": candidates.uri,
            "dev_queries": self.queries["dev"].uri, "dev_candidates": self.dev_candidates.uri, "name": f"{self.prefix}-teacher",
        }  # fmt: skip
        return train_teacher(TrainTeacherConfig.validated({**config, **self.plan.teacher, **self._here}), progress)

    @cached_property
    def test(self) -> TestQueries:
        """The queries that are reported on."""
        return open_queries(self.queries["test"], self.plan.test_queries, 13)

    @cached_property
    def passages(self) -> Passages:
        return Passages.open(self.corpus)

    @cached_property
    def synopses(self) -> dict[str, str]:
        """Passage id -> its package's one-line synopsis, of all splits: what people wrote, and no model."""
        found: dict[str, str] = {}
        for split in SPLITS:
            found |= {row["_id"]: row["text"] for row in rows(SHARED / "debian" / f"queries.{split}.jsonl.gz")}
        return found


def cut(source: Path, into: Path, passages: int) -> None:
    """A smaller BEIR folder: every n-th query of each split with its passage, so that sections and splits keep their shares."""
    with gzip.open(source / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        every = [json.loads(line) for line in lines]
    step = max(1, len(every) // passages)
    kept = {row["_id"] for row in every[::step]}
    write_rows(into / "corpus.jsonl", [row for row in every if row["_id"] in kept])
    for split in SPLITS:
        queries = [row for row in rows(source / f"queries.{split}.jsonl.gz") if row["_id"] in kept]
        write_rows(into / f"queries.{split}.jsonl", queries)
        # A package's query has the package's name, and so has its passage.
        write_qrels(into / f"qrels.{split}.tsv", [(row["_id"], row["_id"]) for row in queries])
