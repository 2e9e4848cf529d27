"""Opening releases: what is shared, what is let go, and in which backend encoders run."""

import gc
import weakref

import numpy as np
import pytest
from tests.serving_world import opened_world, tuned_encoder

from retort.errors import CorruptError, IncompatibleError
from retort.models.fakes import tiny_encoder
from retort.models.imports import encoder_artefact
from retort.releases.masks import masked_ref
from retort.releases.release import ArtefactRef, Canary, make_release
from retort.serving.opening import Parts, open_release
from retort.serving.searcher import SearchQuery


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with opened_world(tmp_path_factory) as made:
        made.tuned = tuned_encoder(made)
        yield made


def ids(searcher, query="read file", **options):
    return [hit.passage_id for hit in searcher.search([SearchQuery(query, **options)])[0].hits]


def test_what_did_not_change_is_not_loaded_again(world):
    parts = Parts(world.store)
    release = make_release(world.store, world.index)
    first = parts.open(release)
    both = make_release(world.store, world.index, {"own": world.encoder, "tuned": world.tuned})
    second = parts.open(both)
    assert second._index is first._index and second._corpus is first._corpus and second._fields is first._fields
    assert (
        second.encoder("own")[1] is first.encoder(None)[1] and second.encoder("tuned")[1] is not first.encoder(None)[1]
    )


def test_what_no_release_holds_any_more_is_let_go(world):
    parts = Parts(world.store)
    first = parts.open(make_release(world.store, world.index, {"own": world.encoder, "tuned": world.tuned}))
    tuned, index = weakref.ref(first.encoder("tuned")[1]), weakref.ref(first._index)
    second = parts.open(make_release(world.store, world.index))
    del first
    gc.collect()
    assert tuned() is None and index() is second._index


def test_a_mask_hides_passages_from_vectors_and_from_bm25(world):
    release = make_release(world.store, world.index).model_copy(update={"bm25": True})
    parts = Parts(world.store)
    whole = parts.open(release)
    hidden = ids(whole, k=3)
    masked = masked_ref(world.store, dict.fromkeys(hidden, "asked"), "live")
    searcher = parts.open(release.model_copy(update={"masked": masked}))
    for hybrid in (False, True):
        assert not set(hidden) & set(ids(searcher, k=60, hybrid=hybrid))
        assert set(hidden) & set(ids(whole, k=60, hybrid=hybrid))


def test_an_encoder_of_another_space_is_refused_before_its_weights_are_read(world):
    tiny_encoder(world.folder / "stranger", ["other"], seed=9)
    stranger = encoder_artefact(str(world.folder / "stranger"), world.store)
    release = make_release(world.store, world.index).model_copy(
        update={"encoders": {"x": ArtefactRef.of(stranger)}, "default_encoder": "x"}
    )
    with pytest.raises(IncompatibleError, match="passage space"):
        open_release(release, world.store)


def test_a_release_whose_canary_fails_is_not_opened(world):
    release = make_release(world.store, world.index)
    good = Canary(query="How to read a file with this file.", expect=["read-file"])
    open_release(release.model_copy(update={"canaries": [good]}), world.store)
    bad = good.model_copy(update={"expect": ["nothing"]})
    with pytest.raises(CorruptError, match="Canary"):
        open_release(release.model_copy(update={"canaries": [bad]}), world.store)


def test_encoders_run_in_the_backend_that_is_asked_for(world):
    release = make_release(world.store, world.index)
    plain = Parts(world.store).open(release)
    faster = Parts(world.store, backend="onnx").open(release)
    texts = ["read a file", "open the socket"]
    assert faster.encoder(None)[1].backend == "onnx"
    assert (
        np.abs(plain.embed(texts, None, "query") - faster.embed(texts, None, "query")).max() < 0.02
    )  # bf16 against fp32
