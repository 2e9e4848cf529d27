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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, model_validator

from retort.errors import NotFoundError, RetortError, StorageError
from retort.progress import QUIET, Progress
from retort.releases.release import Release, has_release, load_release, make_release, save_release
from retort.resources import Resources
from retort.serving.front import check_port
from retort.serving.models import MAX_QUERIES
from retort.store import Store, open_store

if TYPE_CHECKING:
    from ray.serve import Application
    from rich.console import Console

__all__ = ["Endpoint", "ServeConfig", "build", "check_port", "release_of", "run", "serving"]

_READY_TIMEOUT_S = 120.0


class ServeConfig(BaseModel):
    """What to serve, where, and with how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")
    index: str | None = Field(None, description="The index to serve: a name, key or URI; or the name of a release.")
    encoder: str | None = Field(None, description="The query encoder. Default: the one that made the index.")
    encoders: dict[str, str] = Field(
        default_factory=dict,
        description="Further query encoders: the name that requests use -> artefact. All must fit the index.",
    )
    host: str = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 for all interfaces. Other machines reach it then."
    )
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    replicas: int = Field(1, ge=1, description="Copies of encoder and index that answer.")
    cpus_per_replica: float | None = Field(
        None, gt=0, description="CPUs that Ray reserves for a replica. Default: half a CPU."
    )
    gpus_per_replica: float | None = Field(
        None, ge=0, description="GPUs for a replica. Default: one where there are any."
    )
    threads: int | None = Field(
        None, ge=1, description="Threads of torch and FAISS in a replica. Default: cores over replicas."
    )
    max_ongoing_requests: int = Field(
        512, ge=1, description="Requests that a replica holds at once, waiting ones included."
    )
    max_batch_queries: int = Field(64, ge=1, description="Queries encoded and searched together.")
    max_queued_queries: int = Field(
        512, ge=MAX_QUERIES, description="Queries that may wait; beyond them requests get 503 at once."
    )
    max_query_chars: int = Field(8000, ge=1, description="Longest query in characters.")
    request_timeout_s: float = Field(30.0, gt=0, description="Seconds after which a request gets 504.")
    drain_s: float = Field(
        10.0, ge=0, description="Seconds that a replica being replaced stays for connections to move away."
    )
    poll_s: float = Field(
        1.0, gt=0, le=3600, description="About every so many seconds a replica looks whether its release was changed."
    )
    proxy: Literal["auto", "haproxy", "ray"] = Field(
        "auto", description="HTTP front: HAProxy where it is installed, or Ray's own."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.index:
            raise ValueError(
                "index is missing: name the index (or release) to serve, for example `retort serve quickstart-student-index`"
            )
        return self

    @property
    def resources(self) -> Resources:
        """Replicas, CPUs, GPUs and threads in the form that all stages use."""
        return Resources(
            workers=self.replicas,
            cpus_per_worker=self.cpus_per_replica,
            gpus_per_worker=self.gpus_per_replica,
            threads=self.threads,
        )


def release_of(config: ServeConfig, store: Store | None = None) -> Release:
    """The release that a config means: a saved one by name, or one made of an index and encoders.

    Raises NotFoundError, or IncompatibleError for an encoder that does not fit.
    """
    store = store or open_store(config.store)
    assert config.index, "ServeConfig checks this"
    if not config.encoder and not config.encoders and _is_release(store, config.index):
        return load_release(store, config.index)
    index = store.get(config.index, "index")
    encoders = {}
    if config.encoder:
        found = store.get(config.encoder, "encoder")
        encoders[found.name] = found
    elif config.encoders:
        own = index.input("embeddings").input("encoder")
        encoders[own.name] = own
    encoders.update({name: store.get(ref, "encoder") for name, ref in config.encoders.items()})
    return make_release(store, index, encoders or None)


def _is_release(store: Store, name: str) -> bool:
    try:
        store.get(name, "index")
    except NotFoundError:
        return has_release(store, name)
    return False


def followed_release(config: ServeConfig, store: Store) -> Release:
    """The release that the endpoint follows: saved under its name, so that `retort promote` can change it in flight.

    A saved release of the config's name is taken as it is, unless `retort serve` made it itself of an older index; a
    release made of an index (and encoders) is saved when it differs from what the name held.
    """
    assert config.index, "ServeConfig checks this"
    plain_name = not config.encoder and not config.encoders and has_release(store, config.index)
    saved = load_release(store, config.index) if plain_name else None
    if saved is not None and saved.origin == "promote":
        return saved
    wished = release_of(config, store).model_copy(update={"origin": "serve"})
    if has_release(store, wished.name):
        held = load_release(store, wished.name)
        if held.model_copy(update={"created": wished.created}) == wished:
            return held
    save_release(store, wished)
    return wished


def build(config: ServeConfig) -> Application:
    """The Ray Serve application; every setting of it comes from the config."""
    from retort.serving.deployments import ReplicaSettings, ReplicaTarget, application

    store = open_store(config.store)
    release: Release | None = None
    name: str | None = None
    try:
        name = followed_release(config, store).name
    except StorageError:
        # A store that may only be read holds no pointer of ours: what is served then stays as it is.
        release = release_of(config, store)
    target = ReplicaTarget(
        release=name,
        poll_s=config.poll_s,
        max_batch_queries=config.max_batch_queries,
        max_queued_queries=config.max_queued_queries,
        max_query_chars=config.max_query_chars,
        request_timeout_s=config.request_timeout_s,
    )
    settings = ReplicaSettings(
        store=store.uri, threads=config.resources.resolve().threads, target=target, release=release
    )
    return application(
        settings, config.resources, max_ongoing_requests=config.max_ongoing_requests, drain_s=config.drain_s
    )


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
    with connected(), ExitStack() as stack:
        with progress.task(f"starting the endpoint on {url}"):
            context = started(
                app,
                config.host,
                config.port,
                proxy=config.proxy,
                request_timeout_s=config.request_timeout_s,
                leave=leave,
            )
            proxy = stack.enter_context(context)
            _wait_until_ready(url)
        yield Endpoint(url, proxy, time.monotonic() - began)


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
