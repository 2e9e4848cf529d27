"""What answers at one moment: an opened release with its stamp. A request keeps the one it began with until it has its answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from retort.releases.release import Release
from retort.releases.routing import Routing
from retort.serving.caching import AnswerCache
from retort.serving.guarding import Watch
from retort.serving.routing import warm
from retort.serving.searcher import Searcher


@dataclass(frozen=True)
class ReleaseIdentity:
    """Which artefacts a searcher holds: stamped on every answer."""

    release: str
    index_name: str
    index_digest: str
    encoder_digests: dict[str, str]
    version: int = 0
    """Version of the release's pointer; 0 for a release that was never saved."""

    @classmethod
    def of(cls, release: Release, version: int) -> ReleaseIdentity:
        """The stamp of a release."""
        return cls(
            release=release.name,
            index_name=release.index.name,
            index_digest=release.index.digest,
            encoder_digests={name: encoder.digest for name, encoder in release.encoders.items()},
            version=version,
        )


@dataclass(frozen=True, eq=False)
class Served:
    """An opened release. Nobody closes it: it goes when the last request that holds it has ended."""

    searcher: Searcher
    identity: ReleaseIdentity
    examples: Sequence[str] = field(default_factory=tuple)
    routing: Routing | None = None
    release: Release | None = None
    answers: AnswerCache[Any] = field(default_factory=lambda: AnswerCache(0))
    watch: Watch = field(default_factory=lambda: Watch(None, time.monotonic()))

    @classmethod
    def of(cls, release: Release, version: int, searcher: Searcher, kept_answers: int = 0) -> Served:
        """An opened release with everything that it says; the guard's time began when the pointer was moved to it."""
        warm(release.routing)
        return cls(
            searcher=searcher,
            identity=ReleaseIdentity.of(release, version),
            examples=tuple(release.examples),
            routing=release.routing,
            release=release,
            answers=AnswerCache(kept_answers),
            watch=Watch(release.to_watch, time.monotonic() - release.moved_ago_s()),
        )
