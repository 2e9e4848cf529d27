"""Moving a release's pointer: promote, roll back, and the history that both leave.

    promote(store, release, checks, note=...)    checks first; only then the pointer moves. Returns the version
    rollback(store, name, version=None)          moves on to what an earlier version held
    history(store, name)                         every version that is kept, newest first

The pointer only ever gets new versions, so an endpoint that follows it sees a roll-back as it sees any change. A roll-back
keeps hidden what somebody asked to delete since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from retort.errors import BusyError, CorruptError, InputError, NotFoundError
from retort.releases.masks import masked_ref, read_mask, requested
from retort.releases.release import Release, check_compatible, load_release
from retort.store import Store

__all__ = ["Check", "Move", "check_whole", "history", "promote", "release_names", "rollback"]

Check = Callable[[Store, Release], None]
"""Raises a RetortError that says why the release must not be served."""

_POINTER = "release-"


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
    passages = Passages.open(release.corpus.find(store))
    rows = np.unique(np.linspace(0, len(index) - 1, num=min(len(index), 16), dtype=np.int64))
    if len(index) != len(passages) or index.passage_ids(rows) != passages.ids_at(rows.tolist()):
        raise CorruptError(
            f"Index {release.index.name!r} ({len(index)} passages) does not line up with corpus {release.corpus.name!r} ({len(passages)}). "
            "Embed and index the corpus again."
        )
    encoders = {name: ref.find(store) for name, ref in release.encoders.items()}
    check_compatible(store, artefact, artefact.input("embeddings").input("encoder"), encoders)
    read_mask(store, release)


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
    pointer = store.pointer(_POINTER + release.name)
    current = pointer.read()
    if expected_version is not None and current.version != expected_version:
        raise BusyError(
            f"Release {release.name!r} was moved by somebody else meanwhile (version {current.version}, expected {expected_version}). Run it again."
        )
    if current.value is not None and _same(load_release(store, release.name), release):
        return current.version
    moved = release.model_copy(update={"note": note, "moved": datetime.now(UTC).isoformat(timespec="milliseconds")})
    if not pointer.swap(current.version, moved.model_dump(mode="json")):
        raise BusyError(
            f"Release {release.name!r} was moved by somebody else at the same time: look at it and try again."
        )
    return current.version + 1


def rollback(
    store: Store, name: str, version: int | None = None, checks: Sequence[Check] = (check_whole,)
) -> tuple[int, Release]:
    """Serve again what an earlier version held (default: the one before the current); returns the new version and its release.

    Raises NotFoundError if there is no such version or what it names was collected.
    """
    moves = history(store, name)
    current = moves[0]
    if version is None:
        earlier = [move for move in moves[1:] if not _same(move.release, current.release)]
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
        store, release, checks, note=f"rolled back to version {target.version}", expected_version=current.version
    )
    return moved, load_release(store, name)


def history(store: Store, name: str) -> list[Move]:
    """Versions of a release that are kept, newest first. NotFoundError names the releases there are."""
    versions = store.pointer(_POINTER + name).versions()
    if not versions:
        raise NotFoundError(
            f"There is no release {name!r} in {store.uri}. Releases: {', '.join(release_names(store)) or 'none'}."
        )
    return [Move(version, load_release(store, name, version)) for version in reversed(versions)]


def release_names(store: Store) -> list[str]:
    """Names of all releases in the store, sorted."""
    from urllib.parse import unquote

    folders = [unquote(folder) for folder in store.area.folders("pointers")]
    return sorted(folder.removeprefix(_POINTER) for folder in folders if folder.startswith(_POINTER))


def _same(one: Release, other: Release) -> bool:
    """Whether both serve the same."""
    ignored = {"note", "moved", "created", "origin"}
    return one.model_dump(exclude=ignored) == other.model_dump(exclude=ignored)
