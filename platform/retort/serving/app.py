"""Serving from a config: the application builder for `serve deploy`, and running it here until Ctrl-C.

build(config) -> serve.Application      what serve_apps/search.py binds
serving(config)                         the endpoint while a context is open
run(config)                             the same, until Ctrl-C: `retort serve INDEX`
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from retort.config import validated
from retort.errors import RetortError, StorageError
from retort.progress import QUIET, Progress
from retort.releases.release import Release, load_release
from retort.resources import available_cores
from retort.serving.config import ServeConfig, followed_release, release_of
from retort.serving.front import check_port
from retort.serving.gate import Gate
from retort.store import open_store

if TYPE_CHECKING:
    from ray.serve import Application
    from rich.console import Console

__all__ = ["Endpoint", "ServeConfig", "build", "check_port", "release_of", "run", "serving"]

_READY_TIMEOUT_S = 120.0
_BUSY_POLL_MS = 1.0


def build(config: ServeConfig | Mapping[str, Any]) -> Application:
    """The Ray Serve application; every setting of it comes from the config (as Serve gives it: the `args` of its file)."""
    if not isinstance(config, ServeConfig):
        config = validated(ServeConfig, dict(config), "serve")
    from retort.serving.deployments import application
    from retort.serving.replica import ReplicaSettings, ReplicaTarget

    Gate(None, rate=config.rate, storage=config.rate_storage)  # a rate that is none is told here, not by a replica
    store = open_store(config.store)
    release: Release | None = None
    name: str | None = None
    try:
        name = followed_release(config, store).name
    except StorageError:
        # A store that may only be read holds no pointer of ours: what is served then stays as it is.
        release = release_of(config, store)
    resources = config.resources.resolve()
    most_replicas = config.max_replicas or config.replicas
    target = ReplicaTarget(
        release=name,
        poll_s=config.poll_s,
        max_batch_queries=config.max_batch_queries,
        max_queued_queries=config.max_queued_queries,
        max_query_chars=config.max_query_chars,
        max_rerank=config.max_rerank,
        busy_poll_ms=_busy_poll_ms(config.busy_poll_ms, most_replicas * resources.threads),
        request_timeout_s=config.request_timeout_s,
    )
    settings = ReplicaSettings(
        store=store.uri,
        threads=resources.threads,
        target=target,
        release=release,
        backend=config.backend,
        cache_answers=config.cache_answers,
        auth=config.auth,
        rate=config.rate,
        rate_storage=config.rate_storage,
        replicas=most_replicas,
        shard_timeout_s=config.shard_timeout_s,
        log=config.log,
    )
    parts = 0
    if config.placement == "scattered":
        current = release or load_release(store, str(name))
        parts = config.parts or len(current.index.find(store).json("index.json")["shards"])
    return application(
        settings,
        config.resources,
        max_ongoing_requests=config.max_ongoing_requests,
        drain_s=config.drain_s,
        max_replicas=config.max_replicas,
        parts=parts,
    )


def _busy_poll_ms(asked: float | None, threads: int) -> float:
    """What is asked for; else some where the replicas' threads leave a core free, for whoever polls takes time from who works."""
    if asked is not None:
        return asked
    return _BUSY_POLL_MS if threads < available_cores() else 0.0


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    url: str
    proxy: str
    seconds_to_ready: float


@contextmanager
def serving(config: ServeConfig, progress: Progress = QUIET, *, leave: bool = False) -> Iterator[Endpoint]:
    """Serve while the context is open; joins or starts Ray, and ends only what it started.

    `leave` skips the orderly end of Serve, for a Ray instance that ends with this process.

    Raises BusyError (port taken, Serve already there), ConfigError (host, port), NotFoundError and IncompatibleError before
    anything is started.
    """
    began = time.monotonic()
    check_port(config.host, config.port)
    app = build(config)
    from retort.runtime.connecting import connected
    from retort.serving.deployments import started

    url = f"http://{_reachable(config.host)}:{config.port}"
    # Somebody waits for what a replica does.
    with connected(worker_niceness=0), ExitStack() as stack:
        with progress.task(f"starting the endpoint on {url}"):
            context = started(
                app,
                config.host,
                config.port,
                proxy=config.proxy,
                request_timeout_s=config.request_timeout_s,
                most_requests=config.max_ongoing_requests,
                leave=leave,
            )
            proxy = stack.enter_context(context)
            _wait_until_ready(url)
        yield Endpoint(url, proxy, time.monotonic() - began)


def _is_this_machine(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _reachable(host: str) -> str:
    """A host that this machine can ask, for one that it listens on."""
    if host in ("0.0.0.0", ""):
        return "127.0.0.1"
    return "[::1]" if host == "::" else f"[{host}]" if ":" in host else host


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    last = "no answer"
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                answer = client.get(f"{url}/readyz")
                if answer.status_code == 200:
                    return
                last = f"HTTP {answer.status_code}"
            except httpx.HTTPError as error:
                last = str(error) or type(error).__name__
            time.sleep(0.05)
    raise RetortError(
        f"The endpoint at {url} was not ready within {_READY_TIMEOUT_S:.0f} s ({last}). Ray's logs are in /tmp/ray/session_latest/logs/serve."
    )


def run(config: ServeConfig, console: Console | None = None, progress: Progress = QUIET) -> None:
    """Serve until Ctrl-C (or SIGTERM); prints where."""
    # Without RAY_ADDRESS, Ray is this process's own (runtime.connecting) and ends with it.
    own_ray = not os.environ.get("RAY_ADDRESS")
    # Twice: starting Ray puts its core's own handler over the first, which would end this process with a stack trace.
    with _ended_by_sigterm(), serving(config, progress, leave=own_ray) as endpoint, _ended_by_sigterm():
        _say(console, f"Search page   {endpoint.url}/")
        _say(console, f"API           {endpoint.url}/docs")
        if config.auth == "off" and not _is_this_machine(config.host):
            _say(console, "Anybody who reaches this port may ask: `--auth keys` asks for a key.")
        _say(console, f"Ready after {endpoint.seconds_to_ready:.1f} s. Ctrl-C ends it.")
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
        _say(console, "Ending.")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does, so that a process manager leaves no Ray processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _say(console: Console | None, text: str) -> None:
    if console is None:
        print(text, flush=True)
    else:
        console.print(text, highlight=False)
