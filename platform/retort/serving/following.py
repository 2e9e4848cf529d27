"""A replica follows the pointer of its release: load beside, check, swap, let go; and stay where it is if the check fails.

One thread per replica looks at the pointer about once a second. A release is opened on that thread, at low priority, while
the old one answers; the swap is one assignment. The same thread takes a release back when its guard says so. Nothing is sent to replicas: each pulls, so that a replica that starts
later, or was away, comes to the same release.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from retort.errors import OverloadedError, RetortError, StorageError
from retort.releases.promote import rollback
from retort.releases.release import Release, newest_version, release_at
from retort.releases.usage import announce, withdraw
from retort.resources import give_way
from retort.serving.engine import SearchEngine
from retort.serving.models import RefusedChange
from retort.serving.served import Served
from retort.store import Store

log = logging.getLogger(__name__)

Open = Callable[[Release, int], Served]
_OLDER = 5
_PASSING = (StorageError, OverloadedError, OSError)
"""What the store or a part of the index cannot give just now is no fault of a release: it is tried again."""
_ANNOUNCE_S = 60.0


@dataclass(frozen=True)
class Target:
    """The release that a replica should serve, by the name of its pointer."""

    name: str
    poll_s: float = 1.0


def first_served(store: Store, name: str, open_: Open, replica: str = "replica") -> tuple[Served, RefusedChange | None]:
    """The newest version of a release that passes its check, for a replica that starts; and the newest if that did not.

    Like the follower, it tells the store what it opens before it does: whoever waits for all replicas must not miss one
    that is ready and has not looked yet. Raises what was wrong with the newest version when none of the last five passes.
    """
    release, newest = release_at(store, name)
    try:
        _hold(store, replica, [release])
        return open_(release, newest), None
    except Exception as error:  # whatever is wrong with it, an older one may be good
        refused = None if isinstance(error, _PASSING) else _refusal(newest, error)
        for version in range(newest - 1, max(0, newest - 1 - _OLDER), -1):
            with suppress(Exception):
                older, _ = release_at(store, name, version)
                _hold(store, replica, [older])
                served = open_(older, version)
                log.error("release %r version %d is not served: %s; serving version %d", name, newest, error, version)
                return served, refused
        _let_go(store, replica)
        raise


class ReleaseFollower:
    """The thread that keeps one engine at the newest good version of its release."""

    def __init__(
        self, store: Store, engine: SearchEngine, open_: Open, target: Target, replica: str = "replica"
    ) -> None:
        self._replica, self._announced = replica, -math.inf
        self._store, self._engine, self._open = store, engine, open_
        self.target = target
        """Assign another to follow another release; the thread takes it up at its next look."""
        self._seen = (target.name, max(engine.served.identity.version, _version_of(engine.refused)))
        self._judged: tuple[str, int] | None = None
        self._refused = deque([engine.refused.version] if engine.refused else [], maxlen=_OLDER)
        self._ended = threading.Event()
        self._unreachable = False
        self._thread = threading.Thread(target=self._run, name="retort-release", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, which may be loading (it ends after that), and hold nothing any more in the store's eyes."""
        self._ended.set()
        _let_go(self._store, self._replica)

    def look(self) -> bool:
        """Look once at the pointer, and take up what is new; returns whether the engine was swapped."""
        target = self.target
        version = newest_version(self._store, target.name)
        if version == 0 or (target.name, version) == self._seen:
            return False
        began = time.monotonic()
        try:
            release, version = release_at(self._store, target.name)
            self._announce(release)  # before it is opened: nothing of it may be collected meanwhile
            served = self._open(release, version)
        except Exception as error:  # whatever is wrong with the new one, the old one goes on
            self._refuse(target.name, version, error)
            return False
        self._seen = (target.name, version)
        self._engine.swap(served)
        self._announced = -math.inf
        self._engine.metrics.change("applied")
        seconds = time.monotonic() - began
        self._engine.metrics.loaded(seconds)
        log.warning("release %r version %d answers from now on (made ready in %.2f s)", target.name, version, seconds)
        return True

    def guard(self) -> bool:
        """Take the release back if its guard says so; returns whether the pointer was moved.

        Only from the version that was judged, or one that was refused since: of several replicas that judge alike, one moves the pointer.
        """
        served, target = self._engine.served, self.target
        version = served.identity.version
        reason = served.watch.verdict(time.monotonic())
        if reason is None or served.identity.release != target.name:
            return False
        newest = newest_version(self._store, target.name)
        if newest not in (version, *self._refused) or self._judged == (target.name, newest):
            return False
        self._judged = (target.name, newest)
        try:
            # A replica checks whatever it opens; what this one has refused would be refused again.
            now, _ = rollback(self._store, target.name, checks=(), avoid={version, *self._refused})
        except RetortError as error:
            log.error("release %r version %d: %s; it cannot be taken back: %s", target.name, version, reason, error)
            return False
        self._engine.metrics.change("taken_back")
        log.error("release %r version %d: %s; taken back by version %d", target.name, version, reason, now)
        return True

    def _announce(self, coming: Release | None = None) -> None:
        """Tell the store what this replica holds, so that it is not collected."""
        if self._ended.is_set():
            return
        held = [release for release in (self._engine.served.release, coming) if release is not None]
        if held and (coming is not None or time.monotonic() > self._announced + _ANNOUNCE_S):
            self._announced = time.monotonic()
            _hold(self._store, self._replica, held)

    def _refuse(self, name: str, version: int, error: Exception) -> None:
        if not isinstance(error, _PASSING):
            self._seen = (name, version)
            self._refused.append(version)
        refused, known = _refusal(version, error), self._engine.refused
        if known and (known.version, known.reason) == (refused.version, refused.reason):
            return
        self._engine.refused = refused
        self._engine.metrics.change("refused")
        ours = None if isinstance(error, RetortError) else error
        at = self._engine.served.identity.version
        log.error("release %r version %d is not served, %d goes on: %s", name, version, at, error, exc_info=ours)

    def _run(self) -> None:
        give_way()
        while not self._ended.wait(self.target.poll_s * random.uniform(0.75, 1.25)):
            try:
                self.guard()
                self.look()
                self._announce()
                self._unreachable = False
            except Exception as error:  # the store may be away for a while: nothing of it is needed to answer
                if not self._unreachable:
                    log.warning("cannot read the release %r: %s; serving goes on", self.target.name, error)
                self._unreachable = True
        _let_go(self._store, self._replica)  # it may have been announcing when it was told to stop


def _hold(store: Store, replica: str, releases: Sequence[Release]) -> None:
    with suppress(RetortError, OSError):  # a replica that may only read the store serves all the same
        announce(store, replica, releases, ttl_s=3 * _ANNOUNCE_S)


def _let_go(store: Store, replica: str) -> None:
    with suppress(RetortError, OSError):
        withdraw(store, replica)


def _refusal(version: int, error: Exception) -> RefusedChange:
    reason = str(error) if isinstance(error, RetortError) else f"{type(error).__name__}: {error}"
    return RefusedChange(version=version, reason=reason, at=datetime.now(UTC).isoformat(timespec="seconds"))


def _version_of(refused: RefusedChange | None) -> int:
    return refused.version if refused else 0
