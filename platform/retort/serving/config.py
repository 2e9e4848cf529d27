"""What `retort serve` and the application's `args` may say, and the release that they mean."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from retort.config import validated
from retort.errors import NotFoundError
from retort.releases.compose import carried_mask
from retort.releases.masks import masked_ref
from retort.releases.release import ArtefactRef, Release, has_release, load_release, make_release, save_release
from retort.releases.routing import Routing
from retort.resources import Resources
from retort.serving.journal import Level
from retort.serving.models import MAX_QUERIES
from retort.store import Store, open_store

__all__ = ["ServeConfig", "followed_release", "release_of"]


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
    bm25: bool = Field(False, description="Let requests ask for BM25 beside the vectors (`hybrid`).")
    reranker: str | None = Field(None, description="The teacher that may re-rank first hits (`rerank`).")
    routing: Routing | None = Field(
        None, description="Which encoder answers which request; best given in a YAML file (--config)."
    )
    host: str = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 for all interfaces. Other machines reach it then."
    )
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    placement: Literal["colocated", "scattered"] = Field(
        "colocated",
        description="colocated: every replica has the whole index (fastest, while it fits); scattered: its shards lie in "
        "processes of their own.",
    )
    parts: int | None = Field(
        None, ge=1, description="scattered: processes that the shards are spread over. Default: one for each shard."
    )
    shard_timeout_s: float = Field(
        2.0, gt=0, description="scattered: a shard that has not answered by then is left out of the answer."
    )
    replicas: int = Field(1, ge=1, description="Copies that answer; the fewest, with max_replicas.")
    max_replicas: int | None = Field(
        None, ge=1, description="Let Serve add copies under load, of replicas and of shards, up to so many."
    )
    cpus_per_replica: float | None = Field(
        None, gt=0, description="CPUs that Ray reserves for a replica. Default: half a CPU."
    )
    gpus_per_replica: float | None = Field(
        None, ge=0, description="GPUs for a replica. Default: one where there are any."
    )
    threads: int | None = Field(
        None, ge=1, description="Threads of torch and FAISS in a replica. Default: cores over replicas."
    )
    backend: Literal["torch", "onnx", "onnx-int8"] = Field(
        "torch",
        description="What query encoders run in. onnx (ONNX Runtime) is faster for single queries on a CPU, torch in bfloat16 "
        "for batches.",
    )
    max_ongoing_requests: int = Field(
        512,
        ge=1,
        description="Requests that a replica holds at once, waiting ones included; beyond them the front answers 503.",
    )
    max_batch_queries: int = Field(64, ge=1, description="Queries encoded and searched together.")
    max_queued_queries: int = Field(
        512, ge=MAX_QUERIES, description="Queries that may wait; beyond them requests get 503 at once."
    )
    max_query_chars: int = Field(8000, ge=1, description="Longest query in characters.")
    max_rerank: int = Field(100, ge=1, le=1000, description="Most hits that one request may have re-ranked.")
    busy_poll_ms: float | None = Field(
        None,
        ge=0,
        le=100,
        description="With nothing left to do after an answer, a replica polls for so long before it sleeps: quicker for the next "
        "query, at the price of that time of a core. Default: 1 where the replicas leave a core free, else 0.",
    )
    auth: Literal["off", "keys"] = Field(
        "off", description="keys: requests need an API key of the store (`retort keys make`)."
    )
    rate: str | None = Field(
        None, description="Queries allowed per key that has no rate of its own, such as 600/minute. Default: no limit."
    )
    rate_storage: str = Field(
        "memory://", description="Where rates are counted: each replica its share, or redis://HOST for all together."
    )
    log: Level = Field(
        "off", description="A JSON line per request on the replica's stderr; `queries` writes the query text too."
    )
    cache_answers: int = Field(1024, ge=0, description="Answers that a replica keeps for the same request; 0: none.")
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
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, less than replicas, which is {self.replicas}")
        return self

    @property
    def says_what(self) -> bool:
        """Whether it says more of what to serve than a name."""
        return bool(self.encoder or self.encoders or self.bm25 or self.reranker or self.routing)

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
    if not config.says_what and _is_release(store, config.index):
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
    release = make_release(store, index, encoders or None)
    teacher = store.get(config.reranker, "teacher") if config.reranker else None
    stages = {
        "bm25": config.bm25,
        "reranker": ArtefactRef.of(teacher) if teacher else None,
        "routing": config.routing.model_dump() if config.routing else None,
    }
    return validated(Release, {**release.model_dump(), **stages}, "retort serve")


def _is_release(store: Store, name: str) -> bool:
    try:
        store.get(name, "index")
    except NotFoundError:
        return has_release(store, name)
    return False


def followed_release(config: ServeConfig, store: Store) -> Release:
    """The release that the endpoint follows: saved under its name, so that `retort promote` can change it in flight.

    A saved release of the config's name is taken as it is, unless `retort serve` made it itself of an older index; a
    release made of an index (and encoders) is saved when it differs from what the name held. What somebody asked to delete
    stays masked.
    """
    assert config.index, "ServeConfig checks this"
    plain_name = not config.says_what and has_release(store, config.index)
    saved = load_release(store, config.index) if plain_name else None
    if saved is not None and saved.origin == "promote":
        return saved
    wished = release_of(config, store).model_copy(update={"origin": "serve"})
    if has_release(store, wished.name):
        held = load_release(store, wished.name)
        mask = carried_mask(store, held, wished.corpus.find(store))
        wished = wished.model_copy(update={"masked": masked_ref(store, mask, wished.name)})
        if held.model_copy(update={"created": wished.created}) == wished:
            return held
    save_release(store, wished)
    return wished
