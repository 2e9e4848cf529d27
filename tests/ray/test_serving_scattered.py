"""The scattered placement for real: shards in Serve replicas of their own, one of them killed, a release swapped beneath."""

import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from tests.serving_world import ACTIONS, TOPICS, index_in, opened_world

from retort.releases.release import ArtefactRef, load_release, save_release
from retort.serving.app import ServeConfig, serving
from retort.serving.client import Client
from retort.serving.front import free_port


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with opened_world(tmp_path_factory) as made:
        made.three = index_in(made, "docs-three", shards=3)
        yield made


@pytest.fixture(scope="module")
def endpoint(world):
    config = ServeConfig(
        store=world.store.uri,
        index="docs-index",
        port=free_port(),
        placement="scattered",
        shard_timeout_s=4,  # a busy machine is no dead part
        cache_answers=0,
        poll_s=0.2,
        threads=1,
    )
    with serving(config) as running, Client(running.url) as client:
        yield SimpleNamespace(url=running.url, client=client)


QUERIES = [f"{action} {topic}" for action in ACTIONS[:3] for topic in TOPICS[:4]]


def batch_hits(world, artefact):
    """What the batch job finds: colocated replicas are tested against the same."""
    from retort.indexing.search import ShardedIndex
    from retort.models.dual_encoder import DualEncoder

    index, encoder = ShardedIndex.open(artefact), DualEncoder.load(world.encoder.local()).pack()
    hits = index.search(encoder.encode(QUERIES, "query"), 7)
    return [index.passage_ids(row) for row in hits.rows], hits.scores


def check_same(world, client, artefact):
    ids, scores = batch_hits(world, artefact)
    deadline = time.monotonic() + 60
    while (answer := client.search_many(QUERIES, k=7)).degraded and time.monotonic() < deadline:
        time.sleep(1)
    assert answer.release.index == artefact.digest and not answer.degraded
    assert [[hit.passage_id for hit in result.hits] for result in answer.results] == ids
    found = np.array([[hit.score for hit in result.hits] for result in answer.results])
    assert np.abs(found - scores).max() < 1e-4


def test_hits_equal_those_of_the_batch_job(world, endpoint):
    check_same(world, endpoint.client, world.index)


def test_another_index_is_taken_up_though_it_has_more_shards_than_parts(world, endpoint):
    release = load_release(world.store, "docs-index")
    version = save_release(world.store, release.model_copy(update={"index": ArtefactRef.of(world.three)}))
    deadline = time.monotonic() + 20
    while endpoint.client.info().version != version and time.monotonic() < deadline:
        time.sleep(0.05)
    check_same(world, endpoint.client, world.three)


def test_a_dead_part_is_left_out_and_comes_back(world, endpoint):
    """The first of two: behind one that is silent the other must be heard all the same."""
    (part,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "shard-0" in " ".join(process.info["cmdline"] or []) and "ServeReplica" in " ".join(process.info["cmdline"])
        and psutil.Process().pid in [parent.pid for parent in process.parents()]
    ]  # fmt: skip
    part.kill()
    seen = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        began = time.monotonic()
        answer = endpoint.client.search("open file", k=60)
        seen.append((answer.degraded, answer.missing_shards, len(answer.hits), time.monotonic() - began))
        if seen[-1][0] is False and any(degraded for degraded, *_ in seen):
            break
        time.sleep(0.05)
    late = [one for one in seen if one[0]]
    assert late and not seen[-1][0], "it was missed, and came back"
    assert all(missing == [0, 2] and 0 < hits < 60 for _, missing, hits, _ in late) and seen[-1][2] == 60
    assert max(seconds for *_, seconds in seen) < 15
