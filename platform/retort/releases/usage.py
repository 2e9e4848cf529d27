"""Which artefacts live replicas hold: records that they write into the store and refresh, and that run out by themselves.

    announce(store, replica_id, release, ttl_s=...)    from a replica, well within ttl_s, and at once when it swaps
    withdraw(store, replica_id)                        when it ends
    in_use(store)                                      digests that must not be collected
    wait_until_served(store, release, timeout_s)       until every replica has followed the pointer

A record is `serving/<replica>.json` below the store. A replica that holds two releases during a swap announces both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from retort.errors import NotFoundError
from retort.releases.release import ArtefactRef, Release
from retort.store import Store

__all__ = ["announce", "in_use", "named_by", "wait_until_served", "withdraw"]

AREA = "serving"
DEFAULT_TTL_S = 300.0


def named_by(release: Release) -> list[ArtefactRef]:
    """Every artefact that a release names."""
    others = [ref for ref in (release.masked, release.reranker) if ref is not None]
    return [release.index, release.corpus, *release.encoders.values(), *others]


def announce(store: Store, replica_id: str, release: Release | Sequence[Release], ttl_s: float = DEFAULT_TTL_S) -> None:
    """Say that this replica serves the release(s), until `ttl_s` from now or the next call."""
    releases = [release] if isinstance(release, Release) else list(release)
    record = {
        "replica": replica_id,
        "releases": sorted({item.name for item in releases}),
        "held": sorted({_held(item) for item in releases}),
        "digests": sorted({ref.digest for item in releases for ref in named_by(item)}),
        "expires": time.time() + ttl_s,
    }
    store.area.at(AREA).write_bytes(_file(replica_id), json.dumps(record, indent=1).encode())


def withdraw(store: Store, replica_id: str) -> None:
    """Say that this replica serves nothing any more."""
    store.area.at(AREA).delete(_file(replica_id))


def in_use(store: Store) -> set[str]:
    """Digests of artefacts that replicas announced and did not let run out."""
    return {digest for record in _live(store) for digest in record["digests"]}


def wait_until_served(store: Store, release: Release, timeout_s: float) -> tuple[int, int]:
    """Wait until every live replica of this release's name holds it and no earlier version of it.

    Returns (replicas that do, replicas there are); at once where there are none. A replica says so within about a second
    of its swap.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        own = [record for record in _live(store) if release.name in record["releases"]]
        there = sum(
            [one for one in record.get("held", []) if one.startswith(f"{release.name}@")] == [_held(release)]
            for record in own
        )
        if there == len(own) or time.monotonic() > deadline:
            return there, len(own)
        time.sleep(0.1)


def _held(release: Release) -> str:
    return f"{release.name}@{release.moved or release.created}"


def _live(store: Store) -> list[dict[str, Any]]:
    """Records that have not run out. One that cannot be read keeps nothing alive."""
    found = []
    now = time.time()
    area = store.area.at(AREA)
    for item in area.list():
        try:
            record = json.loads(area.read(item.path))
            if record["expires"] > now and {*record["digests"], *record["releases"]}:
                found.append(record)
        except NotFoundError:
            continue  # withdrawn between listing and reading
        except (ValueError, KeyError, TypeError):
            continue  # not one of ours
    return found


def _file(replica_id: str) -> str:
    return f"{quote(replica_id, safe='')}.json"
