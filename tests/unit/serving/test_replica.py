"""What one replica is made of, without Ray: opened, asked over its application, changed, closed."""

import asyncio
import threading

import httpx
import pytest
from tests.serving_world import opened_world, tuned_encoder

from retort.corpus.lookup import Passages
from retort.errors import CorruptError
from retort.releases.deleting import mask_passages
from retort.releases.masks import read_mask
from retort.releases.promote import rollback
from retort.releases.release import load_release, make_release, save_release
from retort.serving.api import create_app
from retort.serving.config import ServeConfig, followed_release
from retort.serving.replica import ReplicaSettings, ReplicaTarget, open_replica


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with opened_world(tmp_path_factory) as made:
        made.tuned = tuned_encoder(made)
        yield made


def settings(world, name, **fields):
    target = ReplicaTarget(
        release=name,
        poll_s=3600,
        max_batch_queries=64,
        max_queued_queries=512,
        max_query_chars=8000,
        max_rerank=100,
        request_timeout_s=20,
    )
    return ReplicaSettings(store=world.store.uri, threads=1, target=target, **fields)


def test_a_replica_answers_is_changed_in_flight_and_goes_back(world):
    save_release(world.store, make_release(world.store, world.index, name="live"))
    running = open_replica(settings(world, "live"), "r1")

    async def scenario():
        transport = httpx.ASGITransport(create_app(lambda: running.engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def ask():
                answer = (await client.post("/v1/search", json={"query": "open file", "k": 3})).json()
                return (
                    answer["release"]["version"],
                    answer["release"]["encoder_digest"],
                    answer["hits"][0]["passage_id"],
                )

            seen = [await ask()]
            save_release(world.store, make_release(world.store, world.index, {"tuned": world.tuned}, name="live"))
            # While a change is loaded on its own thread, requests are answered.
            look = threading.Thread(target=running.follower.look)
            look.start()
            while look.is_alive():
                seen.append(await ask())
            seen.append(await ask())
            await asyncio.to_thread(rollback, world.store, "live")
            await asyncio.to_thread(running.follower.look)
            seen.append(await ask())
            return seen

    seen = asyncio.run(scenario())
    own, tuned = world.encoder.digest, world.tuned.digest
    assert seen[0][:2] == (1, own) and seen[-2][:2] == (2, tuned) and seen[-1][:2] == (3, own)
    assert {(version, digest) for version, digest, _ in seen} == {(1, own), (2, tuned), (3, own)}
    running.retarget(settings(world, "live").target.model_copy(update={"max_query_chars": 5}))
    assert running.engine.info().max_query_chars == 5
    running.close()


def test_a_release_that_is_not_followed_stays(world):
    release = make_release(world.store, world.index, name="fixed")
    running = open_replica(settings(world, None, release=release), "r1")
    assert running.follower is None and running.engine.info().version == 0
    with pytest.raises(CorruptError):
        broken = release.model_copy(update={"index": release.index.model_copy(update={"digest": "0" * 64})})
        open_replica(settings(world, None, release=broken), "r1")


def test_serving_an_index_by_name_makes_a_release_and_a_promoted_one_is_kept(world):
    store = world.store
    config = ServeConfig(store=store.uri, index="docs-index")
    made = followed_release(config, store)
    assert (made.name, made.origin) == ("docs-index", "serve") and load_release(store, "docs-index") == made
    assert followed_release(config, store) == made and store.pointer("release-docs-index").read().version == 1
    promoted = make_release(store, world.index, {"tuned": world.tuned}, name="docs-index")
    save_release(store, promoted)
    assert followed_release(config, store) == promoted, "what was promoted is not undone by a restart"
    explicit = config.model_copy(update={"encoder": world.encoder.uri})
    assert list(followed_release(explicit, store).encoders) == [world.encoder.name]


def test_a_restart_that_says_more_of_what_to_serve_keeps_what_was_deleted(world):
    config = ServeConfig(store=world.store.uri, index="docs-index", bm25=True)
    release = followed_release(config, world.store)
    deleted = Passages.open(release.corpus.find(world.store)).ids[0]
    mask_passages(world.store, "docs-index", [deleted], "asked", "deleted")
    held = followed_release(config, world.store)
    assert held.bm25 and read_mask(world.store, held) == {deleted: "asked"}
    assert followed_release(config, world.store) == held
