"""A partial index answers as one built whole."""

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retort.errors import CorruptError, IncompatibleError, InputError, NotFoundError
from retort.indexing.delta import DeltaConfig, delta_index, outgrown
from retort.indexing.search import ShardedIndex

from .conftest import unit_vectors

QUERIES = np.random.default_rng(9).standard_normal((12, 6)).astype(np.float32)


def extend(embeddings, base, **fields):
    return delta_index(DeltaConfig(embeddings=embeddings.uri, base=base.uri, **fields))


def hits_of(artefact, queries=QUERIES, k=12):
    index = ShardedIndex.open(artefact)
    found = index.search(queries, k)
    ids = [[index.passage_ids(np.array([row]))[0] if row >= 0 else None for row in rows] for rows in found.rows]
    return ids, found.scores.tolist()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sequence_of_changes_gives_the_very_hits_of_a_rebuild(publish_embeddings, make_index, data):
    """Adds, changes, deletes, moves; ties are everywhere, since few vectors are used over and over."""
    pool = unit_vectors(9, 6)
    world = {f"p{number:02d}": number % 9 for number in range(data.draw(st.integers(1, 30)))}

    def publish(world, step):
        return publish_embeddings(
            np.stack([pool[which] for which in world.values()]),
            ids=list(world),
            rows=7,
            name=f"v{step}-{hash(str(world))}",
        )

    composed = make_index(publish(world, 0), kind="flat", shards=data.draw(st.integers(1, min(3, len(world)))))
    for step in range(1, 4):
        ids = data.draw(st.lists(st.sampled_from([f"p{number:02d}" for number in range(40)]), max_size=8, unique=True))
        kept = {id_: which for id_, which in world.items() if id_ not in ids[:3]}
        kept |= {id_: data.draw(st.integers(0, 8)) for id_ in ids[3:]}
        listed = list(kept.items())
        if data.draw(st.booleans()):
            listed.reverse()
        world = dict(listed) or {"p00": 0}
        embeddings = publish(world, step)
        try:
            composed = extend(embeddings, composed)
        except InputError as error:
            assert "shares no vector" in str(error)
            composed = make_index(embeddings, kind="flat", shards=1)
        rebuilt = make_index(embeddings, kind="flat", shards=1, name="rebuilt")
        assert hits_of(composed) == hits_of(rebuilt)
        holders = {e["artefact"]["key"] for e in composed.json("index.json")["shards"] if "artefact" in e}
        for key in holders:  # no chains: what is referred to holds the file itself
            assert all(
                "artefact" not in e or e["artefact"]["key"] != key
                for e in find(composed, key)["shards"]
                if e["file"] in held(composed, key)
            )


def find(artefact, key):
    return json.loads((artefact.local().parent / key / "index.json").read_text())


def held(artefact, key):
    return {e["file"] for e in artefact.json("index.json")["shards"] if e.get("artefact", {}).get("key") == key}


@pytest.mark.parametrize("kind", ["hnsw", "ivf-flat", "ivf-sq8", "ivf-rabitq", "IVF16,PQ12x4fs", "PCA16,IVF8,SQ8"])
def test_recall_is_that_of_a_rebuild(publish_embeddings, make_index, kind):
    rng = np.random.default_rng(1)
    old = unit_vectors(2500, 24)
    keep = np.sort(rng.permutation(2500)[:2400])
    new = np.concatenate([old[keep], unit_vectors(150, 24, seed=2)])
    ids = [f"p{row:04d}" for row in keep] + [f"n{row:04d}" for row in range(150)]
    embeddings = publish_embeddings(new, ids=ids, rows=900, name="new")
    composed = extend(embeddings, make_index(publish_embeddings(old, rows=1100, name="old"), kind=kind, shards=2))
    rebuilt = make_index(embeddings, kind=kind, shards=2, name="rebuilt")
    queries = unit_vectors(200, 24, seed=5).astype(np.float32)
    exact = ShardedIndex.open(make_index(embeddings, kind="flat", name="exact")).search(queries, 10).rows.tolist()

    def recall(artefact):
        found = ShardedIndex.open(artefact).search(queries, 10).rows.tolist()
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])

    assert recall(composed) >= recall(rebuilt) - 0.005
    assert composed.metrics["carried"] == 2400 and composed.metrics["added"] == 150


def world_of(publish_embeddings, make_index, kind="flat"):
    old = unit_vectors(60, 6)
    base = make_index(publish_embeddings(old, name="old"), kind=kind, shards=2)
    ids = [f"p{row:04d}" for row in range(5, 60)]
    return base, publish_embeddings(old[5:], ids=ids, name="fewer"), old


def test_only_deletions_make_no_shard_and_a_second_step_names_the_first_holder(publish_embeddings, make_index):
    base, fewer, old = world_of(publish_embeddings, make_index)
    first = extend(fewer, base)
    assert first.files("*.faiss") == [] and outgrown(base) == 0 and outgrown(first) == pytest.approx(5 / 55)
    assert extend(fewer, base).uri == first.uri
    more = publish_embeddings(np.concatenate([old[5:], unit_vectors(3, 6, seed=3)]), name="more",
                              ids=[f"p{row:04d}" for row in range(5, 60)] + ["x", "y", "z"])  # fmt: skip
    second = extend(more, first)
    assert second.files("*.faiss") == ["shard-00002.faiss"]
    assert {e["artefact"]["key"] for e in second.json("index.json")["shards"][:2]} == {base.key}
    assert outgrown(second) == pytest.approx(8 / 58)
    index = ShardedIndex.open(second)
    assert index.index_bytes > second.size_bytes and index.mapped_bytes > 0


def test_a_flipped_bit_in_a_shard_of_the_base_is_named(publish_embeddings, make_index):
    base, fewer, _ = world_of(publish_embeddings, make_index)
    composed = extend(fewer, base)
    with open(base.local("shard-00001.faiss"), "r+b") as handle:
        handle.seek(-4, os.SEEK_END)
        handle.write(b"\x7f")
    with pytest.raises(CorruptError, match=rf"{base.key[:12]}.*shard-00001.faiss has checksum"):
        ShardedIndex.open(composed)


def test_a_base_that_is_gone_or_another_is_said(publish_embeddings, make_index, store):
    base, fewer, _ = world_of(publish_embeddings, make_index)
    composed = extend(fewer, base)
    store.area.at("index").delete_folder(base.key)
    with pytest.raises(NotFoundError, match=r"shares shard shard-00000.faiss with index .* not in"):
        ShardedIndex.open(composed)


def test_embeddings_of_another_space_are_refused(publish_embeddings, make_index):
    base, _, old = world_of(publish_embeddings, make_index)
    other = publish_embeddings(old, name="other", metrics={"passage_space": "t" * 64})
    with pytest.raises(IncompatibleError, match="differ in passage_space"):
        extend(other, base)


def test_filters_and_masks_go_through_the_map_of_rows(publish_embeddings, make_index):
    base, fewer, _ = world_of(publish_embeddings, make_index)
    index, whole = (
        ShardedIndex.open(extend(fewer, base)),
        ShardedIndex.open(make_index(fewer, kind="flat", name="whole")),
    )
    allowed = np.arange(55) % 3 == 0
    for queries in (QUERIES, QUERIES[:1]):
        assert (index.search(queries, 30, allowed).rows == whole.search(queries, 30, allowed).rows).all()
        assert (index.hiding(allowed).search(queries, 30).rows == whole.search(queries, 30, ~allowed).rows).all()


def test_duplicate_ids_and_a_layout_of_the_future_are_refused(publish_embeddings, make_index, monkeypatch):
    base, fewer, old = world_of(publish_embeddings, make_index)
    twice = publish_embeddings(old[:3], ids=["a", "b", "a"], name="twice")
    with pytest.raises(InputError, match="1 passage ids more than once, such as 'a'"):
        extend(twice, base)
    composed = extend(fewer, base)
    monkeypatch.setattr("retort.indexing.search.NEWEST_LAYOUT", 1)
    with pytest.raises(InputError, match="has layout 2, this version of Retort reads up to 1"):
        ShardedIndex.open(composed)
