"""The step `ingest`: what a user has becomes a corpus and its train, dev and test queries.

    ingest(config) -> {"corpus": ..., "train": ..., "dev": ..., "test": ...}

Two passes: survey.py reads and checks everything into a spool on local disk, then the parts are written; so bad input leaves nothing
behind, and the memory is bounded (but for the set of ids). The artefacts' key comes from the checksums of the files and the config: the same data
is not read twice. Where train, dev or test queries are missing they are held out (labels.py) or made (made.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from retort.config import JobConfig, plain
from retort.corpus.labels import Division, check_documents, divide, has_training, hold_out, origins, read_labels
from retort.corpus.made import Candidate, Sampler, leave_out
from retort.corpus.passages import DEFAULT_MAX_WORDS, content_hash
from retort.corpus.readers import Format, Reading, Source, open_source
from retort.corpus.readers.rows import SPLITS, Place, QueryRow
from retort.corpus.spool import Spool
from retort.corpus.survey import Cutting, Survey, has_pairs, survey_corpus
from retort.errors import ConfigError, InputError
from retort.progress import QUIET, Progress
from retort.store import Artefact, Draft, Store, open_store
from retort.store.schemas import PASSAGE, QREL, QUERY, part_name

VERSION = 1
MIN_PARTS = 2
"""So that work spreads over two workers even for a small corpus."""

_MADE = Place("made from the corpus", 0)


class Columns(BaseModel):
    """Names of the columns of tables. Unset: found by known names (`readers/columns.py`); "": there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str | None = Field(default=None, description="Column of the passage id.")
    text: str | None = Field(default=None, description="Column of the passage text.")
    title: str | None = Field(default=None, description="Column of the title.")
    lang: str | None = Field(default=None, description="Column of the language code.")
    section: str | None = Field(default=None, description="Column of the section or category.")
    doc_id: str | None = Field(default=None, description="Column of the document that the passage belongs to.")
    query: str | None = Field(default=None, description="Column of a query that the passage answers.")
    split: str | None = Field(default=None, description="Column that says train, dev or test.")


class IngestConfig(JobConfig):
    """What to read and how to make passages and queries of it."""

    source: str = plain("sample", description="'sample', or a file, folder, s3:// or gs:// URI.")
    format: Format = plain("auto", description="Format of the source; 'auto' finds it from the files' names.")
    sample_passages: int = Field(3000, ge=50, description="Passages of the built-in sample.")
    columns: Columns = Field(
        default_factory=Columns, description="Names of the tables' columns, where they are not the usual ones."
    )
    lang: str = Field("", description="Language code of passages and queries whose row does not say it.")
    files_are_languages: bool = Field(
        False,
        description="Each table is one language: its name's last part (de.jsonl.gz) becomes the language and the prefix of its ids.",
    )
    split_documents: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether long documents are cut into passages; 'auto': unless qrels or queries already speak of them.",
    )
    max_words: int = Field(
        DEFAULT_MAX_WORDS, ge=20, le=5000, description="Words of a passage cut from a longer document, at most."
    )
    overlap_words: int = Field(
        0, ge=0, description="Words that a passage shares with the one before it in the same document, at most."
    )
    rows_per_part: int = Field(
        4096, ge=1, description="Passages per part at most; a part is the unit of work of later jobs."
    )
    make_queries: bool = Field(
        True, description="Make queries from titles, headings and first sentences where there are none to train on."
    )
    max_queries: int = Field(
        20_000, ge=3, description="Queries made at most; the passages of all others keep their titles."
    )
    held_out: float = Field(
        0.1, gt=0, le=0.4, description="Share of the train queries held out for dev, and for test, where it is missing."
    )
    unknown_qrels: Literal["error", "drop"] = Field(
        "error", description="What to do with qrels of queries or passages that are not there."
    )
    max_line_bytes: int = plain(5_000_000, ge=1000, description="Bytes of a line at most.")
    licences: list[str] = Field(
        default_factory=list, description="Licences of the data, for the manifest and all that is made from it."
    )
    personal_data: str = Field("unknown", description="What is known about personal data in it: 'none', or a sentence.")


def ingest(config: IngestConfig, progress: Progress = QUIET) -> dict[str, Artefact]:
    """Make the corpus and its queries: "corpus", and those of "train", "dev" and "test" that there are.

    All three splits are there unless `make_queries` is off. InputError for data that cannot be used; then nothing is published.
    """
    if config.overlap_words >= config.max_words:
        raise ConfigError(
            f"overlap_words is {config.overlap_words}; expected less than max_words ({config.max_words})."
        )
    store = open_store(config.store)
    source = _open(config)
    identity = {**config.identity(), "source": source.digest(), "format": source.format}
    draft = store.draft(
        "corpus", config.name or default_name(config.source), step="ingest", version=VERSION, config=identity
    )
    made = _made_already(store, draft, identity)
    if made is not None:
        progress.say(f"{made['corpus']}: already made")
        return made
    with draft, Spool() as spool:
        plan = _Plan(config, source, spool, progress)
        parts = plan.write_corpus(draft, progress)
        corpus = draft.published or draft.publish(
            rows=plan.survey.passages,
            metrics=plan.metrics(parts),
            licences=config.licences,
            personal_data=config.personal_data,
            notes="; ".join(source.notes),
        )
        result = {"corpus": corpus}
        for split in SPLITS:
            if plan.division.splits[split].queries:
                result[split] = plan.publish_queries(store, corpus, draft.name, split, identity)
    for note in source.notes:
        progress.say(note)
    return result


class _Plan:
    """Everything known once the first pass is over."""

    def __init__(self, config: IngestConfig, source: Source, spool: Spool, progress: Progress) -> None:
        self.config = config
        self.source = source
        self._spool = spool
        drop = config.unknown_qrels == "drop"
        labels = read_labels(source, drop_unknown=drop)
        pairs = has_pairs(source)
        is_labelled = pairs or bool(labels.qrels)
        cut = config.split_documents == "always" or (config.split_documents == "auto" and not is_labelled)
        cutting = Cutting(cut, config.max_words, config.overlap_words)
        # Whether train queries are there is known before the corpus is read, except for those that stand in its rows.
        may_need_made = config.make_queries and not has_training(labels)
        sampler = Sampler(config.max_queries, config.seed) if may_need_made else None
        self.survey: Survey = survey_corpus(source, cutting, labels, sampler, spool, progress)
        self.dropped_qrels = check_documents(labels, self.survey.documents, self.survey.empty, drop_unknown=drop)
        self.division: Division = divide(labels, seed=config.seed, held_out=config.held_out, groups=self.survey.groups)
        self.taken: dict[str, Candidate] = {}
        if self.division.missing and config.make_queries:
            self._make_queries()

    def _make_queries(self) -> None:
        """Fill the splits that have no labelled query: by documents, so that none is in two splits."""
        missing = self.division.missing
        by_group: dict[str, list[Candidate]] = {}
        user_ids = {query.query_id for split in self.division.splits.values() for query in split.queries}
        judged = set(self.survey.groups.values())
        for candidate in self.survey.sampler.chosen() if self.survey.sampler else []:
            if candidate.doc_id not in judged and _made_id(candidate) not in user_ids:
                by_group.setdefault(candidate.doc_id, []).append(candidate)
        if len(by_group) < len(missing):
            raise InputError(
                f"{self.source.place} has no queries for {', '.join(missing)}, and only {len(by_group)} of its {len(self.survey.documents)} documents have a title or "
                f"first sentence (2 to 40 words, with a text beside it) that could stand for one; at least {len(missing)} are needed. "
                f"Give queries (queries.jsonl and qrels.tsv, or a query column), or a larger corpus; make_queries: false ingests the corpus alone."
                + "".join(f" ({note})" for note in self.source.notes)
            )
        # Only the lack of train queries leads here (divide holds out of train what else is missing), so train takes the rest.
        parts = hold_out(
            by_group, {name: self.config.held_out for name in missing if name != "train"}, self.config.seed
        )
        taken = {candidate.document_id for part in parts.values() for candidate in part}
        parts["train"] = [item for items in by_group.values() for item in items if item.document_id not in taken]
        for name, candidates in parts.items():
            for candidate in sorted(candidates, key=lambda item: item.position):
                query = QueryRow(_made_id(candidate), candidate.text, _MADE, candidate.lang, name, candidate.origin)
                self.division.splits[name].add(query, {candidate.document_id: 1})
                self.taken[candidate.document_id] = candidate

    def write_corpus(self, draft: Draft, progress: Progress) -> int:
        """The second pass: write the parts; returns how many."""
        rows = self.survey.passages
        parts = max(-(-rows // self.config.rows_per_part), min(MIN_PARTS, rows))
        edges = [rows * number // parts for number in range(1, parts + 1)]
        written = 0
        number = 0
        buffer: list[tuple[str, ...]] = []
        with progress.task("Writing the corpus", total=rows) as task:
            for row in self._rows():
                buffer.append(row)
                written += 1
                if number < parts and written == edges[number]:
                    if not draft.has(part_name(number)):
                        draft.write_table(part_name(number), _table(buffer, PASSAGE))
                    task.update(len(buffer))
                    buffer = []
                    number += 1
        assert written == rows, (written, rows)
        return parts

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for document in self._spool:
            title, pieces, fields = document.title, document.pieces, document.fields
            candidate = self.taken.get(document.document_id)
            if candidate is not None:
                title, pieces = leave_out(title, pieces, candidate.text, candidate.origin)
                fields = json.dumps({**json.loads(fields), "left_out": candidate.text}, ensure_ascii=False)
            for passage_id, text in zip(self.survey.passage_ids(document.document_id), pieces, strict=True):
                own_title, own_text = (title, text) if text else ("", title)
                yield (
                    passage_id, own_text, own_title, document.lang, document.section, document.doc_id, content_hash(own_title, own_text), fields,
                )  # fmt: skip

    def publish_queries(
        self, store: Store, corpus: Artefact, name: str, split: str, identity: dict[str, Any]
    ) -> Artefact:
        """One artefact with queries.parquet and qrels.parquet, bound to the corpus."""
        draft = _queries_draft(store, corpus, name, split, identity)
        part = self.division.splits[split]
        with draft:
            published = draft.published
            if published is not None:
                return published
            draft.write_table(
                "queries.parquet",
                _table([(q.query_id, q.text, q.lang, q.origin, q.fields) for q in part.queries], QUERY),
            )
            qrels = [
                (query.query_id, passage_id, grade)
                for query in part.queries
                for document_id, grade in part.qrels.get(query.query_id, {}).items()
                for passage_id in self.survey.passage_ids(document_id)
            ]
            draft.write_table("qrels.parquet", _table(qrels, QREL))
            metrics = {
                "queries": len(part.queries), "labelled": part.labelled, "qrels": len(qrels), "origins": origins(part.queries), "held_out": part.held_out,
            }  # fmt: skip
            return draft.publish(
                rows=len(part.queries),
                metrics=metrics,
                licences=self.config.licences,
                personal_data=self.config.personal_data,
            )

    def metrics(self, parts: int) -> dict[str, Any]:
        """What the manifest says about the corpus."""
        return {
            "source": self.config.source,
            "format": self.source.format,
            "files": len(self.source.files),
            "documents": len(self.survey.documents),
            "passages": self.survey.passages,
            "parts": parts,
            "cut_documents": len(self.survey.pieces),
            "empty_left_out": len(self.survey.empty),
            "languages": dict(self.survey.languages.most_common(200)),
            "queries": {name: len(split.queries) for name, split in self.division.splits.items()},
            "origins": {name: origins(split.queries) for name, split in self.division.splits.items()},
            "made_queries": len(self.taken),
            "qrels_dropped": self.dropped_qrels,
            "unlabelled_queries_dropped": self.division.unlabelled_dropped,
        }


def default_name(source: str) -> str:
    """An artefact's name from the source's last part: /data/My docs.jsonl.gz -> My-docs."""
    last = source.rstrip("/").rsplit("/", 1)[-1]
    last = re.sub(r"(\.(jsonl|ndjson|csv|tsv|parquet|txt|md|html?|rst))?(\.gz)?$", "", last)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")[:80] or "corpus"


def _open(config: IngestConfig) -> Source:
    if config.source == "sample":
        from retort.corpus.readers.builtin import SampleSource

        return SampleSource(config.sample_passages)
    columns = {name: value for name, value in config.columns.model_dump().items() if value is not None}
    return open_source(
        config.source, config.format, Reading(config.max_line_bytes, columns, config.lang, config.files_are_languages)
    )


def _made_already(store: Store, draft: Draft, identity: dict[str, Any]) -> dict[str, Artefact] | None:
    """All artefacts of this key, if the earlier run published them all."""
    corpus = draft.published
    if corpus is None:
        return None
    found = {"corpus": corpus}
    for split, count in corpus.metrics["queries"].items():
        if count:
            queries = _queries_draft(store, corpus, draft.name, split, identity).published
            if queries is None:
                return None
            found[split] = queries
    return found


def _queries_draft(store: Store, corpus: Artefact, name: str, split: str, identity: dict[str, Any]) -> Draft:
    return store.draft(
        "queries",
        f"{name}.{split}",
        step="ingest",
        version=VERSION,
        inputs={"corpus": corpus},
        config={**identity, "query_split": split},
    )


def _made_id(candidate: Candidate) -> str:
    return f"{candidate.document_id}#{candidate.origin}"


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [() for _ in schema]
    return pa.table(
        [pa.array(list(values), field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )
