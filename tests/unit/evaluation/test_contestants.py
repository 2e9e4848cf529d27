"""What evaluate refuses, before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from retort.errors import ConfigError, IncompatibleError, InputError, NotFoundError
from retort.evaluation.contestants import Contestants, open_contestants
from retort.evaluation.evaluate import EvaluateConfig
from retort.evaluation.measuring import open_queries
from retort.models.dual_encoder import passage_space
from retort.models.fakes import tiny_encoder
from retort.models.imports import encoder_artefact
from retort.store import Artefact, Store, open_store
from retort.store.schemas import QREL, QUERY
from retort.teaching.fakes import publish_small_world


def publish(
    store: Store,
    kind: str,
    name: str,
    inputs: dict[str, Artefact],
    metrics: dict[str, Any] | None = None,
    **files: pa.Table,
) -> Artefact:
    draft = store.draft(kind, name, step="test", inputs=inputs, config={"name": name})
    with draft:
        for stem, table in (files or {"data": pa.table({"name": [name]})}).items():
            draft.write_table(f"{stem}.parquet", table)
        return draft.publish(metrics=metrics)


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Artefact]:
    """A corpus with queries, a tiny encoder, and the shells of an index that fits it."""
    store = open_store()
    made = publish_small_world(store, passages=12, queries=6)
    made["encoder"] = encoder_artefact(str(tiny_encoder(tmp_path / "encoder")), store)
    space = {"passage_space": passage_space(made["encoder"].local())}
    embeddings = publish(store, "embeddings", "own", {"corpus": made["corpus"], "encoder": made["encoder"]}, space)
    made["index"] = publish(store, "index", "own", {"embeddings": embeddings}, space)
    return made


def contestants(**fields: Any) -> Contestants:
    return open_contestants(EvaluateConfig(**{"corpus": "small", "queries": "small", **fields}), open_store())


def test_what_belongs_together_is_taken_with_its_roles(world: dict[str, Artefact]) -> None:
    found = contestants(student_encoder=world["encoder"].uri, student_index="own", dev="small")
    assert set(found.inputs()) == {"corpus", "queries", "dev", "student_encoder", "student_index"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student_index": "own"}, "'student_encoder' is missing"),
        ({"base_encoder": "minilm"}, "'base_index' is missing"),
        ({"teacher": "minilm"}, "first stage"),
        ({"bm25": False}, "nothing to compare"),
    ],
)
def test_half_a_system_is_refused(world: dict[str, Artefact], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contestants(**fields)


def test_an_artefact_that_is_not_there_is_named(world: dict[str, Artefact]) -> None:
    with pytest.raises(NotFoundError, match="'nobody'.*There: small"):
        contestants(queries="nobody")


def test_queries_and_indexes_of_another_corpus_are_refused(world: dict[str, Artefact]) -> None:
    store = open_store()
    other = publish(store, "corpus", "other", {})
    publish(store, "queries", "foreign", {"corpus": other})
    with pytest.raises(IncompatibleError, match="queries/foreign.*belongs to corpus"):
        contestants(queries="foreign")
    embeddings = publish(store, "embeddings", "foreign", {"corpus": other, "encoder": world["encoder"]})
    publish(store, "index", "foreign", {"embeddings": embeddings})
    with pytest.raises(IncompatibleError, match="student's index/foreign.*is over corpus"):
        contestants(student_encoder=world["encoder"].uri, student_index="foreign")


def test_an_encoder_of_another_passage_space_is_refused(world: dict[str, Artefact], tmp_path: Path) -> None:
    stranger = encoder_artefact(str(tiny_encoder(tmp_path / "stranger", seed=1)), open_store())
    with pytest.raises(IncompatibleError, match="passage space"):
        contestants(student_encoder=stranger.uri, student_index="own")


def test_queries_without_qrels_are_refused_and_samples_are_repeatable(world: dict[str, Artefact]) -> None:
    assert list(open_queries(world["queries"], 4, seed=1).texts) == list(
        open_queries(world["queries"], 4, seed=1).texts
    )
    sample = open_queries(world["queries"], 4, seed=1)
    assert (len(sample.texts), sample.available, sample.without_qrels) == (4, 6, 0)
    assert sample.qrels == {query: {query.replace("q", "p"): 1} for query in sample.texts}
    row = {"query_id": "q0", "text": "amber", "lang": "en", "origin": "user", "fields": "{}"}
    files = {"queries": pa.Table.from_pylist([row], schema=QUERY), "qrels": pa.Table.from_pylist([], schema=QREL)}
    bare = publish(open_store(), "queries", "bare", {"corpus": world["corpus"]}, **files)
    with pytest.raises(InputError, match="0 queries with a relevant passage among its 1"):
        open_queries(bare, None, seed=1)
