"""What can go wrong, named for what the caller can do about it.

    RetortError                 every error that we raise on purpose
    ├── InputError              what was given cannot be used: mend it and run again
    │   ├── ConfigError         a field of a config
    │   ├── NotFoundError       a path, an artefact, a model that is not there
    │   ├── ModelError          a model that cannot do what was asked of it
    │   └── IncompatibleError   two things that do not belong together (encoder and index)
    ├── BusyError               somebody else holds it (a lock, a port): wait, or end them
    ├── CorruptError            bytes that are not what was written: restore or make again
    ├── StorageError            the store refused (disk full, no permission)
    ├── PolicyError             forbidden by the project's own policy (licence, personal data)
    └── OverloadedError         too much at once: try again later

cli.py turns them into exit code 2 and one line; serving turns `status` into problem details. Anything else that
escapes is a mistake of ours and keeps its traceback.
"""

from __future__ import annotations


class RetortError(Exception):
    """Base of every error raised on purpose; `str()` says what, where, what was expected and how to mend it."""

    status: int = 500
    exit_code: int = 2


class InputError(RetortError):
    """The data, path or argument given cannot be used."""

    status = 400


class ConfigError(InputError):
    """A config field is unknown, missing or out of range."""

    status = 422


class NotFoundError(InputError):
    """The named path, artefact or model is not there."""

    status = 404


class ModelError(InputError):
    """The model cannot be loaded, or cannot do what is asked of it."""


class IncompatibleError(InputError):
    """Two artefacts do not belong together, such as a query encoder and an index of another passage space."""

    status = 409


class BusyError(RetortError):
    """Somebody else holds the lock or the port."""

    status = 409


class CorruptError(RetortError):
    """Stored bytes differ from what was published, or are missing."""


class StorageError(RetortError):
    """The store refused to read or write: disk full, permission denied, bucket unreachable."""

    status = 507


class PolicyError(RetortError):
    """The project's policy (licences, personal data) forbids this."""

    status = 403


class OverloadedError(RetortError):
    """More work than can be taken now."""

    status = 503
