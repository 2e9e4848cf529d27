"""A scattered index: the same hits as in one place, whatever the parts; and what happens when one is late."""

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError

import numpy as np
import pytest
from ray.serve.config import AutoscalingConfig
from tests.serving_world import index_in, opened_world

from retort.errors import CorruptError, OverloadedError
from retort.indexing.search import ShardedIndex
from retort.releases.release import ArtefactRef
from retort.resources import Resources
from retort.serving.config import ServeConfig
from retort.serving.deployments import application
from retort.serving.replica import ReplicaSettings, ReplicaTarget, scaling
from retort.serving.scattered import PartQuery, PartServer, ScatteredIndex, shards_of


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with opened_world(tmp_path_factory) as made:
        made.five = index_in(made, "five", shards=5)
        yield made


class LocalPart:
    """A part on threads of this process; `hold` keeps its answers back."""

    def __init__(self, server):
        self.server, self.pool, self.hold, self.asked, self.cancelled = (
            server,
            ThreadPoolExecutor(4),
            threading.Event(),
            [],
            0,
        )
        self.hold.set()

    def prepare(self, index, timeout_s):
        self.server.prepare(index)

    def search(self, query):
        self.asked.append(query)

        def run():
            assert self.hold.wait(10)
            return self.server.search(query)

        future = self.pool.submit(run)
        outer = self

        class Pending:
            def result(self, timeout_s=None):
                if timeout_s == 0:  # Ray's fetch begins with this call: what is there already has not come yet
                    raise TimeoutError
                try:
                    return future.result(timeout_s)
                except LateError:
                    raise TimeoutError from None

            def cancel(self):
                outer.cancelled += 1

        return Pending()


def scattered(world, artefact, parts, timeout_s=5.0):
    made = [LocalPart(PartServer(world.store, number, parts)) for number in range(parts)]
    return ScatteredIndex(artefact, made, timeout_s), made


def queries(world, n=12):
    rng = np.random.default_rng(3)
    dimension = ShardedIndex.open(world.index).dimension
    vectors = rng.normal(size=(n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 7])
def test_hits_are_those_of_one_process_bit_by_bit(world, parts):
    whole, vectors = ShardedIndex.open(world.five), queries(world)
    index, _ = scattered(world, world.five, parts)
    for k in (1, 7, 100):
        ours, theirs = index.search(vectors, k), whole.search(vectors, k)
        assert np.array_equal(ours.rows, theirs.rows) and np.array_equal(ours.scores, theirs.scores)
    assert index.take_missing() == [] and len(index) == len(whole)


def test_equal_scores_are_cut_by_passage_id_as_in_one_process(world):
    whole = ShardedIndex.open(world.five)
    zeros = np.zeros((1, whole.dimension), dtype=np.float32)  # all passages score alike
    index, _ = scattered(world, world.five, 3)
    for k in (1, 7, 30):
        assert np.array_equal(index.search(zeros, k).rows, whole.search(zeros, k).rows)


def test_filters_and_masks_reach_the_parts(world):
    whole, vectors = ShardedIndex.open(world.five), queries(world)
    index, _ = scattered(world, world.five, 3)
    rng = np.random.default_rng(5)
    allowed, hidden = rng.random(len(whole)) < 0.4, rng.random(len(whole)) < 0.3
    ours, theirs = index.hiding(hidden).search(vectors, 9, allowed), whole.hiding(hidden).search(vectors, 9, allowed)
    assert np.array_equal(ours.rows, theirs.rows)
    assert allowed[ours.rows[ours.rows >= 0]].all() and not hidden[ours.rows[ours.rows >= 0]].any()


def test_a_late_part_is_left_out_and_named_and_comes_back(world):
    index, parts = scattered(world, world.five, 3, timeout_s=0.2)
    vectors, whole = queries(world, 2), ShardedIndex.open(world.five)
    parts[1].hold.clear()
    began = time.monotonic()
    found = index.search(vectors, 50)
    assert 0.15 < time.monotonic() - began < 2
    assert index.take_missing() == [1, 4] == list(shards_of(1, 3, 5)) and index.take_missing() == []
    assert parts[1].cancelled == 1
    entries = whole.description["shards"]
    lost = {
        row
        for shard in (1, 4)
        for row in range(entries[shard]["first_row"], entries[shard]["first_row"] + entries[shard]["count"])
    }
    present = {row for row in found.rows[0].tolist() if row >= 0}
    assert present == set(range(60)) - lost
    began = time.monotonic()
    index.search(vectors, 5)
    assert time.monotonic() - began < 0.15, "one that was late just now is not waited for as long"
    parts[1].hold.set()
    time.sleep(0.1)
    index.search(vectors, 5)
    index.take_missing()
    assert np.array_equal(index.search(vectors, 5).rows, whole.search(vectors, 5).rows) and index.take_missing() == []


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_one_silent_part_takes_no_other_out(world, silent):
    index, parts = scattered(world, world.five, 3, timeout_s=0.2)
    parts[silent].hold.clear()
    vectors = queries(world, 2)
    for _ in range(3):
        index.search(vectors, 50)
        assert index.take_missing() == list(shards_of(silent, 3, 5))
    parts[silent].hold.set()


def test_without_any_part_there_is_no_answer(world):
    index, parts = scattered(world, world.five, 2, timeout_s=0.1)
    for part in parts:
        part.hold.clear()
    with pytest.raises(OverloadedError, match="No shard"):
        index.search(queries(world, 1), 3)
    for part in parts:
        part.hold.set()


def test_each_question_names_its_index_so_a_change_needs_no_message(world):
    servers = [PartServer(world.store, number, 2) for number in range(2)]
    first = ScatteredIndex(world.five, [LocalPart(server) for server in servers], 5)
    second = ScatteredIndex(world.index, [LocalPart(server) for server in servers], 5)
    vectors = queries(world, 3)
    for index, artefact in ((first, world.five), (second, world.index), (first, world.five)):
        assert np.array_equal(index.search(vectors, 4).rows, ShardedIndex.open(artefact).search(vectors, 4).rows)


def test_while_an_index_is_opened_another_is_searched(world, monkeypatch):
    server, vectors = PartServer(world.store, 0, 1), queries(world, 2)
    first, second = ArtefactRef.of(world.five), ArtefactRef.of(world.index)
    server.prepare(first)
    entered, go_on, real = threading.Event(), threading.Event(), ShardedIndex.open

    def slow(artefact, **options):
        entered.set()
        assert go_on.wait(10)
        return real(artefact, **options)

    monkeypatch.setattr(ShardedIndex, "open", slow)
    with ThreadPoolExecutor(2) as pool:
        opening = pool.submit(server.prepare, second)
        assert entered.wait(10)
        pool.submit(server.search, PartQuery(first, vectors, 3)).result(timeout=5)
        assert not server.holds(second) and not opening.done()
        go_on.set()
        opening.result(timeout=10)
    assert server.holds(first) and server.holds(second)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("kind", ["ivf-rabitq", "ivf-pq"])
def test_refined_hits_are_those_of_one_process_too(world, kind, parts):
    artefact = index_in(world, f"refined-{kind}", shards=5, kind=kind, refine=2)
    whole, vectors = ShardedIndex.open(artefact), queries(world)
    index, _ = scattered(world, artefact, parts)
    hidden = np.random.default_rng(1).random(len(whole)) < 0.2
    for k in (1, 3, 9):
        for ours, theirs in ((index, whole), (index.hiding(hidden), whole.hiding(hidden))):
            one, other = ours.search(vectors, k), theirs.search(vectors, k)
            assert np.array_equal(one.rows, other.rows) and np.array_equal(one.scores, other.scores)


def test_an_index_that_a_part_cannot_open_is_not_taken_up(world):
    lost = ArtefactRef.of(world.five).model_copy(update={"digest": "0" * 64})
    server = PartServer(world.store, 0, 1)
    part = LocalPart(server)
    real = server._index
    server._index = lambda ref: real(lost)
    with pytest.raises(CorruptError, match="digest"):
        ScatteredIndex(world.five, [part], 5)


def test_parts_scale_by_what_waits_for_them():
    target = ReplicaTarget(
        release="live",
        max_batch_queries=64,
        max_queued_queries=10,
        max_query_chars=99,
        max_rerank=1,
        request_timeout_s=3,
    )
    settings = ReplicaSettings(store="unused", threads=1, target=target)
    made = application(settings, Resources(threads=1), max_ongoing_requests=9, drain_s=1, max_replicas=4, parts=2)
    search = made._bound_deployment
    shards = [part._bound_deployment for part in search.init_args[1:]]
    wanted = [one._deployment_config.autoscaling_config.target_ongoing_requests for one in (search, *shards)]
    assert wanted == [32, 1, 1]


def test_scaling_is_a_number_or_two():
    assert scaling(2, None, 32) == scaling(2, 2, 32) == {"num_replicas": 2}
    auto = scaling(1, 4, 32)["autoscaling_config"]
    assert (auto["min_replicas"], auto["max_replicas"], auto["target_ongoing_requests"]) == (1, 4, 32)
    assert auto["look_back_period_s"] <= min(auto["upscale_delay_s"], auto["downscale_delay_s"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoscalingConfig(**auto)
    with pytest.raises(ValueError, match="less than replicas"):
        ServeConfig(index="x", replicas=3, max_replicas=2)
