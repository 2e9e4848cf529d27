"""A store: artefacts by kind and key, names that point to them, pointers, and their lineage.

Layout below the store's URI: `<kind>/<key>/` an artefact, `names/<kind>/<name>/` a name, `pointers/<name>/` a pointer
(releases), `locks/` leases.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from retort.errors import CorruptError, InputError, NotFoundError
from retort.store.artefact import Artefact
from retort.store.draft import Draft
from retort.store.files import FileArea
from retort.store.manifest import MANIFEST, InputRecord, Manifest, artefact_key
from retort.store.pointers import Pointer

KINDS = ("corpus", "queries", "candidates", "teacher", "judgements", "encoder", "embeddings", "index", "mask", "report")
DEFAULT_STORE = ".retort"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def open_store(uri: str | None = None) -> Store:
    """The store at `uri`, else at $RETORT_STORE, else at `.retort` in the working folder."""
    chosen = uri or os.environ.get("RETORT_STORE") or DEFAULT_STORE
    area = FileArea(chosen.rstrip("/") or "/")
    if area.is_local:
        area = FileArea(str(area.root))  # absolute: Ray workers have another working folder
        if area.root.exists() and not area.root.is_dir():
            raise InputError(f"Store {chosen!r} is a file. Name a folder, or an s3:// or gs:// URI.")
    return Store(area)


def valid_name(name: str) -> str:
    """The name itself, or InputError saying what names look like."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name for an artefact: use 1 to 100 letters, digits, '.', '_' and '-', a letter or digit first."
        )
    return name


@dataclass(frozen=True)
class Store:
    """One store; picklable and cheap."""

    area: FileArea

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.area.uri

    def draft(
        self,
        kind: str,
        name: str,
        *,
        step: str,
        version: int = 1,
        inputs: Mapping[str, Artefact] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Draft:
        """Begin (or go on with) the artefact that these inputs and this config make."""
        assert kind in KINDS, kind
        given = dict(inputs or {})
        key = artefact_key(kind, step, version, {role: item.digest for role, item in given.items()}, config or {})
        records = [
            InputRecord(role=role, kind=item.kind, name=item.name, key=item.key, digest=item.digest)
            for role, item in given.items()
        ]
        return Draft(self.area, kind, valid_name(name), step, version, key, records, dict(config or {}))

    def unfinished(self, kind: str) -> list[Draft]:
        """What was begun of this kind and not published, whoever began it: to look at and to discard, not to go on with."""
        drafts = [Draft(self.area, kind, "unfinished", "", 0, key, [], {}) for key in self.area.folders(kind)]
        return [draft for draft in drafts if not draft.has(MANIFEST)]

    def find(self, kind: str, key: str) -> Artefact | None:
        """The published artefact with this key, if there is one."""
        area = self.area.at(kind, key)
        if not area.exists(MANIFEST):
            return None
        try:
            return Artefact(area, Manifest.model_validate_json(area.read(MANIFEST)))
        except ValidationError as error:
            raise CorruptError(
                f"{area.full(MANIFEST)} is not a manifest: {error.errors()[0]['msg']}. Delete {area.uri} and run its step again."
            ) from None

    def get(self, ref: str, kind: str | None = None) -> Artefact:
        """The artefact named by `ref`: a name, kind/name, a key or digest or the first 8+ characters of one, or its URI.

        Raises NotFoundError listing what there is, InputError if the reference fits several.
        """
        text = ref.rstrip("/")
        if "/" in text and text.rsplit("/", 2)[0] and len(text.rsplit("/", 2)) == 3:
            root, folder_kind, key = text.rsplit("/", 2)
            if folder_kind in KINDS and len(key) == 64:
                found = open_store(root).find(folder_kind, key)
                if found is not None and kind in (None, found.kind):
                    return found
        if text.count("/") == 1 and text.split("/")[0] in KINDS:
            named_kind, text = text.split("/")
            if kind not in (None, named_kind):
                raise InputError(f"{ref!r} names a {named_kind}; a {kind} is needed here.")
            kind = named_kind
        kinds = (kind,) if kind else KINDS
        matches: dict[str, Artefact] = {}
        for one in kinds:
            value = self._name_pointer(one, text).read().value if _NAME.fullmatch(text) else None
            if value:
                found = self.find(one, value["key"])
                if found is not None:
                    matches[found.uri] = found
        if not matches and re.fullmatch(r"[0-9a-f]{8,64}", text):
            for item in self.list(kind):
                if item.key.startswith(text) or item.digest.startswith(text):
                    matches[item.uri] = item
        if len(matches) > 1:
            raise InputError(
                f"{ref!r} fits several artefacts: {', '.join(str(item) for item in matches.values())}. Say which as kind/name or by key."
            )
        if not matches:
            there = sorted({item.name for item in self.list(kind)})
            listing = ", ".join(there[:20]) or "none"
            raise NotFoundError(f"There is no {kind or 'artefact'} {ref!r} in store {self.uri}. There: {listing}.")
        return next(iter(matches.values()))

    def names(self, kind: str) -> dict[str, str]:
        """Name -> key, for all names of a kind."""
        result = {}
        for name in self.area.folders(f"names/{kind}"):
            value = self._name_pointer(kind, name).read().value
            if value:
                result[name] = value["key"]
        return result

    def bind_name(self, artefact: Artefact, name: str) -> None:
        """Let `name` point to this artefact from now on."""
        self._name_pointer(artefact.kind, valid_name(name)).set({"key": artefact.key})

    def _name_pointer(self, kind: str, name: str) -> Pointer:
        return Pointer(self.area.at("names", kind, name))

    def pointer(self, name: str) -> Pointer:
        """A pointer of this store, such as a release."""
        return Pointer(self.area.at("pointers", quote(name, safe="")))

    def list(self, kind: str | None = None) -> list[Artefact]:
        """All published artefacts (of one kind), newest last."""
        found = [
            item
            for one in ((kind,) if kind else KINDS)
            for key in self.area.folders(one)
            if (item := self.find(one, key)) is not None
        ]
        return sorted(found, key=lambda item: (item.manifest.created, item.kind, item.key))
