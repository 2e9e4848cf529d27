"""Changes of a running endpoint under load, each of which may cost no request: two replicas, a real cluster config."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from harness import Report, Row, console
from serving_load import Seen, steady

from retort.store import Artefact, open_store

NAME = "serving-bench"
CLIENTS = 4


def perturbed_encoder(encoder: Artefact) -> Artefact:
    """A query encoder of the same passage space whose weights differ by a hair."""
    import torch

    from retort.models.dual_encoder import DualEncoder
    from retort.models.imports import encoder_artefact

    model = DualEncoder.load(encoder.local(), device="cpu", precision="fp32")
    space, generator = model.passage_space, torch.Generator().manual_seed(13)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight += 1e-4 * weight.abs().mean() * torch.randn(weight.shape, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "serving-perturbed"
        model.save(target, passage_space=space)
        return encoder_artefact(str(target), open_store(encoder.store_area().uri))


class Cluster:
    """The endpoint in this process's Ray, deployed from a config as `serve deploy` does it."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def deploy(self, replicas: int, *, drain_s: float | None = None, **user_config: Any) -> None:
        """Give Serve the config with these changes, and wait until it is as it says."""
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        fields = {"store", "index", "threads", "cache_answers", "poll_s"}
        args = {**self.config.model_dump(include=fields), "replicas": 2}
        if drain_s is not None:
            args["drain_s"] = drain_s
        deployment: dict[str, Any] = {"name": "search", "num_replicas": replicas}
        if user_config:
            deployment["user_config"] = user_config
        application = {
            "name": "retort",
            "route_prefix": "/",
            "import_path": "retort.serving.app:build",
            "args": args,
            "deployments": [deployment],
        }
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}))
        time.sleep(1)  # the controller's own time to look at it
        wait_for(lambda: self._settled(replicas), 300)

    @staticmethod
    def _settled(replicas: int) -> bool:
        from ray import serve

        application = serve.status().applications.get("retort")
        if application is None or application.status != "RUNNING":
            return False
        return all(
            sum(deployment.replica_states.values()) == deployment.replica_states.get("RUNNING", 0) == replicas
            for deployment in application.deployments.values()
        )

    def replicas(self) -> list[psutil.Process]:
        """Processes of the replicas that answer, oldest first."""
        found = [
            one for one in psutil.Process().children(recursive=True) if "ServeReplica:retort:search" in _command(one)
        ]
        return sorted(found, key=lambda one: one.create_time())


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def proxy_resends() -> int | None:
    """Requests that HAProxy sent again so far, from its statistics; None without it."""
    for process in psutil.Process().children(recursive=True):
        command = _command(process)
        if "h.cfg" in command and "haproxy" in command:
            folder = command[command.index("/tmp/rs-") :].split("/")[2]  # private_folder of serving/front.py
            socket = Path("/tmp") / folder / "statistics.sock"
            if not socket.exists():
                return None
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=5) as http:
                for path in ("/stats;csv", "/;csv"):
                    answer = http.get(f"http://haproxy{path}")
                    if answer.status_code == 200 and answer.text.startswith("# pxname"):
                        rows = [line.split(",") for line in answer.text.splitlines()]
                        columns = [rows[0].index("wretr"), rows[0].index("wredis")]
                        backends = [row for row in rows[1:] if len(row) > 2 and row[1] == "BACKEND"]
                        return sum(int(row[column] or 0) for row in backends for column in columns)
    return None


def wait_for(done: Callable[[], bool], seconds: float = 60) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not done() and time.monotonic() < began + seconds:
        time.sleep(0.01)
    return time.monotonic() - began


def changes(report: Report, index: Artefact, bodies: Path, settle_s: float) -> None:
    """Every change under load, its failures counted: first tries that failed are sent again once, as every client of ours does."""
    from retort.indexing.build import IndexConfig
    from retort.indexing.build import index as build_index
    from retort.releases.release import make_release, save_release
    from retort.runtime.connecting import connected
    from retort.serving.app import ServeConfig, serving
    from retort.serving.front import free_port

    store = open_store(index.store_area().uri)
    embeddings = index.input("embeddings")
    own = embeddings.input("encoder")
    other = build_index(IndexConfig(embeddings=embeddings.uri, kind="flat", name="serving-flat", store=store.uri))
    tuned = perturbed_encoder(own)
    first = make_release(store, index, {"minilm": own}, name=NAME)
    save_release(store, first)
    config = ServeConfig(
        store=store.uri, index=NAME, port=free_port(), replicas=2, threads=1, cache_answers=0, poll_s=0.5
    )
    url = f"http://127.0.0.1:{config.port}/v1/search"
    events: dict[str, dict[str, Any]] = {}
    with connected(), serving(config):
        cluster = Cluster(config)

        def under_load(name: str, change: Callable[[Seen], Any]) -> None:
            before = proxy_resends()
            with steady(url, bodies, CLIENTS) as seen:
                time.sleep(settle_s / 4)
                took = change(seen)
                time.sleep(settle_s)
            after = proxy_resends()
            resent = None if before is None or after is None else after - before
            events[name] = {
                "failed": len(seen.failed), "answered": seen.answered, "resent_by_client": seen.resent, "resent_by_proxy": resent,
                "slowest_ms": round(seen.slowest_ms, 1), "seconds": took, "first_failures": seen.failed[:3],
            }  # fmt: skip
            console.print(f"  {name}: {events[name]}")

        def promote(release: Any) -> Callable[[Seen], float]:
            def change(seen: Seen) -> float:
                version = save_release(store, release)
                return round(wait_for(lambda: version in seen.versions), 2)

            return change

        def kill(seen: Seen) -> float:
            victim = cluster.replicas()[0]
            os.kill(victim.pid, signal.SIGKILL)
            return round(wait_for(lambda: len([one for one in cluster.replicas() if one.pid != victim.pid]) == 2), 2)

        def timed(work: Callable[[], None]) -> Callable[[Seen], float]:
            def change(seen: Seen) -> float:
                began = time.monotonic()
                work()
                return round(time.monotonic() - began, 2)

            return change

        under_load("release_swap", promote(make_release(store, other, {"minilm": own}, name=NAME)))
        under_load("encoder_swap", promote(make_release(store, other, {"tuned": tuned}, name=NAME)))
        under_load("roll_back", promote(first))
        under_load("replica_kill", kill)
        under_load("config_redeploy", timed(lambda: cluster.deploy(2, drain_s=8)))
        under_load("scale_up", timed(lambda: cluster.deploy(3, drain_s=8)))
        under_load("config_in_place", timed(lambda: cluster.deploy(3, drain_s=8, max_queued_queries=300, release=NAME)))
        under_load("scale_down", timed(lambda: cluster.deploy(2, drain_s=8)))
    report.details["changes"] = events
    failed = sum(event["failed"] for event in events.values())
    note = "; ".join(
        f"{name}: {event['answered']} answered, {event['resent_by_client']} sent again by the client, {event['resent_by_proxy']} by the proxy"
        for name, event in events.items()
    )
    report.add(Row("failed_during_changes", "requests", failed, target="0", met=failed == 0, note=note))
    swap = events["release_swap"]["seconds"]
    report.add(
        Row("promote_to_answers_s", "s", swap, note="from the pointer's move to the first answer of the new release")
    )
