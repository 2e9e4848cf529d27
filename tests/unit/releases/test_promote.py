"""Promoting, rolling back, masking: what moves a release's pointer, and what must not."""

import os
import time

import numpy as np
import pytest

from retort.corpus.lookup import Passages
from retort.errors import BusyError, CorruptError, InputError, NotFoundError
from retort.indexing.search import ShardedIndex
from retort.models.fakes import FakeEncoder
from retort.releases.masks import hidden_rows, masked_ref, read_mask
from retort.releases.promote import history, promote, release_names, rollback
from retort.releases.release import load_release
from retort.releases.usage import announce, in_use, wait_until_served, withdraw

from .worlds import release_of

PASSAGES = [(f"p{number:02d}", f"passage number {number} about thing {number % 7}") for number in range(40)]


@pytest.fixture
def release(store, without_ray):
    return release_of(store, PASSAGES)


def test_a_release_is_promoted_checked_and_found_by_name(store, release):
    assert promote(store, release) == 1
    held = load_release(store, "live")
    assert (held.index, held.note) == (release.index, "promoted") and held.moved
    assert promote(store, release) == 1  # the same again moves nothing
    assert release_names(store) == ["live"]


def test_a_release_with_a_flipped_bit_is_not_promoted_and_the_shard_is_named(store, release):
    path = release.index.find(store).local("shard-00001.faiss")
    with open(path, "r+b") as handle:
        handle.seek(-5, os.SEEK_END)
        handle.write(b"\x55")
    with pytest.raises(CorruptError, match=r"file shard-00001.faiss has checksum"):
        promote(store, release)
    assert release_names(store) == []


def test_a_check_that_fails_leaves_the_pointer_where_it_was(store, release):
    promote(store, release)

    def refuse(store, release):
        raise InputError("canary 3 is not found")

    with pytest.raises(InputError, match="canary 3"):
        promote(store, release.model_copy(update={"examples": ["another"]}), [refuse])
    assert load_release(store, "live").examples == release.examples


def test_two_who_promote_at_once_cannot_both_succeed(store, release):
    promote(store, release)
    promote(store, release.model_copy(update={"examples": ["the other's"]}))
    with pytest.raises(BusyError, match="moved by somebody else meanwhile"):
        promote(store, release.model_copy(update={"examples": ["ours"]}), expected_version=1)


def test_rolling_back_moves_on_to_what_was_served_before(store, release):
    promote(store, release)
    second = release.model_copy(update={"examples": ["second"]})
    promote(store, second)
    assert rollback(store, "live")[0] == 3
    moves = history(store, "live")
    assert [move.version for move in moves] == [3, 2, 1]
    assert moves[0].release.examples == release.examples and moves[0].release.note == "rolled back to version 1"
    assert rollback(store, "live", 2)[1].examples == ["second"]
    with pytest.raises(NotFoundError, match="no version 9; it has 4, 3, 2, 1"):
        rollback(store, "live", 9)
    with pytest.raises(InputError, match="at version 4 already"):
        rollback(store, "live", 4)
    with pytest.raises(NotFoundError, match="no release 'dead'.*Releases: live"):
        rollback(store, "dead")


def test_masked_passages_are_not_found_and_those_asked_for_stay_hidden_after_a_roll_back(store, release):
    promote(store, release)
    mask = {"p03": "asked", "p10": "gone", "absent": "asked"}
    masked = release.model_copy(update={"masked": masked_ref(store, mask, "live")})
    promote(store, masked, note="masked")
    assert read_mask(store, masked) == mask
    corpus = Passages.open(release.corpus.find(store))
    hidden = hidden_rows(store, masked, corpus)
    assert np.flatnonzero(hidden).tolist() == [3, 10] and hidden_rows(store, release, corpus) is None
    index = ShardedIndex.open(release.index.find(store)).hiding(hidden)
    vectors = FakeEncoder(32).encode([text for _, text in PASSAGES], "query")
    found = index.search(vectors, 40).rows
    assert {row for row in found.ravel().tolist() if row >= 0} == set(range(40)) - {3, 10}
    _, back = rollback(store, "live")
    assert read_mask(store, back) == {"p03": "asked", "absent": "asked"}


def test_what_replicas_announce_is_in_use_until_it_runs_out(store, release):
    assert in_use(store) == set()
    announce(store, "node/1", release, ttl_s=100)
    announce(store, "node/2", release, ttl_s=0.05)
    assert {release.index.digest, release.corpus.digest, release.encoders["fake"].digest} == in_use(store)
    withdraw(store, "node/1")
    time.sleep(0.06)
    assert in_use(store) == set()
    store.area.write_bytes("serving/broken.json", b"{")
    assert in_use(store) == set()


def test_a_deletion_waits_for_every_replica_to_follow(store, release):
    promote(store, release)
    first = load_release(store, "live")
    assert wait_until_served(store, first, 0) == (0, 0)
    announce(store, "one", first)
    announce(store, "two", first)
    announce(store, "elsewhere", first.model_copy(update={"name": "other"}))
    assert wait_until_served(store, first, 0) == (2, 2)
    promote(store, first.model_copy(update={"examples": ["new"]}))
    second = load_release(store, "live")
    announce(store, "one", [first, second])  # still loading
    announce(store, "two", second)
    assert wait_until_served(store, second, 0.15) == (1, 2)
    announce(store, "one", second)
    assert wait_until_served(store, second, 0) == (2, 2)
