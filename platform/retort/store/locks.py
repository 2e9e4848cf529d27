"""Leases: who is making this artefact, or moving this release, right now.

A lease is a pointer whose value names the holder and an expiry that a thread keeps pushing back. A holder that died on
this machine is seen at once (its process is gone); elsewhere its lease runs out.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retort.errors import BusyError, StorageError
from retort.store.pointers import Pointer

log = logging.getLogger(__name__)

LEASE_S = 60.0


def _started(pid: int) -> str | None:
    """Start time of a process, so that a recycled process id is not taken for the holder; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_free(value: Any) -> bool:
    if not value or value.get("released"):
        return True
    if value["host"] == socket.gethostname() and Path("/proc/self").is_dir():
        return bool(_started(value["pid"]) != value["started"])
    return bool(time.time() > value["expires"])


@contextmanager
def lease(pointer: Pointer, purpose: str, *, ttl_s: float = LEASE_S) -> Iterator[threading.Event]:
    """Hold the lease while the context is open; yields an event that is set if the lease was lost.

    Raises BusyError, naming the holder, if somebody alive holds it.
    """
    holder = uuid.uuid4().hex

    def claim(released: bool = False) -> dict[str, Any]:
        return {
            "holder": holder,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "purpose": purpose,
            "expires": time.time() + ttl_s,
            "released": released,
        }

    current = pointer.read()
    if not _is_free(current.value):
        value = current.value
        raise BusyError(
            f"Process {value['pid']} on {value['host']} is already at it ({value['purpose']}). "
            f"Wait for it to end, or end it; a lease whose holder died ends by itself within {ttl_s:.0f} s."
        )
    if not pointer.swap(current.version, claim()):
        raise BusyError(f"Somebody else took the lease for {purpose} a moment ago: try again when they are done.")
    version = [current.version + 1]
    lost, done = threading.Event(), threading.Event()

    def renew() -> None:
        while not done.wait(ttl_s / 3):
            try:
                if not pointer.swap(version[0], claim()):
                    lost.set()
                    return
                version[0] += 1
                pointer.trim(2)
            except Exception as error:  # a store that hiccups must not end the lease while it still has time
                log.warning("could not renew the lease for %s: %s", purpose, error)

    thread = threading.Thread(target=renew, name="retort-lease", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        done.set()
        thread.join(timeout=10)
        if not lost.is_set():
            _release(pointer, version[0], claim(released=True))


def _release(pointer: Pointer, version: int, value: dict[str, Any]) -> None:
    try:
        pointer.swap(version, value)
        pointer.trim(1)
    except StorageError as error:
        # A full disk, most likely: it must neither hide what the holder has to say nor keep the lease. Deleting needs no room.
        log.warning("could not write that the lease is over, so it is deleted: %s", error)
        for number in pointer.versions():
            pointer.forget(number)
