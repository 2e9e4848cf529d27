"""Batches grow with load, and no caller can harm another."""

import asyncio
import threading
import time

import pytest

from retort.errors import InputError, OverloadedError
from retort.serving.batcher import Batcher


class Gate:
    """A `run` that notes its batches and waits for `open` when told to hold."""

    def __init__(self, hold: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.entered = threading.Event()
        if not hold:
            self.open.set()

    def __call__(self, items):
        self.batches.append(list(items))
        self.entered.set()
        assert self.open.wait(10)
        return [item * 10 for item in items]


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("never came true")


def batcher(run, **settings):
    return Batcher(run, **{"max_batch": 8, "max_queued": 16, **settings})


def test_what_queued_while_a_batch_ran_becomes_the_next_batch():
    async def scenario():
        gate = Gate(hold=True)
        lane = batcher(gate)
        first = asyncio.create_task(lane.submit(1))
        await until(gate.entered.is_set)
        others = [asyncio.create_task(lane.submit(item)) for item in (2, 3, 4)]
        await until(lambda: lane.queued_weight == 3)
        gate.open.set()
        answers = await asyncio.gather(first, *others)
        assert [value for value, _ in answers] == [10, 20, 30, 40]
        assert gate.batches == [[1], [2, 3, 4]]
        assert answers[0][1] < 1.0 and all(waited > 0 for _, waited in answers[1:])
        await lane.close()

    asyncio.run(scenario())


def test_a_cancelled_request_is_left_out_of_the_next_batch_and_the_rest_are_answered():
    async def scenario():
        gate = Gate(hold=True)
        lane = batcher(gate)
        first = asyncio.create_task(lane.submit(1))
        await until(gate.entered.is_set)
        gone, stays = asyncio.create_task(lane.submit(2)), asyncio.create_task(lane.submit(3))
        await until(lambda: lane.queued_weight == 2)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        assert (await first)[0] == 10 and (await stays)[0] == 30
        assert gone.cancelled()
        assert gate.batches == [[1], [3]]
        await lane.close()

    asyncio.run(scenario())


def test_requests_cancelled_while_their_batch_runs_do_not_end_the_lane():
    async def scenario():
        gate = Gate(hold=True)
        lane = batcher(gate)
        running = asyncio.create_task(lane.submit(1))
        await until(gate.entered.is_set)
        running.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        assert (await asyncio.wait_for(lane.submit(2), 5))[0] == 20
        assert lane.stuck_s() < 1.0
        await lane.close()

    asyncio.run(scenario())


def test_many_callers_that_come_and_go_leave_a_working_lane():
    async def scenario():
        lane = batcher(lambda items: (time.sleep(0.001), [item * 10 for item in items])[1], max_queued=1000)

        async def caller(number: int) -> int:
            task = asyncio.create_task(lane.submit(number))
            if number % 3 == 0:
                await asyncio.sleep(0.0005 * (number % 7))
                task.cancel()
            try:
                return (await task)[0]
            except asyncio.CancelledError:
                return number * 10

        assert await asyncio.gather(*(caller(number) for number in range(300))) == [
            number * 10 for number in range(300)
        ]
        assert (await asyncio.wait_for(lane.submit(7), 5))[0] == 70
        assert lane.queued_weight == 0
        await lane.close()

    asyncio.run(scenario())


def test_a_poisoned_request_fails_alone():
    def run(items):
        if 13 in items:
            raise InputError("13 is not taken")
        return items

    async def scenario():
        gate = threading.Event()
        lane = batcher(lambda items: (gate.wait(5), run(items))[1])
        tasks = [asyncio.create_task(lane.submit(item)) for item in (0, 12, 13, 14)]
        await asyncio.sleep(0.02)
        gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answer[0] for answer in (answers[0], answers[1], answers[3])] == [0, 12, 14]
        assert isinstance(answers[2], InputError)
        await lane.close()

    asyncio.run(scenario())


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    async def scenario():
        gate = Gate(hold=True)
        lane = batcher(gate, max_queued=4)
        running = asyncio.create_task(lane.submit(0))
        await until(gate.entered.is_set)
        waiting = [asyncio.create_task(lane.submit(item, weight=2)) for item in (1, 2)]
        await until(lambda: lane.queued_weight == 4)
        with pytest.raises(OverloadedError, match="4 queries are waiting and at most 4 may"):
            await asyncio.wait_for(lane.submit(3), 0.5)
        assert lane.retry_after_s() >= 1
        gate.open.set()
        await asyncio.gather(running, *waiting)
        assert (await lane.submit(3))[0] == 30
        await lane.close()

    asyncio.run(scenario())


def test_weights_bound_a_batch_and_a_heavier_item_still_runs_alone():
    async def scenario():
        gate = Gate(hold=True)
        lane = batcher(gate, max_batch=4, max_queued=100)
        first = asyncio.create_task(lane.submit(0))
        await until(gate.entered.is_set)
        rest = [
            asyncio.create_task(lane.submit(item, weight)) for item, weight in ((1, 3), (2, 1), (3, 1), (4, 9), (5, 1))
        ]
        await until(lambda: lane.queued_weight == 15)
        gate.open.set()
        await asyncio.gather(first, *rest)
        assert gate.batches == [[0], [1, 2], [3], [4], [5]]
        await lane.close()

    asyncio.run(scenario())


def test_closing_fails_those_who_wait_and_hangs_nobody():
    async def scenario():
        gate = Gate(hold=True)
        lane = batcher(gate)
        running, waiting = asyncio.create_task(lane.submit(1)), None
        await until(gate.entered.is_set)
        waiting = asyncio.create_task(lane.submit(2))
        await until(lambda: lane.queued_weight == 1)
        closing = asyncio.create_task(lane.close())
        await asyncio.sleep(0.01)
        gate.open.set()
        await closing
        with pytest.raises(OverloadedError, match="shutting down"):
            await asyncio.wait_for(waiting, 5)
        with pytest.raises(OverloadedError, match="shutting down"):
            await lane.submit(3)
        assert running.done() or await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 5)

    asyncio.run(scenario())


class Threads:
    """A `run` that notes how many items came on which thread, and takes `seconds` for each batch."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.seen: list[tuple[int, bool]] = []

    def __call__(self, items):
        time.sleep(self.seconds)
        self.seen.append((len(items), threading.current_thread() is threading.main_thread()))
        if -1 in items:
            raise InputError("poisoned")
        return [item * 10 for item in items]


async def measured_lane():
    """A lane that knows how long one item takes, and its `run`."""
    run = Threads()
    lane = batcher(run)
    await lane.submit(0, quick=True)
    return run, lane


@pytest.fixture
def patient(monkeypatch):
    """A busy machine may take 20 ms for nothing."""
    monkeypatch.setattr("retort.serving.batcher._QUICK_S", 10.0)


@pytest.mark.usefixtures("patient")
def test_a_quick_item_that_comes_alone_runs_where_it_is_once_it_is_known_to_be_quick():
    async def scenario():
        run = Threads()
        lane = batcher(run)
        for item in range(3):
            assert (await lane.submit(item, quick=True))[0] == item * 10
        assert run.seen == [(1, False), (1, True), (1, True)], "the first one is measured on its lane"
        assert (await lane.submit(5))[0] == 50
        assert (await lane.submit(6, weight=2, quick=True))[0] == 60
        assert run.seen[3:] == [(1, False), (1, False)], "not asked for, and too heavy"
        with pytest.raises(InputError, match="poisoned"):
            await lane.submit(-1, quick=True)
        assert run.seen[5] == (1, True)
        assert lane.stuck_s() == 0.0
        assert (await lane.submit(7, quick=True))[0] == 70
        await lane.close()
        with pytest.raises(OverloadedError):
            await lane.submit(8, quick=True)

    asyncio.run(scenario())


@pytest.mark.usefixtures("patient")
def test_quick_items_that_come_together_share_a_batch_on_the_lane():
    async def scenario():
        run, lane = await measured_lane()
        answers = await asyncio.gather(*(lane.submit(item, quick=True) for item in range(6)))
        assert [value for value, _ in answers] == [item * 10 for item in range(6)]
        assert run.seen == [(1, False), (6, False)]
        await lane.close()

    asyncio.run(scenario())


def test_while_a_lane_runs_and_after_slow_items_quick_ones_wait_for_the_lane():
    async def scenario():
        run = Threads(0.05)
        lane = batcher(run)
        for item in range(3):
            await lane.submit(item, quick=True)
        assert [here for _, here in run.seen] == [False, False, False], "50 ms would stop the loop for too long"
        run.seconds = 0.0
        for item in range(12):
            await lane.submit(item, quick=True)
        assert run.seen[-1] == (1, True), "what it learns, it forgets again"
        gate = Gate(hold=True)
        lane = batcher(gate)
        gate.open.set()
        await lane.submit(1, quick=True)
        gate.open.clear()
        gate.entered.clear()
        running = asyncio.create_task(lane.submit(2))
        await until(gate.entered.is_set)
        behind = asyncio.create_task(lane.submit(3, quick=True))
        await until(lambda: lane.queued_weight == 1)
        gate.open.set()
        assert [value for value, _ in await asyncio.gather(running, behind)] == [20, 30]
        await lane.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("patient")
def test_a_caller_that_leaves_before_its_quick_item_runs_is_forgotten():
    async def scenario():
        run, lane = await measured_lane()
        leaving = asyncio.create_task(lane.submit(1, quick=True))
        await asyncio.sleep(0)  # it is looking round
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert leaving.cancelled()
        assert run.seen == [(1, False)]
        assert (await lane.submit(2, quick=True))[0] == 20
        assert run.seen[-1] == (1, True)
        await lane.close()

    asyncio.run(scenario())
