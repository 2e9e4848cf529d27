"""API keys: made at random, kept as hashes in the store, looked up in memory.

    make_key(store, name, scopes)   the key itself, shown once; the store gets its SHA-256 (a random key needs no slow hash)
    KeyRing(store)                  the keys of now, read again every few seconds: a revoked one stops working then

A key reads `rk_<id>_<secret>`. The id names it in logs, metrics and `retort keys`; it opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Literal

from limits import parse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from retort.config import validated
from retort.errors import ConfigError, NotFoundError, RetortError
from retort.store import Store

__all__ = ["SCOPES", "KeyRecord", "KeyRing", "Scope", "list_keys", "make_key", "revoke_key"]

log = logging.getLogger(__name__)

Scope = Literal["search", "admin"]
SCOPES: tuple[Scope, ...] = ("search", "admin")
AREA = "keys"
_KEY = re.compile(r"rk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class KeyRecord(BaseModel):
    """What is kept of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the whole key.")
    scopes: list[Scope] = Field(min_length=1)
    rate: str | None = Field(default=None, description="Queries allowed, such as 600/minute; None: the endpoint's own.")
    created: str
    expires: str | None = None

    @field_validator("rate")
    @classmethod
    def _is_a_rate(cls, rate: str | None) -> str | None:
        return rate if rate is None else checked_rate(rate)

    def allows(self, scope: Scope) -> bool:
        """Whether the key opens it."""
        return scope in self.scopes

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and now >= datetime.fromisoformat(self.expires)


def checked_rate(rate: str) -> str:
    """The rate itself; ConfigError saying what rates look like."""
    try:
        parse(rate)
    except ValueError:
        raise ConfigError(f"rate {rate!r} is none: write COUNT/PERIOD, such as 600/minute or 10/second.") from None
    return rate


def make_key(
    store: Store,
    name: str,
    scopes: Iterable[Scope] = ("search",),
    *,
    rate: str | None = None,
    days: float | None = None,
) -> tuple[str, KeyRecord]:
    """A new key, which nobody can read again, and its record in the store."""
    now = datetime.now(UTC)
    identity = secrets.token_hex(6)
    key = f"rk_{identity}_{secrets.token_urlsafe(32)}"
    values = {
        "id": identity,
        "name": name,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "scopes": list(dict.fromkeys(scopes)),
        "rate": rate,
        "created": now.isoformat(timespec="seconds"),
        "expires": (now + timedelta(days=days)).isoformat(timespec="seconds") if days is not None else None,
    }
    record = validated(KeyRecord, values, "the key")
    store.area.at(AREA).write_bytes(f"{identity}.json", record.model_dump_json(indent=1).encode())
    return key, record


def list_keys(store: Store, told: set[str] | None = None) -> list[KeyRecord]:
    """All keys of the store, oldest first; a file that is no record is passed over (and opens nothing).

    Such files are logged and added to `told`; those in it already are not logged again.
    """
    area, told = store.area.at(AREA), set() if told is None else told
    found = []
    for item in area.list():
        with suppress(NotFoundError):  # revoked between listing and reading
            try:
                found.append(KeyRecord.model_validate_json(area.read(item.path)))
            except (ValidationError, ConfigError):
                if item.path not in told:
                    log.warning("%s is no key record", area.full(item.path))
                told.add(item.path)
    return sorted(found, key=lambda record: (record.created, record.id))


def revoke_key(store: Store, wanted: str) -> KeyRecord:
    """Delete a key by its id or name; NotFoundError lists those there are, ConfigError if several have the name."""
    matches = [record for record in list_keys(store) if wanted in (record.id, record.name)]
    if not matches:
        there = ", ".join(f"{record.id} ({record.name})" for record in list_keys(store)) or "none"
        raise NotFoundError(f"There is no key {wanted!r} in {store.uri}. Keys: {there}.")
    if len(matches) > 1:
        raise ConfigError(
            f"Several keys are called {wanted!r}: say which by id ({', '.join(one.id for one in matches)})."
        )
    store.area.at(AREA).delete(f"{matches[0].id}.json")
    return matches[0]


class KeyRing:
    """The store's keys in memory; `check` is for the event loop, reading happens on a thread of its own."""

    def __init__(self, store: Store, refresh_s: float = 5.0) -> None:
        self._store, self._refresh_s = store, refresh_s
        self._records: Mapping[str, KeyRecord] = {}
        self._told: set[str] = set()
        self._ended = threading.Event()
        self.refresh()
        threading.Thread(target=self._run, name="retort-keys", daemon=True).start()

    def refresh(self) -> None:
        """Read the keys again."""
        self._records = {record.id: record for record in list_keys(self._store, self._told)}

    def close(self) -> None:
        """End its thread."""
        self._ended.set()

    def check(self, key: str) -> KeyRecord | None:
        """The record of a key that is known and not expired."""
        parts = _KEY.fullmatch(key)
        record = self._records.get(parts[1]) if parts else None
        if record is None:
            return None
        right = hmac.compare_digest(hashlib.sha256(key.encode()).hexdigest(), record.sha256)
        return record if right and not record.expired(datetime.now(UTC)) else None

    def _run(self) -> None:
        while not self._ended.wait(self._refresh_s):
            try:
                self.refresh()
            except (RetortError, OSError) as error:  # the store is away: the keys of before hold
                log.warning("cannot read the API keys: %s", error)
