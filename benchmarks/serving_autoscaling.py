"""Replicas that come under load and go after it: how many, when, and what it cost the requests in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from harness import Report, Row, console
from serving_load import Load, closed_loop

from retort.store import Artefact

MOST = 2
LOAD_S = 90.0
CLIENTS = 64
PATIENCE_S = 300.0


def autoscaling(report: Report, index: Artefact, bodies: Path) -> None:
    """One replica, up to two: 64 clients until there have been two for a while, then one client until there is one again."""
    from ray import serve

    from retort.runtime.connecting import connected
    from retort.serving.app import ServeConfig, serving
    from retort.serving.front import free_port

    config = ServeConfig(
        store=index.store_area().uri,
        index=index.uri,
        port=free_port(),
        replicas=1,
        max_replicas=MOST,
        threads=1,
        cache_answers=0,
    )
    url = f"http://127.0.0.1:{config.port}/v1/search"
    seen: list[tuple[float, int]] = []  # (seconds, replicas that run), when it changed
    loads: list[Load] = []
    began = time.monotonic()

    def count() -> int:
        deployments = serve.status().applications["retort"].deployments.values()
        running = sum(deployment.replica_states.get("RUNNING", 0) for deployment in deployments)
        if not seen or seen[-1][1] != running:
            seen.append((round(time.monotonic() - began, 1), running))
            console.print(f"  {seen[-1][0]:.0f} s: {running} replicas")
        return running

    def under(clients: int, seconds: float, enough: Callable[[int, float], bool]) -> None:
        """Load in turns of some seconds while the replicas are counted, until it is enough."""
        ended = threading.Event()

        def load() -> None:
            while not ended.is_set():
                loads.append(closed_loop(url, clients, 10.0, bodies))

        thread = threading.Thread(target=load)
        thread.start()
        start = time.monotonic()
        while not enough(count(), time.monotonic() - start) and time.monotonic() < start + seconds:
            time.sleep(0.5)
        ended.set()
        thread.join()

    with connected(), serving(config, leave=True):
        began = time.monotonic()
        count()
        under(CLIENTS, LOAD_S, lambda _, __: False)
        loaded_s = time.monotonic() - began
        under(1, PATIENCE_S, lambda running, passed: running == 1 and passed > 20)
    report.details["autoscaling"] = {"replicas": seen, "loads": [vars(load) for load in loads]}
    ups = [at for (_, before), (at, after) in pairwise(seen) if after > before]
    downs = [at for (_, before), (at, after) in pairwise(seen) if after < before]
    failed = sum(load.bad for load in loads)
    steady = len(ups) == len(downs) == MOST - 1
    report.add(
        Row(
            "autoscale_up_s",
            "s",
            ups[0] if ups else None,
            note="from the first of 64 clients to the second replica's first query",
        )
    )
    report.add(Row("autoscale_down_s", "s", downs[0] - loaded_s if downs else None, note="from the end of the load"))
    note = f"replicas over time: {', '.join(f'{number} from {at:g} s' for at, number in seen)}"
    report.add(Row("autoscale_changes", "changes", len(ups) + len(downs), target="2", met=steady, note=note))
    report.add(
        Row("failed_during_autoscaling", "requests", failed, target="0", met=failed == 0, note="nothing was sent again")
    )
