"""What one replica is made of, without Ray: settings, the engine that follows its release, the gate before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from retort.releases.release import Release
from retort.resources import limit_threads
from retort.serving.caching import vectors_for
from retort.serving.engine import EngineLimits, SearchEngine
from retort.serving.following import ReleaseFollower, Target, first_served
from retort.serving.gate import Gate
from retort.serving.journal import Level
from retort.serving.keys import KeyRing
from retort.serving.metrics import ServingMetrics
from retort.serving.opening import Parts
from retort.serving.scattered import Part, ScatteredIndex
from retort.serving.served import Served
from retort.store import open_store

__all__ = ["ReplicaSettings", "ReplicaTarget", "Running", "open_replica", "scaling"]


class ReplicaTarget(BaseModel):
    """What can change while a replica runs: Serve's `user_config`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str | None = Field(
        None, description="Name of the saved release to follow; None: the one given at the start."
    )
    poll_s: float = Field(1.0, gt=0)
    max_batch_queries: int
    max_queued_queries: int
    max_query_chars: int
    max_rerank: int
    busy_poll_ms: float = 0.0
    request_timeout_s: float

    @property
    def limits(self) -> EngineLimits:
        """The engine's share of it."""
        return EngineLimits(**self.model_dump(exclude={"release", "poll_s"}))


class ReplicaSettings(BaseModel):
    """What a replica is given when it starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    threads: int = Field(ge=1)
    target: ReplicaTarget
    release: Release | None = Field(None, description="What to serve when no saved release is followed.")
    cache_answers: int = Field(default=0, ge=0)
    backend: Literal["torch", "onnx", "onnx-int8"] = "torch"
    auth: Literal["off", "keys"] = "off"
    rate: str | None = None
    rate_storage: str = "memory://"
    replicas: int = 1
    shard_timeout_s: float = 2.0
    log: Level = "off"

    @model_validator(mode="after")
    def _something(self) -> Self:
        assert self.release or self.target.release, "a release, or the name of one"
        return self


@dataclass
class Running:
    """A replica's parts."""

    engine: SearchEngine
    gate: Gate
    follower: ReleaseFollower | None
    ring: KeyRing | None

    def retarget(self, target: ReplicaTarget) -> None:
        """Record what to be at; the follower's thread goes there."""
        self.engine.limit(target.limits)
        if self.follower is not None and target.release is not None:
            self.follower.target = Target(target.release, target.poll_s)

    def close(self) -> None:
        """End the threads."""
        if self.follower is not None:
            self.follower.stop()
        if self.ring is not None:
            self.ring.close()


def open_replica(settings: ReplicaSettings, replica: str, parts_of_index: Sequence[Part] = ()) -> Running:
    """Load everything; with `parts_of_index` the index lies in these, else in this process. Raises what is wrong with the release, the keys or the rate."""
    # Serve limits OMP to the reserved CPUs; threads are set here, explicitly, for torch, FAISS and the tokenizers.
    limit_threads(settings.threads)
    store, target = open_store(settings.store), settings.target
    ring = KeyRing(store) if settings.auth == "keys" else None
    gate = Gate(ring, rate=settings.rate, storage=settings.rate_storage, replicas=settings.replicas)
    kept = settings.cache_answers
    elsewhere = partial(ScatteredIndex, parts=parts_of_index, timeout_s=settings.shard_timeout_s)
    parts = Parts(
        store,
        threads=settings.threads,
        backend=settings.backend,
        kept_vectors=vectors_for(kept),
        open_index=elsewhere if parts_of_index else None,
    )

    def opened(release: Release, version: int) -> Served:
        return Served.of(release, version, parts.open(release), kept)

    metrics = ServingMetrics(replica)
    if target.release is None:
        assert settings.release is not None, "checked by the model"
        engine = SearchEngine(opened(settings.release, 0), limits=target.limits, metrics=metrics)
        return Running(engine, gate, None, ring)
    served, refused = first_served(store, target.release, opened, replica)
    engine = SearchEngine(served, limits=target.limits, metrics=metrics)
    engine.refused = refused
    follower = ReleaseFollower(store, engine, opened, Target(target.release, target.poll_s), replica)
    follower.start()
    return Running(engine, gate, follower, ring)


def scaling(replicas: int, most: int | None, in_flight: int) -> dict[str, Any]:
    """Serve's options for a fixed number of replicas, or between two so that each has so many requests in flight. The windows are long and the steps
    small, because replicas that come and go cost more than one that idles."""
    if most is None or most == replicas:
        return {"num_replicas": replicas}
    return {
        "autoscaling_config": {
            "min_replicas": replicas,
            "initial_replicas": replicas,
            "max_replicas": most,
            "target_ongoing_requests": in_flight,
            "look_back_period_s": 12.0,
            "upscale_delay_s": 12.0,
            "downscale_delay_s": 120.0,
            "upscaling_factor": 0.5,
            "downscaling_factor": 0.3,
        }
    }
