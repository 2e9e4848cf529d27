"""The step `reindex`: a release comes to answer from a newer corpus, a newer encoder, or a tidier index, while it is served.

    reindex(config) -> {"embeddings": ..., "index": ...}

    partial   the corpus changed: deletions are masked at once, only what is new is embedded, a delta index is composed
    compact   the same, but the index is built whole, because deltas and deleted passages passed a share, or on request
    whole     another encoder: everything is embedded and built beside what is served

Each ends with checks and one move of the release's pointer; until then, and if killed anywhere, the old version is served
whole. What was complete is found again by its key, so the next run goes on from there. One re-index of a release at a time:
the second is told who holds the lock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from retort.config import JobConfig, Ref, plain
from retort.corpus.lookup import Passages
from retort.errors import BusyError, CorruptError, InputError
from retort.indexing.build import IndexConfig, index
from retort.indexing.changes import Changes, find_changes, matching_rows
from retort.indexing.delta import DeltaConfig, delta_index, outgrown
from retort.indexing.embed import EmbedConfig, embed
from retort.models.imports import encoder_artefact
from retort.progress import QUIET, Progress
from retort.releases.compose import next_release
from retort.releases.cost import Estimate, estimate, within_budget
from retort.releases.deleting import mask_passages
from retort.releases.promote import check_whole, promote, promote_change
from retort.releases.release import POINTER, Release, release_at
from retort.releases.settings import index_settings, settings_of
from retort.releases.usage import wait_until_served
from retort.releases.validation import check_release_canaries, compare_quality, index_recall, labelled_queries
from retort.store import Artefact, Store, open_store
from retort.store.locks import lease
from retort.store.pointers import Pointer

__all__ = ["ReindexConfig", "reindex", "release_lock"]

ENDPOINT_WAIT_S = 10.0
"""How long is waited for replicas to follow a deletion: to report it, the work does not depend on it."""

Kind = Literal["nothing", "partial", "compact", "whole"]


class ReindexConfig(JobConfig):
    """Bring a release up to a new corpus or a new encoder."""

    release: str = Field(description="Name of the release (retort releases lists them).")
    corpus: Annotated[str | None, Ref("corpus")] = Field(
        None, description="The corpus to answer from. Default: the one it has."
    )
    encoder: Annotated[str | None, Ref("encoder")] = Field(
        None, description="Another passage encoder: everything is embedded and indexed again, beside what is served."
    )
    query_encoder: Annotated[str | None, Ref("encoder")] = Field(
        None,
        description="Query encoder to serve, such as one tuned over the new encoder. Default: those that fit, else the encoder itself.",
    )
    compact: bool = Field(False, description="Build the index whole, whatever share of it is deltas.")
    compact_share: float = Field(
        0.2, gt=0, description="Build it whole when deltas and deleted passages would be more than this share."
    )
    min_recall: float = Field(
        0.9, ge=0, le=1, description="Recall@10 against exact search below which a new index is not promoted."
    )
    sample: int = Field(200, ge=10, description="Queries of the checks, at most.")
    queries: Annotated[str | None, Ref("queries")] = Field(
        None, description="Labelled queries that judge a new encoder. Default: the corpus's own .dev queries."
    )
    max_quality_loss: float = Field(
        0.01, ge=0, le=1, description="nDCG@10 that a new encoder may lose against the old one, on the same queries."
    )
    budget: float | None = plain(
        None,
        ge=0,
        description="Ask before work that costs more: worker-hours, or money where price_per_hour is given. Default: never ask.",
    )
    price_per_hour: float | None = plain(None, gt=0, description="Price of an hour of one worker, for the estimate.")
    yes: bool = plain(False, description="Go on without asking, whatever it costs.")


@dataclass(frozen=True)
class _Work:
    """What is served now, what shall be, and how to get there."""

    release: Release
    index: Artefact
    embeddings: Artefact
    corpus: Artefact
    encoder: Artefact
    changes: Changes
    kind: Kind
    why: str
    to_embed: int


def reindex(config: ReindexConfig, progress: Progress = QUIET) -> dict[str, Artefact]:
    """Do what the release needs; returns the embeddings and the index that it serves then.

    Raises:
        NotFoundError: no such release, or what it names is not in the store.
        BusyError: somebody else re-indexes this release, or moved it to another index meanwhile.
        ConfigError: it costs more than the budget and nobody agreed.
        CorruptError: the new index fails a check. InputError: the new encoder is worse than allowed. Nothing was promoted then.
    """
    store = open_store(config.store)
    began = time.monotonic()
    release_at(store, config.release)  # a wrong name is told before the lock is taken
    with lease(release_lock(store, config.release), f"re-indexing release {config.release}") as lost:
        work = _plan(config, store)
        if work.kind == "nothing":
            return _nothing(config, store, work, progress)
        _check_routing(config, store, work)
        progress.say(f"Release {config.release}: {work.changes.told()}. {work.why}")
        cost = _cost(config, store, work)
        progress.say(cost.told())
        within_budget(cost, config.budget, config.yes, progress)
        _mask(store, config.release, work, began, progress)
        embeddings = _embed(config, work, progress)
        made = _index(config, work, embeddings, progress)
        release = _release(config, store, work, made)
        _validate(config, store, work, release, made, progress)
        if lost.is_set():
            raise BusyError(
                f"The lock on release {config.release!r} was lost to another process, so nothing was promoted. Run it again."
            )
        version = _promote(config, store, work, made)
        progress.say(f"Release {config.release} is at version {version} after {time.monotonic() - began:.1f} s.")
    return {"embeddings": embeddings, "index": made}


def release_lock(store: Store, name: str) -> Pointer:
    """The lock that a re-index of this release holds, a purge too."""
    return Pointer(store.area.at("locks", POINTER + name))


def _plan(config: ReindexConfig, store: Store) -> _Work:
    release, _ = release_at(store, config.release)
    served = release.index.find(store)
    embeddings = served.input("embeddings")
    old = release.corpus.find(store)
    corpus = store.get(config.corpus, "corpus") if config.corpus else old
    own = embeddings.input("encoder")
    encoder = encoder_artefact(config.encoder, store) if config.encoder else own
    passages = Passages.open(corpus)
    if corpus.digest == old.digest:
        changes = Changes([], [], [], len(passages))
        new_texts = 0
    else:
        before = Passages.open(old)
        matches = matching_rows(passages, before)
        changes = find_changes(passages, before, matches)
        new_texts = int((matches < 0).sum())
    kind, why = _kind(config, served, old, corpus, own, encoder, changes, len(passages))
    to_embed = len(passages) if kind == "whole" else new_texts
    return _Work(release, served, embeddings, corpus, encoder, changes, kind, why, to_embed)


def _kind(
    config: ReindexConfig,
    served: Artefact,
    old: Artefact,
    corpus: Artefact,
    own: Artefact,
    encoder: Artefact,
    changes: Changes,
    count: int,
) -> tuple[Kind, str]:
    if encoder.digest != own.digest:
        return "whole", f"All of it is embedded by {encoder.name} and indexed beside what is served."
    present = outgrown(served)
    moved = len(changes.added) + len(changes.deleted) + 2 * len(changes.changed)
    share = present + moved / max(1, count)
    if config.compact and (present or corpus.digest != old.digest):
        return "compact", "The index is built whole, as asked."
    if corpus.digest == old.digest:
        if present > config.compact_share:
            return "compact", f"Deltas and deleted passages are {present:.0%} of it: the index is built whole."
        return "nothing", ""
    if share > config.compact_share:
        return "compact", f"Deltas and deleted passages would be {share:.0%} of it: the index is built whole."
    return "partial", f"The index is extended; deltas and deleted passages will be {share:.1%} of it."


def _check_routing(config: ReindexConfig, store: Store, work: _Work) -> None:
    """A routing that names the old query encoders would be refused at the end: better before the work."""
    if work.kind != "whole" or work.release.routing is None:
        return
    encoder = encoder_artefact(config.query_encoder, store) if config.query_encoder else work.encoder
    strangers = sorted(work.release.routing.encoders - {encoder.name})
    if strangers:
        raise InputError(
            f"The routing of release {config.release!r} names {', '.join(strangers)}, which will not fit encoder {work.encoder.name!r}. "
            "Promote the release without that routing first (--routing with an empty file)."
        )


def _nothing(config: ReindexConfig, store: Store, work: _Work, progress: Progress) -> dict[str, Artefact]:
    """Nothing changed; only what an earlier, broken-off run masked for another corpus is shown again."""
    release = next_release(store, config.release)
    version = promote(store, release.model_copy(update={"examples": work.release.examples}), (), note="unmasked")
    progress.say(f"Release {config.release} is up to date (version {version}): {work.changes.told()}.")
    return {"embeddings": work.embeddings, "index": work.index}


def _cost(config: ReindexConfig, store: Store, work: _Work) -> Estimate:
    passages = len(Passages.open(work.corpus))
    added = len(work.changes.added) + len(work.changes.changed)
    return estimate(
        store,
        encoder=work.encoder,
        earlier=work.embeddings,
        index=work.index,
        to_embed=work.to_embed,
        passages=passages,
        to_build=added if work.kind == "partial" else passages,
        price_per_hour=config.price_per_hour,
    )


def _mask(store: Store, name: str, work: _Work, began: float, progress: Progress) -> None:
    """Hide what left the corpus, before anything is embedded."""
    if not work.changes.deleted:
        return
    count = len(work.changes.deleted)
    version, _ = mask_passages(
        store, name, work.changes.deleted, "gone", f"masked {count:,} passages that left the corpus", strict=False
    )
    took = time.monotonic() - began
    there, replicas = wait_until_served(store, release_at(store, name)[0], ENDPOINT_WAIT_S)
    followed = (
        f"; {there} of {replicas} replicas answer without them after {time.monotonic() - began:.1f} s"
        if replicas
        else ""
    )
    progress.say(
        f"{count:,} deleted passages are masked since version {version}, {took:.1f} s after the start{followed}."
    )


def _embed(config: ReindexConfig, work: _Work, progress: Progress) -> Artefact:
    settings = settings_of(EmbedConfig, work.embeddings)
    settings |= {"store": config.store, "resources": config.resources, "corpus": work.corpus.uri}
    settings |= {"encoder": work.encoder.uri, "name": config.name}
    if work.kind == "whole":
        return embed(EmbedConfig(**settings), progress)
    if work.corpus.digest == work.embeddings.input("corpus").digest:
        return work.embeddings
    return embed(EmbedConfig(**settings, reuse=work.embeddings.uri), progress)


def _index(config: ReindexConfig, work: _Work, embeddings: Artefact, progress: Progress) -> Artefact:
    name = config.name or (embeddings.name if work.kind == "whole" else work.index.name)
    common: dict[str, Any] = {"store": config.store, "name": name, "embeddings": embeddings.uri}
    if work.kind == "partial":
        return delta_index(DeltaConfig(base=work.index.uri, seed=config.seed, **common), progress)
    return index(IndexConfig(**index_settings(work.index, embeddings), **common, resources=config.resources), progress)


def _release(config: ReindexConfig, store: Store, work: _Work, made: Artefact) -> Release:
    encoders = None
    if config.query_encoder is not None:
        found = encoder_artefact(config.query_encoder, store)
        encoders = {found.name: found}
    return next_release(store, config.release, index=made, encoders=encoders)


def _validate(
    config: ReindexConfig, store: Store, work: _Work, release: Release, made: Artefact, progress: Progress
) -> None:
    check_whole(store, release)
    recall = index_recall(made, min(config.sample, int(made.metrics["count"])), config.seed)
    if recall < config.min_recall:
        raise CorruptError(
            f"{made} finds {recall:.3f} of the exact ten best on {config.sample} sampled queries; min_recall is {config.min_recall:g}. "
            "Nothing was promoted. Build it with another kind, tune it, or lower min_recall."
        )
    told = [f"recall@10 {recall:.3f} of exact search"]
    if work.kind == "whole":
        queries = labelled_queries(store, [work.corpus, work.release.corpus.find(store)], config.queries)
        if queries is None:
            told.append("no labelled queries of this corpus to compare the encoders on")
        else:
            quality = compare_quality(store, work.release, release, queries, config.sample, config.seed)
            if quality.loss > config.max_quality_loss:
                raise InputError(
                    f"nDCG@10 falls from {quality.old:.3f} to {quality.new:.3f} on {quality.queries} queries of {quality.name}, more than "
                    f"max_quality_loss ({config.max_quality_loss:g}) allows. Nothing was promoted; release {config.release!r} serves what it served."
                )
            told.append(
                f"nDCG@10 {quality.old:.3f} -> {quality.new:.3f} on {quality.queries} queries of {quality.name}"
            )
    if release.canaries:
        told.append(f"{check_release_canaries(store, release)} canaries found")
    progress.say(f"Checked: {', '.join(told)}.")


def _promote(config: ReindexConfig, store: Store, work: _Work, made: Artefact) -> int:
    """Move the pointer; what was deleted on request since we began stays masked."""

    def following(current: Release) -> Release:
        if current.index.digest != work.release.index.digest and current.index.digest != made.digest:
            raise BusyError(
                f"Release {config.release!r} was moved to index {current.index.name!r} meanwhile, so nothing was promoted. Run it again."
            )
        return _release(config, store, work, made)

    return promote_change(store, config.release, following, note=f"re-indexed ({work.kind})")[0]
