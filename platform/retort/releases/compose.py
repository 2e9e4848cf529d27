"""The next release of a name: what changes is given, what is not stays as it is served now.

next_release(store, name, index=..., encoders=...)    from the current one, or the first of its name
carried_mask(store, current, corpus)                  what stays masked when the release moves to another corpus
read_canaries(path)                                   queries that must be answered, from a JSON lines file
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from retort.config import describe_validation
from retort.corpus.lookup import Passages
from retort.errors import IncompatibleError, InputError
from retort.releases.masks import Reason, masked_ref, read_mask, requested
from retort.releases.optional_stages import with_stages
from retort.releases.release import (
    Canary,
    Release,
    check_compatible,
    has_release,
    load_release,
    make_release,
    release_pointer,
)
from retort.releases.routing import Routing
from retort.store import Artefact, Store

__all__ = ["carried_mask", "next_release", "read_canaries"]


def next_release(
    store: Store,
    name: str,
    *,
    index: Artefact | None = None,
    encoders: Mapping[str, Artefact] | None = None,
    default_encoder: str | None = None,
    canaries: Sequence[Canary] | None = None,
    routing: Routing | None = None,
    bm25: bool | None = None,
    reranker: Artefact | None = None,
) -> Release:
    """The release `name` with another index, other query encoders, or both; not promoted.

    Encoders that are not given stay if they fit the index, else the one that made the index takes their place. What somebody
    asked to delete stays masked. Raises NotFoundError, IncompatibleError, or InputError when nothing is given for a new name.
    """
    current = load_release(store, name) if has_release(store, name) else None
    if current is None and index is None:
        raise InputError(f"There is no release {name!r} in {store.uri} yet: name the index that it serves (--index).")
    chosen = index if index is not None or current is None else current.index.find(store)
    assert chosen is not None, "checked above"
    if encoders is None and current is not None:
        encoders = _fitting(store, chosen, {key: ref.find(store) for key, ref in current.encoders.items()})
        if encoders and default_encoder is None and current.default_encoder in encoders:
            default_encoder = current.default_encoder
    if default_encoder is not None and encoders and default_encoder not in encoders:
        raise InputError(f"Default encoder {default_encoder!r} is not one of this release's: {', '.join(encoders)}.")
    made = make_release(store, chosen, encoders or None, name=name, default_encoder=default_encoder)
    kept = list(canaries) if canaries is not None else current.canaries if current else []
    known = [item.model_copy(update={} if item.encoder in made.encoders else {"encoder": None}) for item in kept]
    mask = carried_mask(store, current, made.corpus.find(store)) if current else {}
    made = made.model_copy(update={"canaries": known, "masked": masked_ref(store, mask, name)})
    return with_stages(made, current, routing=routing, bm25=bm25, reranker=reranker)


def carried_mask(store: Store, current: Release, corpus: Artefact) -> dict[str, Reason]:
    """What of the current mask stays over `corpus`: all that somebody asked to delete, but for what was ingested again since.

    Passages that `corpus` lacks stay in the mask, for the release may go back to an older one that still holds them.
    """
    mask = requested(read_mask(store, current))
    if not mask:
        return mask
    passages = Passages.open(corpus)
    again = _ingested_again(store, current.name, corpus, {key for key in mask if key in passages})
    return {key: reason for key, reason in mask.items() if key not in again}


def _ingested_again(store: Store, name: str, corpus: Artefact, ids: set[str]) -> set[str]:
    """Those of the masked `ids` that had been asked for and had left the release's corpus already when `corpus` was made."""
    if corpus.manifest.step == "purge":
        return set()  # younger than the corpus that it was made of, but nobody ingested it
    made = datetime.fromisoformat(corpus.manifest.created)
    for version in reversed(release_pointer(store, name).versions()):
        release = load_release(store, name, version)
        ids = ids & requested(read_mask(store, release)).keys()
        if not ids:
            break
        if datetime.fromisoformat(release.moved or release.created) <= made:
            served = Passages.open(release.corpus.find(store))
            return {key for key in ids if key not in served}
    return set()


def read_canaries(path: str) -> list[Canary]:
    """Canaries of a JSON lines file: {"query": ..., "expect": [ids], "within": 10}. InputError names the line."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Canaries {path}: {error}. Expected a JSON lines file.") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(Canary.model_validate_json(line))
            except ValidationError as error:
                raise InputError(f"{path}:{number}: {describe_validation(error, Canary)}") from None
    return found


def _fitting(store: Store, index: Artefact, encoders: Mapping[str, Artefact]) -> dict[str, Artefact] | None:
    own = index.input("embeddings").input("encoder")
    fitting = {}
    for name, encoder in encoders.items():
        try:
            check_compatible(store, index, own, {name: encoder})
        except IncompatibleError:
            continue
        fitting[name] = encoder
    return fitting or None
