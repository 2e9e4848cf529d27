"""Many small requests into batches, without waiting for more.

A lane takes whatever queued while its last batch ran: alone, a request starts at once; under load, batches grow by
themselves. (A fixed wait costs every request that wait at low load, and a batch size is wrong at any other load.)

A quick item that comes alone is run where it is, on the event loop: two changes of thread cost a lone short query more than
its search. Nothing else is heard while it runs, so the caller must know it for quick, and the last ones must have been.

A caller that goes away cancels its own future only: cancelled items are skipped when a batch is taken, results for
callers that left meanwhile are dropped, and a batch that fails is tried again one item at a time, so that no request can
fail its neighbours or end the lane.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from retort.errors import OverloadedError, RetortError

log = logging.getLogger(__name__)

In = TypeVar("In")
Out = TypeVar("Out")

_SMOOTHING = 0.2
_QUICK_S = 0.02


@dataclass
class _Waiting(Generic[In, Out]):
    item: In
    weight: int
    future: asyncio.Future[tuple[Out, float]]
    queued: float


class Batcher(Generic[In, Out]):
    """Runs `run(items) -> results` (same length, same order) on `lanes` threads, at most one batch each.

    `max_batch` bounds the weight of a batch (a single heavier item still runs, alone), `max_queued` the weight waiting.
    All methods belong to one event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[In]], Sequence[Out]],
        *,
        max_batch: int,
        max_queued: int,
        lanes: int = 1,
        name: str = "batch",
    ) -> None:
        self._run = run
        self.max_batch = max_batch
        self.max_queued = max_queued
        self._lanes = lanes
        self._executor = ThreadPoolExecutor(lanes, thread_name_prefix=name)
        self._queue: deque[_Waiting[In, Out]] = deque()
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._second_per_weight = 0.0
        self._alone_s: float | None = None
        """How long one item alone runs: the longest, slowly forgotten; None before the first one did."""
        self._running_since: dict[int, float] = {}
        self._coming = 0
        self.queued_weight = 0
        """Weight waiting now, without what is running."""

    async def submit(
        self, item: In, weight: int = 1, *, quick: bool = False, timeout_s: float | None = None
    ) -> tuple[Out, float]:
        """The item's result and the seconds it waited; OverloadedError at once when the queue is full, TimeoutError after `timeout_s`.

        `quick`: it may run on the event loop, where nothing can cut it off, if nobody else asks and the last ones that ran alone
        were over in 20 ms.
        """
        if quick and weight == 1 and self._alone_s is not None and self._alone_s < _QUICK_S and await self._is_alone():
            return self._run_here(item), 0.0
        if self._closed:
            raise OverloadedError("This replica is shutting down: send the request again.")
        if self.queued_weight and self.queued_weight + weight > self.max_queued:
            raise OverloadedError(
                f"{self.queued_weight} queries are waiting and at most {self.max_queued} may: send the request again in {self.retry_after_s()} s."
            )
        self._start()
        waiting: _Waiting[In, Out] = _Waiting(
            item, weight, asyncio.get_running_loop().create_future(), time.monotonic()
        )
        self._queue.append(waiting)
        self.queued_weight += weight
        self._arrived.set()
        async with asyncio.timeout(timeout_s):
            return await waiting.future

    async def _is_alone(self) -> bool:
        """Whether nothing runs or waits, and nobody came with this item."""
        if self._closed or not self.idle:
            return False
        self._coming += 1
        try:
            await asyncio.sleep(0)  # requests that were read together get as far as this
            return self._coming == 1 and self.idle and not self._closed
        finally:
            self._coming -= 1

    def _run_here(self, item: In) -> Out:
        began = time.monotonic()
        self._running_since[id(item)] = began
        try:
            (result,) = self._run([item])
        except Exception as error:
            if not isinstance(error, RetortError):
                log.exception("a request failed")
            raise
        finally:
            del self._running_since[id(item)]
            self._note(1, 1, time.monotonic() - began)
        return result

    def _note(self, items: int, weight: int, seconds: float) -> None:
        """Learn from a batch how long the next ones will take."""
        self._second_per_weight += _SMOOTHING * (seconds / weight - self._second_per_weight)
        if items == weight == 1:
            before = seconds if self._alone_s is None else self._alone_s
            self._alone_s = max(seconds, before + _SMOOTHING * (seconds - before))

    def retry_after_s(self) -> int:
        """Whole seconds after which the queue of now should be empty; at least 1."""
        return max(1, min(60, round(self.queued_weight * self._second_per_weight / self._lanes + 0.5)))

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not (self._running_since or self._queue)

    def stuck_s(self) -> float:
        """How long the oldest running batch has been running, in seconds; 0 when idle."""
        return time.monotonic() - min(self._running_since.values()) if self._running_since else 0.0

    async def close(self) -> None:
        """Refuse new items, fail those that wait, let running batches end."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiting in self._queue:
            if not waiting.future.done():
                waiting.future.set_exception(OverloadedError("This replica is shutting down: send the request again."))
        self._queue.clear()
        self.queued_weight = 0
        self._executor.shutdown(wait=False)

    def _start(self) -> None:
        """Lanes start with the first item; one that ended (it should not) is replaced."""
        self._tasks = [task for task in self._tasks if not task.done()]
        while len(self._tasks) < self._lanes:
            self._tasks.append(asyncio.get_running_loop().create_task(self._lane()))

    async def _lane(self) -> None:
        while True:
            while not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._take()
            if not batch:
                continue
            began = time.monotonic()
            self._running_since[id(batch)] = began
            try:
                await self._answer(batch, began)
            except asyncio.CancelledError:
                for waiting in batch:
                    if not waiting.future.done():
                        waiting.future.set_exception(
                            OverloadedError("This replica is shutting down: send the request again.")
                        )
                raise
            finally:
                del self._running_since[id(batch)]
            self._note(len(batch), sum(waiting.weight for waiting in batch), time.monotonic() - began)

    def _take(self) -> list[_Waiting[In, Out]]:
        """The next batch, in order of arrival; callers that left are passed over."""
        batch: list[_Waiting[In, Out]] = []
        weight = 0
        while self._queue and (not batch or weight + self._queue[0].weight <= self.max_batch):
            waiting = self._queue.popleft()
            self.queued_weight -= waiting.weight
            if not waiting.future.done():
                batch.append(waiting)
                weight += waiting.weight
        return batch

    async def _answer(self, batch: list[_Waiting[In, Out]], began: float) -> None:
        """Run one batch and hand out its results; errors go to the futures, never further."""
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._executor, self._run, [waiting.item for waiting in batch])
            assert len(results) == len(batch), f"{len(batch)} items gave {len(results)} results"
        except Exception as error:
            if len(batch) == 1:
                if not isinstance(error, RetortError):
                    log.exception("a request failed")
                if not batch[0].future.done():
                    batch[0].future.set_exception(error)
                return
            # One of them spoils the batch: find out which, so that the others are answered.
            for waiting in batch:
                if not waiting.future.done():
                    await self._answer([waiting], began)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result((result, began - waiting.queued))
