"""Deleting passages from what is served, at once: the same release is promoted with a mask, nothing is rebuilt.

    mask_passages(store, name, ids, reason)    the pointer's new version; endpoints follow it within a second or so
    read_ids(path)                             passage ids from a file: one a line, or JSON lines with a passage_id

The passages stay in the artefacts until a re-index and a collection; `purge` (purging.py) takes them out of every version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from retort.corpus.lookup import Passages
from retort.errors import InputError, NotFoundError
from retort.releases.masks import Reason, masked_ref, read_mask
from retort.releases.promote import promote_change
from retort.releases.release import Release
from retort.store import Store

__all__ = ["mask_passages", "read_ids"]


def mask_passages(
    store: Store, name: str, ids: Iterable[str], reason: Reason, note: str, *, strict: bool = True
) -> tuple[int, int]:
    """Hide these passages from the release `name`; returns the pointer's version and how many are masked now.

    With `strict`, NotFoundError for ids that the release's corpus does not hold. Others may move the release meanwhile.
    """
    wanted = list(dict.fromkeys(ids))

    def masked(release: Release) -> Release:
        if strict:
            Passages.open(release.corpus.find(store)).rows(wanted)
        mask = read_mask(store, release)
        # What somebody asked for stays asked for, whatever becomes of the corpus.
        mask |= {passage_id: reason for passage_id in wanted if mask.get(passage_id) != "asked"}
        return release.model_copy(update={"masked": masked_ref(store, mask, name), "origin": "promote"})

    version, release = promote_change(store, name, masked, note=note)
    return version, len(read_mask(store, release))


def read_ids(values: Sequence[str]) -> list[str]:
    """Passage ids: each value is an id, or a file of ids (one a line, or JSON objects with `passage_id` or `_id`). InputError for none."""
    found: list[str] = []
    for value in values:
        path = Path(value)
        try:
            is_file = path.is_file()
        except OSError:  # too long for a path
            is_file = False
        if not is_file:
            found.append(value)
            continue
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"Passages {value}: {error}. Expected a UTF-8 file with one passage id a line.") from None
        found.extend(_id_of(line, f"{value}:{number}") for number, line in enumerate(lines, 1) if line.strip())
    ids = list(dict.fromkeys(found))
    if not ids:
        raise NotFoundError(f"No passage ids in {', '.join(values) or 'what was given'}: name ids, or a file of them.")
    return ids


def _id_of(line: str, where: str) -> str:
    if not line.lstrip().startswith("{"):
        return line.strip()
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}.") from None
    value = row.get("passage_id", row.get("_id"))
    if not isinstance(value, str):
        raise InputError(f"{where}: expected an object with passage_id.")
    return value
