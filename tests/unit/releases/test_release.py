"""What may be served together, and the pointer that names it."""

import pyarrow as pa
import pytest

from retort.errors import BusyError, CorruptError, IncompatibleError, NotFoundError
from retort.releases.release import ArtefactRef, Release, has_release, load_release, make_release, save_release
from retort.serving.app import ServeConfig, release_of
from retort.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def publish(store, kind, name, inputs=None, table=None, **metrics):
    draft = store.draft(kind, name, step=kind, inputs=inputs, config={"name": name})
    with draft:
        draft.write_json("made.json", {"name": name})
        if table is not None:
            draft.write_table("queries.parquet", table)
        return draft.publish(metrics=metrics)


@pytest.fixture
def world(store):
    corpus = publish(store, "corpus", "docs")
    base = publish(store, "encoder", "base", passage_space="space-a")
    embeddings = publish(store, "embeddings", "docs-base", {"corpus": corpus, "encoder": base})
    return {
        "corpus": corpus,
        "base": base,
        "index": publish(store, "index", "docs-index", {"embeddings": embeddings}),
        "tuned": publish(store, "encoder", "tuned", passage_space="space-a"),
        "stranger": publish(store, "encoder", "stranger", passage_space="space-b"),
    }


def test_an_index_alone_is_served_with_the_encoder_that_made_it(store, world):
    release = make_release(store, world["index"])
    assert (release.name, release.default_encoder, list(release.encoders)) == ("docs-index", "base", ["base"])
    assert release.index.find(store).digest == world["index"].digest
    assert release.corpus.name == "docs"


def test_an_encoder_of_another_passage_space_is_refused_and_those_that_fit_are_named(store, world):
    with pytest.raises(
        IncompatibleError, match=r"'stranger' scores in passage space space-b.*fit this index: base, tuned\. "
    ) as caught:
        make_release(store, world["index"], {"base": world["base"], "x": world["stranger"]})
    assert caught.value.status == 409


def test_ancestry_plays_no_part_only_the_space_does(store, world):
    release = make_release(store, world["index"], {"tuned": world["tuned"]})
    assert release.default_encoder == "tuned"


def test_a_release_is_saved_moved_and_read_at_any_version(store, world):
    first = make_release(store, world["index"], name="live")
    assert not has_release(store, "live")
    assert save_release(store, first) == 1
    second = first.model_copy(update={"default_encoder": "base", "examples": ["new"]})
    assert save_release(store, second) == 2
    assert load_release(store, "live") == second and load_release(store, "live", version=1) == first
    with pytest.raises(NotFoundError, match="no release 'dead'"):
        load_release(store, "dead")


def test_two_who_move_a_release_at_once_cannot_both_succeed(store, world, monkeypatch):
    release = make_release(store, world["index"], name="live")
    save_release(store, release)
    pointer = type(store.pointer("x"))
    real = pointer.swap

    def late(self, expected, value):
        monkeypatch.undo()
        assert real(self, expected, {**value, "examples": ["the other's"]})
        return real(self, expected, value)

    monkeypatch.setattr(pointer, "swap", late)
    with pytest.raises(BusyError, match="moved by somebody else"):
        save_release(store, release)
    assert load_release(store, "live").examples == ["the other's"]


def test_what_a_release_names_must_still_be_there_and_be_the_same(store, world):
    reference = ArtefactRef.of(world["index"])
    with pytest.raises(CorruptError, match="digest"):
        reference.model_copy(update={"digest": "0" * 64}).find(store)
    with pytest.raises(NotFoundError, match="promote another release"):
        reference.model_copy(update={"key": "0" * 64}).find(store)


def test_a_spoilt_pointer_is_told_from_a_missing_one(store):
    store.pointer("release-odd").set({"name": "odd"})
    with pytest.raises(CorruptError, match="cannot be read: field 'index' is missing"):
        load_release(store, "odd")


def test_the_default_encoder_must_be_one_of_them(store, world):
    release = make_release(store, world["index"])
    with pytest.raises(ValueError, match="default_encoder 'x' is not one of base"):
        Release.model_validate({**release.model_dump(), "default_encoder": "x"})


def test_examples_come_from_the_corpus_own_held_out_queries(store, world):
    def queries(*texts):
        return pa.table({"query_id": [f"q{n}" for n in range(len(texts))], "text": list(texts)})

    other = publish(store, "corpus", "other")
    publish(
        store,
        "queries",
        "docs.test",
        {"corpus": world["corpus"]},
        queries("how to open a file", "too short", "how to sort a list"),
    )
    publish(store, "queries", "docs.train", {"corpus": world["corpus"]}, queries("a query of the training set"))
    publish(store, "queries", "other.test", {"corpus": other}, queries("a query of another corpus"))
    assert make_release(store, world["index"]).examples == ["how to open a file", "how to sort a list"]


def test_a_config_means_an_index_or_a_release_by_name(store, world):
    save_release(store, make_release(store, world["index"], {"tuned": world["tuned"]}, name="live"))
    config = lambda **fields: ServeConfig(store=store.uri, **fields)  # noqa: E731
    assert release_of(config(index="docs-index")).default_encoder == "base"
    assert release_of(config(index="live")).default_encoder == "tuned"
    both = release_of(config(index="docs-index", encoders={"careful": "tuned"}))
    assert (both.default_encoder, list(both.encoders)) == ("base", ["base", "careful"])
    assert release_of(config(index=world["index"].uri, encoder=world["tuned"].uri)).default_encoder == "tuned"
    with pytest.raises(NotFoundError, match="no index 'nothing'"):
        release_of(config(index="nothing"))
    with pytest.raises(IncompatibleError):
        release_of(config(index="docs-index", encoder="stranger"))
