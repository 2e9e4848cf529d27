"""Who may ask, and how much: API keys by scope, and queries per time for each key.

    gate.identify(headers, scope) -> Caller     401 without a key that is known, 403 for one without the scope
    await gate.charge(caller, queries)          429 + Retry-After beyond the caller's rate

Rates are counted by the `limits` library: in this replica's memory (each of n replicas then allows one n-th), or for all
replicas together in a Redis that `rate_storage` names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from limits import RateLimitItem, parse
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError
from limits.storage import storage_from_string

from retort.errors import ConfigError
from retort.serving.keys import KeyRing, Scope, checked_rate
from retort.serving.problems import RequestError

__all__ = ["OPEN", "Caller", "Gate"]

_ANYONE = "anyone"


@dataclass(frozen=True)
class Caller:
    """Who asks: the id of a key, or `anyone`; and the rate that holds for it."""

    id: str = _ANYONE
    rate: str | None = None


class Gate:
    """Checks callers. Without a key ring everybody may do everything, within `rate` if there is one."""

    def __init__(
        self,
        ring: KeyRing | None = None,
        *,
        rate: str | None = None,
        storage: str = "memory://",
        replicas: int = 1,
    ) -> None:
        """`rate` is for keys that have none of their own. ConfigError for a rate or a storage that is none."""
        self._ring, self._rate = ring, checked_rate(rate) if rate else None
        self._shares = replicas if storage.startswith("memory:") else 1
        try:
            self._limiter = SlidingWindowCounterRateLimiter(storage_from_string(f"async+{storage}"))
        except ConfigurationError as error:
            raise ConfigError(f"rate_storage {storage!r}: {error}") from None

    def identify(self, headers: Mapping[str, str], scope: Scope) -> Caller:
        """Who asks; `headers` by lower-case name. RequestError 401 or 403."""
        if self._ring is None:
            return Caller(rate=self._rate)
        given = headers.get("x-api-key") or _bearer(headers.get("authorization", ""))
        if not given:
            raise RequestError(
                401,
                "no-key",
                "An API key is needed: send the header Authorization: Bearer KEY. `retort keys make` makes one.",
            )
        record = self._ring.check(given)
        if record is None:
            raise RequestError(401, "bad-key", "This API key is not known, or no longer valid.")
        if not record.allows(scope):
            raise RequestError(
                403, "scope", f"This API key is not for {scope}: it has the scope {', '.join(record.scopes)}."
            )
        return Caller(record.id, record.rate or self._rate)

    async def charge(self, caller: Caller, queries: int) -> None:
        """Count so many queries; RequestError 429 if they are more than the caller may ask now."""
        if caller.rate is None:
            return
        item = _item(caller.rate, self._shares)
        if queries > item.amount:
            raise RequestError(429, "rate", f"{queries} queries at once; {caller.rate} are allowed. Send fewer.")
        if await self._limiter.hit(item, caller.id, cost=queries):
            return
        reset_s, _ = await self._limiter.get_window_stats(item, caller.id)
        wait_s = max(1, math.ceil(reset_s - time.time()))
        raise RequestError(
            429,
            "rate",
            f"More than {caller.rate} queries: send the request again in {wait_s} s.",
            headers={"retry-after": str(wait_s)},
        )


OPEN = Gate()
"""Lets everybody in."""


def _bearer(header: str) -> str:
    kind, _, value = header.partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


@lru_cache(maxsize=1024)
def _item(rate: str, shares: int) -> RateLimitItem:
    """The rate, of which this replica allows its share."""
    whole = parse(rate)
    return type(whole)(max(1, math.ceil(whole.amount / shares)), whole.multiples)
