"""What every cell of `distillation.py` has in common, whatever its seed: collection, base, candidates; made once, when first asked for.

The full mode is Debian's package descriptions whole, as all benchmarks share them (`real_data.py`); the quick mode a cut of them,
written as a BEIR folder and ingested like any other. The seed's own teacher and students are made in `distillation_grid.py`.
"""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from distillation_plan import Plan
from distillation_tested import Tested, kept_packages, tested
from harness import SHARED, console, need
from real_data import debian, debian_vectors, rows, write_qrels, write_rows

from retort.corpus.ingest import IngestConfig, ingest
from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.indexing.embed import EmbedConfig, embed
from retort.mining.candidates import query_sample
from retort.mining.mine import MineConfig, mine
from retort.models.imports import encoder_artefact
from retort.store import Artefact, inherited, open_store
from retort.store.schemas import QREL, QUERY
from retort.terminal import TerminalProgress

progress = TerminalProgress(console)
SPLITS = ("train", "dev", "test")
SAMPLED = 13
"""Seed of every sample of queries, whatever the students' seed."""


class Data:
    """The collection and what is mined from it for all seeds."""

    def __init__(self, store: str, plan: Plan) -> None:
        self.store, self.plan = open_store(store), plan
        self.prefix = "debian" if plan.passages is None else "debian-cut"

    @property
    def here(self) -> dict[str, str]:
        return {"store": self.store.uri}

    @cached_property
    def made(self) -> dict[str, Artefact]:
        """The corpus, and the queries of each split."""
        kept = kept_packages(self.plan)
        if kept is None:
            return debian(self.store.uri, progress)
        with tempfile.TemporaryDirectory() as folder:
            cut(need(SHARED / "debian"), Path(folder), kept)
            return ingest(IngestConfig.validated({"source": folder, "name": self.prefix, **self.here}), progress)

    @property
    def corpus(self) -> Artefact:
        return self.made["corpus"]

    @cached_property
    def tests(self) -> Tested:
        """The queries that are reported on."""
        return tested(self.plan)

    @cached_property
    def texts(self) -> dict[str, str]:
        """Their texts, in their order."""
        queries = QuerySet.open(self.made["test"])
        found = dict(zip(queries.ids, queries.texts, strict=True))
        assert set(found) == set(self.tests.ids), "ingest and the data's files disagree about the test queries"
        return {query: found[query] for query in self.tests.ids}

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

    # The base, and what it finds ---------------------------------------------------------------------------------------------

    @cached_property
    def base(self) -> Artefact:
        """MiniLM as students begin and as it is measured: its layout says that it reads no more of a passage than training does,
        and a student's layout is its base's."""
        return encoder_artefact("minilm", self.store, max_tokens=self.plan.student["max_passage_tokens"])

    @cached_property
    def vectors(self) -> Artefact:
        """The corpus's vectors by MiniLM as it comes, to mine the first round: those that other benchmarks have too."""
        if self.plan.passages is None:
            return debian_vectors(self.store.uri, progress)
        return self.embedded(self.corpus, "minilm", f"{self.prefix}-minilm", "auto")

    @cached_property
    def taught(self) -> Artefact:
        """The queries that students are taught with; most of them have lost their label, as in a team's query log. None is among those
        that the teacher learns from: it would remember the label."""
        train = QuerySet.open(self.made["train"])
        teachers = set(query_sample(train, self.plan.teacher_queries, SAMPLED).ids)
        sample = query_sample(train.subset(query for query in train.ids if query not in teachers), self.plan.taught, SAMPLED)  # fmt: skip
        labelled = set(query_sample(sample, self.plan.labelled, SAMPLED).ids)
        inputs = {"corpus": self.corpus, "queries": self.made["train"]}
        config = {
            "taught": self.plan.taught,
            "labelled": self.plan.labelled,
            "teacher_queries": self.plan.teacher_queries,
        }
        draft = self.store.draft("queries", f"{self.prefix}.taught", step="benchmark", inputs=inputs, config=config)
        if draft.published:
            return draft.published
        with draft:
            columns = [sample.ids, sample.texts, sample.langs, sample.origins, sample.fields]
            draft.write_table("queries.parquet", pa.table(columns, schema=QUERY))
            qrels = [{"query_id": query, "passage_id": passage, "grade": grade} for query in sample.ids if query in labelled for passage, grade in sample.qrels[query].items()]  # fmt: skip
            draft.write_table("qrels.parquet", pa.Table.from_pylist(qrels, schema=QREL))
            return draft.publish(rows=len(sample), metrics={"labelled": len(labelled)}, **inherited(inputs.values()))

    @cached_property
    def candidates(self) -> Artefact:
        """Of the queries that students are taught with, in the first round."""
        return self.mined(self.vectors, self.taught, None, f"{self.prefix}-taught")

    @cached_property
    def dev_candidates(self) -> Artefact:
        return self.mined(self.vectors, self.made["dev"], self.plan.dev_queries, f"{self.prefix}-dev-pool")

    @cached_property
    def teacher_lists(self) -> Artefact:
        return self.mined(self.vectors, self.made["train"], self.plan.teacher_queries, f"{self.prefix}-teacher-lists")

    # What cells do with it ---------------------------------------------------------------------------------------------------

    def embedded(self, corpus: Artefact, encoder: str, name: str, backend: str) -> Artefact:
        """A corpus's vectors by an encoder."""
        config = {"corpus": corpus.uri, "encoder": encoder, "name": name, "backend": backend, **self.here}
        return embed(EmbedConfig.validated(config), progress)

    def systems_vectors(self, encoder: Artefact, name: str) -> Artefact:
        """The whole collection by a system, the way that all systems are measured."""
        return self.embedded(self.corpus, encoder.uri, name, self.plan.backend)

    def mining_vectors(self, encoder: Artefact, name: str) -> Artefact:
        """A part of the collection by a student, in the same way, as embeddings of the whole: exact search needs no row of each passage, and
        candidates, judgements and students stay bound to one corpus."""
        made = self.embedded(self.part, encoder.uri, f"{name}-part", self.plan.backend)
        inputs = {"corpus": self.corpus, "encoder": encoder, "part": made}
        draft = self.store.draft("embeddings", name, step="benchmark", inputs=inputs)
        if draft.published:
            return draft.published
        with draft:
            for part in made.parts():
                draft.put_file(part, made.local(part))
            return draft.publish(rows=made.manifest.rows, metrics=made.metrics, **inherited(inputs.values()))

    @cached_property
    def part(self) -> Artefact:
        """One passage of `searched_part`, and the relevant ones of the taught queries, for in the whole collection these would be found."""
        train = QuerySet.open(self.made["train"])
        taught = {passage for query in QuerySet.open(self.taught).ids for passage in train.positives(query)}
        inputs = {"corpus": self.corpus, "queries": self.taught}
        config = {"searched_part": self.plan.searched_part}
        draft = self.store.draft("corpus", f"{self.prefix}-part", step="benchmark", inputs=inputs, config=config)
        if draft.published:
            return draft.published
        with draft:
            before = count = 0
            for name in self.corpus.parts():
                table = self.corpus.part(name)
                chosen = [
                    row for row, passage in enumerate(table["passage_id"].to_pylist())
                    if (before + row) % self.plan.searched_part == 0 or passage in taught
                ]  # fmt: skip
                draft.write_table(name, table.take(pa.array(chosen, pa.int64())))
                before, count = before + len(table), count + len(chosen)
            return draft.publish(rows=count, **inherited([self.corpus]))

    def mined(self, vectors: Artefact, queries: Artefact, at_most: int | None, name: str) -> Artefact:
        """Candidates of some queries by BM25 and by the encoder of these vectors; the same queries for all seeds."""
        config = {"corpus": self.corpus.uri, "queries": queries.uri, "embeddings": vectors.uri, "max_queries": at_most, "seed": SAMPLED, "name": name}  # fmt: skip
        return mine(MineConfig.validated({**config, **self.plan.mined, **self.here}), progress)


def cut(source: Path, into: Path, kept: set[str]) -> None:
    """A smaller BEIR folder: these packages' descriptions, and their queries of each split."""
    write_rows(into / "corpus.jsonl", (row for row in rows(source / "corpus.jsonl.gz") if row["_id"] in kept))
    for split in SPLITS:
        queries = [row for row in rows(source / f"queries.{split}.jsonl.gz") if row["_id"] in kept]
        write_rows(into / f"queries.{split}.jsonl", queries)
        # A package's query has the package's name, and so has its passage.
        write_qrels(into / f"qrels.{split}.tsv", [(row["_id"], row["_id"]) for row in queries])
