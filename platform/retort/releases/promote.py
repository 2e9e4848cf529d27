"""Moving a release's pointer: promote, roll back, and the history that both leave.

    promote(store, release, checks, note=...)    checks first; only then the pointer moves. Returns the version
    promote_change(store, name, change, ...)     what is served now, changed; again if others move it meanwhile
    rollback(store, name, version=None)          moves on to what an earlier version held
    history(store, name)                         every version that is kept, newest first

The pointer only ever gets new versions, so an endpoint that follows it sees a roll-back as it sees any change. A roll-back
keeps hidden what somebody asked to delete since.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from retort.errors import BusyError, CorruptError, InputError, NotFoundError
from retort.releases.masks import masked_ref, read_mask, requested
from retort.releases.release import (
    POINTER,
    ROLLED_BACK,
    Release,
    check_compatible,
    load_release,
    newest_version,
    release_at,
    release_pointer,
    save_release,
)
from retort.store import Store

__all__ = [
    "Check",
    "Move",
    "check_rows",
    "check_whole",
    "history",
    "promote",
    "promote_change",
    "release_names",
    "rollback",
]

Check = Callable[[Store, Release], None]
"""Raises a RetortError that says why the release must not be served."""


@dataclass(frozen=True)
class Move:
    """One version of a release's pointer."""

    version: int
    release: Release


def check_whole(store: Store, release: Release) -> None:
    """Everything that the release names is there, its bytes are those published, and it belongs together.

    Raises NotFoundError, CorruptError naming the file, or IncompatibleError.
    """
    from retort.corpus.lookup import Passages
    from retort.indexing.search import ShardedIndex  # FAISS: only where an index is opened

    artefact = release.index.find(store)
    index = ShardedIndex.open(artefact)
    check_rows(release, index, Passages.open(release.corpus.find(store)))
    encoders = {name: ref.find(store) for name, ref in release.encoders.items()}
    check_compatible(store, artefact, artefact.input("embeddings").input("encoder"), encoders)
    read_mask(store, release)


def check_rows(release: Release, index: Any, passages: Any) -> None:
    """Raise CorruptError unless a row of the index is that row of the corpus (some rows are compared): hits are fetched by row."""
    count = len(index)
    rows = np.unique(np.linspace(0, count - 1, num=min(count, 16), dtype=np.int64))
    if count != len(passages) or index.passage_ids(rows) != passages.ids_at(rows.tolist()):
        raise CorruptError(
            f"Index {release.index.name!r} ({count} passages) does not line up with corpus {release.corpus.name!r} ({len(passages)}). "
            "Embed and index the corpus again."
        )


def promote(
    store: Store,
    release: Release,
    checks: Sequence[Check] = (check_whole,),
    *,
    note: str = "promoted",
    expected_version: int | None = None,
) -> int:
    """Move the pointer of the release's name to it, after all checks; returns the new version.

    The pointer's current version is returned, and nothing moved, if it holds the same already (apart from note and times).
    With `expected_version`, BusyError if the pointer was moved from there by somebody else meanwhile.
    """
    for check in checks:
        check(store, release)
    version = newest_version(store, release.name)
    if expected_version is not None and version != expected_version:
        raise BusyError(
            f"Release {release.name!r} was moved by somebody else meanwhile (version {version}, expected {expected_version}). Run it again."
        )
    if version and _same(load_release(store, release.name, version), release):
        return version
    moved = release.model_copy(update={"note": note, "moved": datetime.now(UTC).isoformat(timespec="milliseconds")})
    return save_release(store, moved, version)


def promote_change(
    store: Store, name: str, change: Callable[[Release], Release], *, note: str, tries: int = 5
) -> tuple[int, Release]:
    """Promote `change(what is served now)`, again if somebody else moves it meanwhile; returns the version and the release.

    Nothing is checked: `change` alters what was checked already, and must be quick. BusyError if others move it all the time.
    """
    for _ in range(tries):
        release, version = release_at(store, name)
        changed = change(release)
        try:
            return promote(store, changed, (), note=note, expected_version=version), changed
        except BusyError:
            continue
    raise BusyError(f"Release {name!r} is moved by others all the time: try again.")


def rollback(
    store: Store,
    name: str,
    version: int | None = None,
    checks: Sequence[Check] = (check_whole,),
    *,
    avoid: Collection[int] = (),
) -> tuple[int, Release]:
    """Serve again what an earlier version held (default: the one before the current); returns the new version and its release.

    `avoid`: versions that are known to be bad; without `version`, none that holds the same as one of them is gone back to.

    Raises NotFoundError if there is no such version or what it names was collected.
    """
    moves = history(store, name)
    current = moves[0]
    if version is None:
        bad = [move.release for move in moves if move.version in avoid]
        earlier = [
            move
            for move in moves[1:]
            if not _same(move.release, current.release)
            and not any(_same(move.release, release, but={"masked"}) for release in bad)
        ]
        if not earlier:
            raise NotFoundError(f"Release {name!r} has no earlier version to go back to (it is at {current.version}).")
        target = earlier[0]
    else:
        found = [move for move in moves if move.version == version]
        if not found:
            raise NotFoundError(
                f"Release {name!r} has no version {version}; it has {', '.join(str(move.version) for move in moves)}."
            )
        target = found[0]
        if target is current:
            raise InputError(f"Release {name!r} is at version {version} already.")
    mask = {**read_mask(store, target.release), **requested(read_mask(store, current.release))}
    release = target.release.model_copy(update={"masked": masked_ref(store, mask, name)})
    moved = promote(
        store, release, checks, note=f"{ROLLED_BACK} to version {target.version}", expected_version=current.version
    )
    return moved, load_release(store, name)


def history(store: Store, name: str) -> list[Move]:
    """Versions of a release that are kept, newest first. NotFoundError names the releases there are."""
    versions = release_pointer(store, name).versions()
    if not versions:
        raise NotFoundError(
            f"There is no release {name!r} in {store.uri}. Releases: {', '.join(release_names(store)) or 'none'}."
        )
    return [Move(version, load_release(store, name, version)) for version in reversed(versions)]


def release_names(store: Store) -> list[str]:
    """Names of all releases in the store, sorted."""
    from urllib.parse import unquote

    folders = [unquote(folder) for folder in store.area.folders("pointers")]
    return sorted(folder.removeprefix(POINTER) for folder in folders if folder.startswith(POINTER))


def _same(one: Release, other: Release, but: Collection[str] = ()) -> bool:
    """Whether both serve the same, apart from the fields `but`."""
    ignored = {"note", "moved", "created", "origin", *but}
    return one.model_dump(exclude=ignored) == other.model_dump(exclude=ignored)
