"""Joining a Ray cluster, or starting one in this process's name and ending only that."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from retort.errors import InputError
from retort.resources import available_cores, share_the_machine

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 256 << 20
"""Parts travel through the artefact store, so Ray's own object store only carries their names."""


def _environment() -> None:
    share_the_machine()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def connected(address: str | None = None, *, worker_niceness: int | None = None) -> Iterator[None]:
    """Be connected to Ray while the context is open.

    Uses the connection that is there; else `address` or $RAY_ADDRESS; else starts a local instance, sized to the
    cores this process may use, which ends with the context. `worker_niceness` is for the workers of such an instance; Ray's own
    choice (15) suits batch jobs, beside which its daemons and the user's other work must go on.
    """
    if ray.is_initialized():
        yield
        return
    _environment()
    target = address or os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": False}
    try:
        if target:
            ray.init(address=target, **common)
        else:
            # A local instance is guarded by a token since Ray 2.60; that is announced to users who did not ask for Ray.
            logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
            # The core's stderr is for Ray's developers; what a user must know comes from the steps.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            with _silenced_stderr():
                _start_local(common, worker_niceness)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"No Ray cluster at {target or 'this machine'}: {str(error).splitlines()[0]}. "
            f"Start one (`ray start --head`), mend RAY_ADDRESS, or unset it to run on this machine alone."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _start_local(common: dict[str, Any], worker_niceness: int | None) -> None:
    """Start an instance on this machine; a busy one may not be up in Ray's time, so a second try follows."""
    own = {} if worker_niceness is None else {"worker_niceness": worker_niceness}
    for last in (False, True):
        try:
            ray.init(
                address="local",
                num_cpus=max(2, available_cores()),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                _system_config=own or None,
                **common,
            )
        except Exception as error:  # Ray raises a bare Exception when its own start-up times out
            ray.shutdown()
            if last:
                raise RuntimeError(str(error) or type(error).__name__) from error
            log.warning("Ray did not start (%s); trying once more", str(error).splitlines()[0] if str(error) else error)
        else:
            return


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Keep the core's own start-up lines (written past Python, to file descriptor 2) off the user's screen.

    What goes wrong while starting comes as an exception.
    """
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (a descriptor is needed)
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
