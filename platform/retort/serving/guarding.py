"""Watching a release after its change: when errors or latency pass the limits of its guard, it is to be taken back.

Pure but for the clock, which is given. One Watch per release served; whoever asks moves the pointer.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from retort.releases.routing import Guard

_KEPT = 2000


@dataclass
class Watch:
    """What was seen of one release, whose time began at `began_s` (on the clock of `verdict`)."""

    guard: Guard | None
    began_s: float
    _times_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _errors: int = 0
    _requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, milliseconds: float | None) -> None:
        """One request was answered; None: its time says nothing of the release."""
        if self.guard is None:
            return
        with self._lock:
            self._requests += 1
            if milliseconds is not None:
                self._times_ms.append(milliseconds)

    def failed(self) -> None:
        """One request failed by our fault (a mistake, or the deadline). A refusal when full is no failure."""
        if self.guard is None:
            return
        with self._lock:
            self._requests += 1
            self._errors += 1

    def verdict(self, now_s: float) -> str | None:
        """Why the release is to be taken back; None while there is no reason, or once the time to watch has passed."""
        guard = self.guard
        if guard is None or now_s > self.began_s + guard.watch_s:
            return None
        with self._lock:
            requests, errors, times = self._requests, self._errors, list(self._times_ms)
        if requests < guard.min_requests:
            return None
        if errors > guard.max_error_share * requests:
            return f"{errors} of {requests} requests failed; its guard allows {guard.max_error_share:.1%}"
        if guard.max_p95_ms is None or len(times) < guard.min_requests:
            return None
        p95 = float(np.percentile(times, 95))
        if p95 <= guard.max_p95_ms:
            return None
        return f"its p95 is {p95:.0f} ms over {len(times)} requests; its guard allows {guard.max_p95_ms:g} ms"
