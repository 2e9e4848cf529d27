"""What a config may not say, and artefacts that do not belong together; each told before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from retort.corpus.queries import QuerySet
from retort.errors import ConfigError, CorruptError, IncompatibleError, InputError, NotFoundError
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.models.imports import encoder_artefact
from retort.progress import QUIET
from retort.store import Artefact, open_store
from retort.store.schemas import QREL, QUERY
from retort.tuning.config import TuneConfig
from retort.tuning.fakes import publish_embeddings
from retort.tuning.inputs import find_inputs, guard_sets
from retort.tuning.prepare_run import prepare_run
from retort.tuning.tune import tune, vectors_digest

World = dict[str, Artefact]


def settings(**more: Any) -> dict[str, Any]:
    return {
        "embeddings": "two", "queries": "two.queries", "dev_queries": "two.dev", "guard_queries": ["two.guard"], "learning_rate": 1e-6,
        "batch_queries": 8, "guard": {"least_queries": 20, "least_recall": 0.1, "margin": 0.08, "looks": 2}, "precision": "fp32", **more,
    }  # fmt: skip


def config(**more: Any) -> TuneConfig:
    return TuneConfig.validated(settings(**more))


def refused(error: type[Exception], told: str, **more: Any) -> None:
    with pytest.raises(error, match=told):
        tune(config(**more))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"guard_queries": []}, "guard_queries is empty, so no language would be watched.*unguarded"),
        ({"unguarded": True}, "unguarded is true although guard_queries are given"),
        ({"guard_embeddings": ["a", "b"]}, "guard_embeddings names 2 and guard_queries 1"),
        ({"learning_rate": "auto", "dev_queries": None}, "learning_rate is auto, for which dev_queries must be given"),
        ({"learning_rate": "fast"}, "learning_rate.*'fast'"),
        ({"learning_rate": 0}, "learning_rate.*greater than 0"),
        ({"loss": "distil"}, "loss is distil without judgements"),
        ({"batch_queries": 1, "resources": {"workers": 2}}, "batch_queries is 1, fewer than the 2 workers"),
        ({"sweep": {"trials": 2, "refine": 2}}, "refine is 2 of 2 trials"),
        ({"betas": (0.9, 1.0)}, "betas are"),
        ({"guard": {"margins": 0.1}}, "unknown field 'guard.margins'"),
    ],
)
def test_a_config_that_makes_no_sense_says_why(more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(**more)


def test_several_artefacts_of_one_field_have_roles_of_their_own(world: World) -> None:
    chosen = config(guard_queries=["two.guard", "two.dev"], guard_embeddings=["two", "two"])
    assert {
        "guard_queries.0": ("two.guard", "queries"),
        "guard_queries.1": ("two.dev", "queries"),
    }.items() <= chosen.named().items()
    assert not {"guard_queries", "guard_embeddings", "embeddings", "store"} & chosen.identity().keys()
    inputs = find_inputs(chosen, open_store())
    sets, target = guard_sets(inputs)
    assert [queries.name for queries, _ in sets] == ["two.guard", "two.dev"] and target is not None
    assert inputs["encoder"].key == world["encoder"].key, "the encoder that made the embeddings"
    keys = {
        open_store().draft("encoder", "x", step="tune", inputs=find_inputs(one, open_store())).key
        for one in (chosen, config())
    }
    assert len(keys) == 2


def test_a_corpus_of_which_only_languages_changed_is_another_input(world: World) -> None:
    """The guard reads languages and levels from it, and the embeddings' digest says nothing of them."""
    store, table = open_store(), world["corpus"].table()
    place = table.schema.get_field_index("lang")
    with store.draft("corpus", "again", step="fake") as draft:
        changed = table.set_column(place, table.schema.field(place), pa.array(["fr"] * len(table)))
        draft.write_table("part-00000.parquet", changed)
        other = draft.publish(rows=len(table))
    assert publish_embeddings(store, other, world["encoder"], name="again").digest == world["embeddings"].digest
    publish_queries(world, "first-asked", ["en-us"] * 4)
    publish_queries(world, "again-asked", ["en-us"] * 4, other)
    alone = {"dev_queries": None, "guard_queries": [], "unguarded": True}
    found = [
        find_inputs(config(embeddings=name, queries=queries, **alone), store)
        for name, queries in (("two", "first-asked"), ("again", "again-asked"))
    ]
    assert found[0]["queries"].digest == found[1]["queries"].digest
    assert len({store.draft("encoder", "x", step="tune", inputs=inputs).key for inputs in found}) == 2
    assert [inputs["corpus"].key for inputs in found] == [world["corpus"].key, other.key]
    guarded = find_inputs(config(guard_embeddings=["two"]), store)
    assert guarded["guard_corpus.0"].key == world["corpus"].key


def test_vectors_of_another_encoder(world: World, tmp_path: Path) -> None:
    other = tiny_encoder(tmp_path / "other", seed=7)
    refused(
        IncompatibleError,
        r"embeddings: embeddings/two .* is in passage space .*encoder/other .*leave `encoder` out",
        encoder=str(other),
    )


def test_guard_vectors_of_another_encoder(world: World, tmp_path: Path) -> None:
    other = encoder_artefact(str(tiny_encoder(tmp_path / "other", seed=7)), open_store())
    publish_embeddings(open_store(), world["corpus"], other, name="foreign")
    refused(IncompatibleError, r"guard_embeddings\.0: embeddings/foreign", guard_embeddings=["foreign"])


def test_an_index_in_place_of_embeddings_names_those_behind_it(world: World) -> None:
    draft = open_store().draft("index", "shards", step="fake", inputs={"embeddings": world["embeddings"]})
    with draft:
        draft.write_bytes("shard-00000.faiss", b"x")
        index = draft.publish()
    for reference in ("shards", index.uri):
        refused(
            InputError,
            r"embeddings: index/shards .* is an index.*Name the embeddings that it was built from: two",
            embeddings=reference,
        )
    refused(NotFoundError, r"There is no embeddings 'nowhere'", embeddings="nowhere")


def test_embeddings_that_do_not_say_what_they_are(world: World) -> None:
    inputs = {"corpus": world["corpus"], "encoder": world["encoder"]}
    draft = open_store().draft("embeddings", "bare", step="fake", inputs=inputs)
    with draft:
        draft.write_bytes("part-00000.parquet", b"x")
        draft.publish()
    refused(InputError, r"embeddings/bare .* does not say its count, dimension", embeddings="bare")


def publish_queries(
    world: World, name: str, langs: list[str], corpus: Artefact | None = None, texts: list[str] | None = None
) -> None:
    known = QuerySet.open(world["queries"])
    rows = [
        {
            "query_id": known.ids[i],
            "text": texts[i] if texts else known.texts[i],
            "lang": lang,
            "origin": "user",
            "fields": "{}",
        }
        for i, lang in enumerate(langs)
    ]
    labels = [{"query_id": row["query_id"], "passage_id": row["query_id"], "grade": 1} for row in rows]
    draft = open_store().draft(
        "queries", name, step="fake", inputs={"corpus": corpus or world["corpus"]}, config={"name": name}
    )
    with draft:
        draft.write_table("queries.parquet", pa.Table.from_pylist(rows, schema=QUERY))
        draft.write_table("qrels.parquet", pa.Table.from_pylist(labels, schema=QREL))
        draft.publish()


def test_queries_of_another_corpus(world: World) -> None:
    draft = open_store().draft("corpus", "elsewhere", step="fake")
    with draft:
        draft.write_bytes("part-00000.parquet", b"x")
        other = draft.publish()
    publish_queries(world, "astray", ["en"] * 4, other)
    refused(IncompatibleError, r"queries: queries/astray .* is about corpus elsewhere", queries="astray")
    refused(IncompatibleError, r"guard_queries\.0: queries/astray", guard_queries=["astray"])


def test_training_queries_in_another_language(world: World) -> None:
    publish_queries(world, "mixed", ["en-us", "de", "en-us", "de", "en-us", "en-us"])
    refused(InputError, r"holds 2 queries that are not in 'en' but in de, such as en-us/s1, en-us/s3", queries="mixed")
    refused(InputError, r"query_languages is fr, .* it has 'de', 'en-us'", queries="mixed", query_languages=["fr"])
    refused(ConfigError, "steps comes to 1 ", queries="mixed", query_languages=["en-us"])
    refused(ConfigError, "steps comes to 1 ", queries="mixed", english_only=False)


def test_training_queries_that_look_foreign(world: World) -> None:
    publish_queries(
        world, "silent", [""] * 3, texts=["amber birch", "文書の余白を変更する方法について説明します", "cedar"]
    )
    refused(
        InputError, r"1 of 3 training queries without a lang surely are not in 'en': en-us/s1 \(ja\)", queries="silent"
    )


def test_fewer_steps_than_looks(world: World) -> None:
    refused(
        ConfigError,
        r"steps comes to 3 \(48 queries in batches of 8\), fewer than the 4 looks",
        steps=3,
        guard={"looks": 4},
    )
    refused(ConfigError, r"sweep\.steps comes to 2", learning_rate="auto", sweep={"steps": 2}, guard={"looks": 4})


def test_a_pattern_that_freezes_nothing(world: World) -> None:
    refused(ConfigError, "Nothing to freeze is called 'embedings'", frozen=["embedings"])


def test_a_language_without_guard_queries_is_named_and_preparation_is_not_done_twice(world: World) -> None:
    chosen = config(guard_queries=["two.dev"])
    store = open_store()
    inputs = find_inputs(chosen, store)
    reader = DualEncoder.load(inputs["encoder"].local(), device="cpu", precision="fp32")
    with store.draft("encoder", "x", step="tune", inputs=inputs, config=chosen.identity()) as draft:
        prepared = prepare_run(chosen, draft, inputs, reader, QUIET)
        written = {item.path: item.size_bytes for item in draft.area.list("_data")}
        assert prepare_run(chosen, draft, {}, reader, QUIET) == prepared, "nothing is read again"
    assert (prepared.queries, prepared.steps, prepared.coverage["training_hard_negatives"]) == (48, 6, 48 * 50)
    assert any("two.dev has no labelled query in de" in warning for warning in prepared.warnings)
    assert {"_data/guard/guard.json", "_data/queries.json", "_data/negatives.values.npy"} <= written.keys()


def test_vectors_that_changed_are_told(world: World) -> None:
    assert vectors_digest(world["embeddings"]) == world["embeddings"].digest
    path = world["embeddings"].area.root / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptError, match=r"part-00000\.parquet has checksum"):
        vectors_digest(world["embeddings"])


def test_the_command_line_takes_rates_and_lists() -> None:
    from retort.arguments import parse

    given = ["--embeddings", "e", "--queries", "q", "--guard-queries", "a,b", "--dev-queries", "d"]
    found = parse(TuneConfig, [*given, "--guard.levels", "module,folder", "--sweep.start", "1e-6"], "retort tune")
    assert found.guard_queries == ("a", "b") and found.learning_rate == "auto"
    assert found.guard.levels == ("module", "folder") and found.sweep.start == 1e-6
    assert parse(TuneConfig, [*given, "--learning-rate", "3e-7"], "retort tune").learning_rate == 3e-7
