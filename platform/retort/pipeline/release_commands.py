"""The commands that move a release: `retort promote`, `delete`, `rollback`, `releases`. Each parses, calls and prints."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from retort.arguments import parse
from retort.releases.compose import next_release, read_canaries
from retort.releases.deleting import mask_passages, read_ids
from retort.releases.optional_stages import read_routing
from retort.releases.promote import Move, history, promote, release_names, rollback
from retort.releases.release import ArtefactRef, load_release
from retort.releases.usage import wait_until_served
from retort.store import Artefact, Store, open_store


class PromoteCommand(BaseModel):
    """Let a release serve another index, other query encoders, or both."""

    model_config = ConfigDict(extra="forbid")

    release: str = Field(description="Name of the release; made if it is not there.")
    index: str | None = Field(None, description="Index to serve. Default: the one it serves now.")
    encoder: list[str] = Field(
        default_factory=list,
        description="Query encoder, as ARTEFACT or NAME=ARTEFACT; may be given several times, the first is the default. "
        "Default: those it has, if they fit the index.",
    )
    default_encoder: str | None = Field(None, description="Name of the encoder of requests that name none.")
    canaries: str | None = Field(
        None, description="JSON lines of {query, expect: [passage ids], within}: checked before a replica serves it."
    )
    routing: str | None = Field(
        None, description="YAML file: which encoder answers which request; an empty file takes routing away."
    )
    bm25: bool | None = Field(None, description="Let requests ask for BM25 beside the vectors (--no-bm25: no longer).")
    reranker: str | None = Field(None, description="The teacher that may re-rank first hits.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")


class RollbackCommand(BaseModel):
    """Serve again what a release held before."""

    model_config = ConfigDict(extra="forbid")

    release: str = Field(description="Name of the release.")
    version: int | None = Field(None, ge=1, description="Version to go back to. Default: the one before the current.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")


class DeleteCommand(BaseModel):
    """Stop answering with named passages, at once; nothing is rebuilt for it."""

    model_config = ConfigDict(extra="forbid")

    release: str = Field(description="Name of the release.")
    passages: list[str] = Field(
        min_length=1,
        description="Passage ids, or files of them (one a line, or JSON lines); may be given several times.",
    )
    wait_s: float = Field(10.0, ge=0, description="Seconds to wait for replicas to follow, only to report it.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")


class ReleasesCommand(BaseModel):
    """The releases, or the history of one."""

    model_config = ConfigDict(extra="forbid")

    release: str | None = Field(None, description="Name of a release, for all its versions. Default: all releases.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")


def run_promote(arguments: Sequence[str], console: Console) -> None:
    """`retort promote`."""
    command = parse(PromoteCommand, arguments, "retort promote", positional="release")
    store = open_store(command.store)
    release = next_release(
        store,
        command.release,
        index=store.get(command.index, "index") if command.index else None,
        encoders=_encoders(store, command.encoder),
        default_encoder=command.default_encoder,
        canaries=read_canaries(command.canaries) if command.canaries else None,
        routing=read_routing(command.routing) if command.routing else None,
        bm25=command.bm25,
        reranker=store.get(command.reranker, "teacher") if command.reranker else None,
    )
    version = promote(store, release)
    _tell(console, store, history(store, command.release)[:1])
    console.print(
        f"Release {command.release} is at version {version}; endpoints that follow it change by themselves. "
        f"Back: retort rollback {command.release}",
        highlight=False,
    )


def run_rollback(arguments: Sequence[str], console: Console) -> None:
    """`retort rollback`."""
    command = parse(RollbackCommand, arguments, "retort rollback", positional="release")
    store = open_store(command.store)
    version, release = rollback(store, command.release, command.version)
    _tell(console, store, [Move(version, release)])


def run_delete(arguments: Sequence[str], console: Console) -> None:
    """`retort delete`."""
    began = time.monotonic()
    command = parse(DeleteCommand, arguments, "retort delete", positional="release")
    ids = read_ids(command.passages)
    store = open_store(command.store)
    version, masked = mask_passages(store, command.release, ids, "asked", f"deleted {len(ids):,} passages on request")
    took = time.monotonic() - began
    there, replicas = wait_until_served(store, load_release(store, command.release), command.wait_s)
    if replicas:
        console.print(
            f"{there} of {replicas} replicas answer without them, {time.monotonic() - began:.2f} s after the start.",
            highlight=False,
        )
    console.print(
        f"{len(ids):,} passages are deleted from release {command.release} since version {version}, {took:.2f} s "
        f"after the start ({masked:,} masked in all). They stay in the store: retort purge takes them out of every version.",
        highlight=False,
    )


def run_releases(arguments: Sequence[str], console: Console) -> None:
    """`retort releases`."""
    command = parse(ReleasesCommand, arguments, "retort releases", positional="release")
    store = open_store(command.store)
    if command.release:
        _tell(console, store, history(store, command.release))
        return
    names = release_names(store)
    if not names:
        console.print(f"Store {store.uri} has no releases.", highlight=False)
    _tell(console, store, [history(store, name)[0] for name in names])


def _encoders(store: Store, given: Sequence[str]) -> dict[str, Artefact] | None:
    found = {}
    for text in given:
        name, equals, ref = text.partition("=")
        encoder = store.get(ref if equals else name, "encoder")
        found[name if equals else encoder.name] = encoder
    return found or None


def _tell(console: Console, store: Store, moves: Sequence[Move]) -> None:
    """Two lines a version: more than a table of 80 columns holds."""
    for move in moves:
        release = move.release
        when = (release.moved or release.created)[:19].replace("T", " ")
        masked = f"  masked {_masked(store, move)}" if release.masked else ""
        console.print(
            f"{release.name}  version {move.version}  {when}  {release.note or release.origin}\n"
            f"    index {_named(release.index)}  corpus {_named(release.corpus)}  encoders {', '.join(release.encoders)}{masked}",
            highlight=False,
            markup=False,
        )


def _named(ref: ArtefactRef) -> str:
    return f"{ref.name} ({ref.key[:8]})"


def _masked(store: Store, move: Move) -> str:
    """How many passages a version masks; "collected" where its mask is no longer there."""
    found = store.find("mask", move.release.masked.key) if move.release.masked else None
    return str(found.manifest.rows) if found is not None else "collected"
