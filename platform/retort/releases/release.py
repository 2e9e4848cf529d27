"""A release: one index, the query encoders over it, and the texts to show. The only thing that serving changes.

make_release(store, index, encoders)   from artefacts; refuses an encoder of another passage space
save_release / load_release            through the store's pointer `release-NAME`, which `promote` and `rollback` move
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retort.config import describe_validation
from retort.errors import BusyError, CorruptError, IncompatibleError, NotFoundError
from retort.releases.routing import Guard, Routing
from retort.store import Artefact, Store
from retort.store.pointers import Pointer

POINTER = "release-"
ROLLED_BACK = "rolled back"
_EXAMPLES = 5
_EXAMPLE_CHARS = (12, 80)


class ArtefactRef(BaseModel):
    """An artefact as a release names it: found by kind and key, checked by digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    name: str
    key: str
    digest: str

    @classmethod
    def of(cls, artefact: Artefact) -> Self:
        """The reference to an artefact."""
        return cls(kind=artefact.kind, name=artefact.name, key=artefact.key, digest=artefact.digest)

    def find(self, store: Store) -> Artefact:
        """The artefact; NotFoundError if the store has lost it, CorruptError if another one lies in its place."""
        found = store.find(self.kind, self.key)
        if found is None:
            raise NotFoundError(
                f"The release names {self.kind}/{self.name} ({self.key[:12]}), which is not in {store.uri}. Make it again, or promote another release."
            )
        if found.digest != self.digest:
            raise CorruptError(
                f"{found} has digest {found.digest[:12]}, the release names {self.digest[:12]}. Promote the release again."
            )
        return found


class Canary(BaseModel):
    """A query that a release must answer rightly before it may take traffic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str = Field(min_length=1, description="The query.")
    expect: list[str] = Field(min_length=1, description="Passage ids, of which one must be found.")
    within: int = Field(10, ge=1, le=1000, description="Among this many first hits.")
    encoder: str | None = Field(None, description="Query encoder; the release's default if none is named.")


class Release(BaseModel):
    """What an endpoint serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the release.")
    index: ArtefactRef = Field(description="The index that is searched.")
    corpus: ArtefactRef = Field(description="The corpus that its passages come from.")
    encoders: dict[str, ArtefactRef] = Field(min_length=1, description="Query encoders by the name that requests use.")
    default_encoder: str = Field(description="The encoder of a request that names none.")
    masked: ArtefactRef | None = Field(default=None, description="Passages that are never answered (a mask artefact).")
    examples: list[str] = Field(default_factory=list, description="Queries that the search page offers.")
    bm25: bool = Field(default=False, description="Whether requests may ask for BM25 beside the vectors (`hybrid`).")
    reranker: ArtefactRef | None = Field(
        default=None, description="The teacher that may re-rank first hits (`rerank`)."
    )
    routing: Routing | None = Field(default=None, description="Which encoder answers; None: the default encoder.")
    canaries: list[Canary] = Field(default_factory=list, description="Checked before a replica serves the release.")
    origin: Literal["serve", "promote"] = Field(
        default="promote",
        description="`serve`: made by `retort serve INDEX`, which may replace it when INDEX was made again.",
    )
    created: str = Field(description="When it was put together, ISO 8601 UTC.")
    note: str = Field(
        default="", description="Why the pointer was moved to it: promoted, masked, re-indexed, rolled back."
    )
    moved: str | None = Field(default=None, description="When the pointer was moved to it, ISO 8601 UTC.")

    @property
    def to_watch(self) -> Guard | None:
        """What judges it after its pointer was moved to it; None where there is no guard, and for what was gone back to: it was good before."""
        guard = self.routing.guard if self.routing else None
        return None if self.note.startswith(ROLLED_BACK) else guard

    def moved_ago_s(self) -> float:
        """Seconds since the pointer was moved to it; 0 where nothing says when."""
        if self.moved is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(self.moved)).total_seconds())

    @model_validator(mode="after")
    def _default_is_there(self) -> Self:
        if self.default_encoder not in self.encoders:
            raise ValueError(f"default_encoder {self.default_encoder!r} is not one of {', '.join(self.encoders)}")
        strangers = sorted((self.routing.encoders if self.routing else set()) - set(self.encoders))
        if strangers:
            raise ValueError(f"routing names {', '.join(strangers)}; the encoders are {', '.join(self.encoders)}")
        return self


def passage_space_of(encoder: Artefact) -> str:
    """The passage space that an encoder's query vectors belong to: from its manifest, else computed from its weights."""
    recorded = encoder.metrics.get("passage_space")
    if recorded:
        return str(recorded)
    from retort.models.dual_encoder import passage_space

    return passage_space(encoder.local())


def make_release(
    store: Store,
    index: Artefact,
    encoders: Mapping[str, Artefact] | None = None,
    *,
    name: str | None = None,
    default_encoder: str | None = None,
) -> Release:
    """A release of `index` with these query encoders (default: the one that made its embeddings).

    Raises IncompatibleError for an encoder whose passage space is not the index's, naming those in the store that fit.
    """
    embeddings = index.input("embeddings")
    own = embeddings.input("encoder")
    chosen = dict(encoders) if encoders else {own.name: own}
    check_compatible(store, index, own, chosen)
    corpus = embeddings.input("corpus")
    return Release(
        name=name or index.name,
        index=ArtefactRef.of(index),
        corpus=ArtefactRef.of(corpus),
        encoders={key: ArtefactRef.of(encoder) for key, encoder in chosen.items()},
        default_encoder=default_encoder or next(iter(chosen)),
        examples=example_queries(store, corpus),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def check_compatible(store: Store, index: Artefact, own: Artefact, encoders: Mapping[str, Artefact]) -> None:
    """Raise IncompatibleError unless every encoder scores in the passage space of the index (that of `own`, which made it)."""
    others = [encoder for encoder in encoders.values() if encoder.digest != own.digest]
    if not others:
        return
    wanted = passage_space_of(own)
    for encoder in others:
        space = passage_space_of(encoder)
        if space != wanted:
            fitting = [item.name for item in store.list("encoder") if passage_space_of(item) == wanted]
            raise IncompatibleError(
                f"Query encoder {encoder.name!r} scores in passage space {space[:12]}, index {index.name!r} is in {wanted[:12]}. "
                f"Encoders that fit this index: {', '.join(sorted(set(fitting))) or 'none in this store'}. "
                f"Name one of these, or embed and index the corpus again with {encoder.name!r}."
            )


def example_queries(store: Store, corpus: Artefact) -> list[str]:
    """A few of the corpus's own held-out queries, of readable length, spread over the set."""
    for queries in reversed(store.list("queries")):
        bound = any(record.kind == "corpus" and record.digest == corpus.digest for record in queries.manifest.inputs)
        if bound and not queries.name.endswith(".train") and "queries.parquet" in queries.files():
            texts = queries.part("queries.parquet", columns=["text"]).column("text").to_pylist()
            low, high = _EXAMPLE_CHARS
            fitting = list(dict.fromkeys(text for text in texts if low <= len(text) <= high and text.isprintable()))
            step = max(1, len(fitting) // _EXAMPLES)
            return fitting[::step][:_EXAMPLES]
    return []


def release_pointer(store: Store, name: str) -> Pointer:
    """The pointer of the release of this name, which holds its versions."""
    return store.pointer(POINTER + name)


def save_release(store: Store, release: Release, expected_version: int | None = None) -> int:
    """Move the pointer of this name to the release (from `expected_version`, if given); returns its version.

    BusyError when somebody else moved it.
    """
    pointer = release_pointer(store, release.name)
    version = newest_version(store, release.name) if expected_version is None else expected_version
    if not pointer.swap(version, release.model_dump(mode="json")):
        raise BusyError(
            f"Release {release.name!r} was moved by somebody else at the same time: look at it and try again."
        )
    return version + 1


def load_release(store: Store, name: str, version: int | None = None) -> Release:
    """The release that the pointer of this name holds now, or held at `version`."""
    return release_at(store, name, version)[0]


def release_at(store: Store, name: str, version: int | None = None) -> tuple[Release, int]:
    """As load_release, with the version that it was."""
    found = release_pointer(store, name).read(version)
    if found.value is None:
        raise NotFoundError(f"There is no release {name!r} in {store.uri}. Name an index instead: retort serve INDEX.")
    try:
        return Release.model_validate(found.value), found.version
    except ValidationError as error:
        raise CorruptError(
            f"Release {name!r} in {store.uri} cannot be read: {describe_validation(error, Release)}"
        ) from None


def newest_version(store: Store, name: str) -> int:
    """The version that the pointer of this name is at; 0 if it was never set."""
    return max(release_pointer(store, name).versions(), default=0)


def has_release(store: Store, name: str) -> bool:
    """Whether a release of this name was ever saved."""
    return release_pointer(store, name).read().value is not None
