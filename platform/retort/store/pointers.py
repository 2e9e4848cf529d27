"""Pointers: the only things in a store that change.

A pointer is a folder of numbered JSON versions; the highest number is its value. Moving it creates the next number,
if that is absent: one atomic operation that local disks, S3 and GCS all have, so that of two who move it at once
exactly one succeeds, and the history stays for rollback.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from retort.errors import BusyError, CorruptError, NotFoundError
from retort.store.files import FileArea


@dataclass(frozen=True)
class PointerValue:
    """What a pointer held at one version; version 0 with value None is a pointer never set."""

    version: int
    value: Any


@dataclass(frozen=True)
class Pointer:
    """One pointer; `area` is its folder."""

    area: FileArea

    def versions(self) -> list[int]:
        """Version numbers that exist, ascending."""
        names = [item.path for item in self.area.list()]
        return sorted(
            int(name.removesuffix(".json")) for name in names if name.endswith(".json") and name[:-5].isdigit()
        )

    def read(self, version: int | None = None) -> PointerValue:
        """The newest value, or the one at `version`."""
        for _ in range(20):
            numbers = self.versions()
            if version is None and not numbers:
                return PointerValue(0, None)
            wanted = version if version is not None else numbers[-1]
            try:
                data = self.area.read(_file(wanted))
            except NotFoundError:
                if version is not None:
                    raise NotFoundError(
                        f"{self.area.uri} has no version {version}; it has {numbers or 'none'}."
                    ) from None
                continue  # trimmed between listing and reading: a newer one is there
            try:
                return PointerValue(wanted, json.loads(data))
            except ValueError:
                raise CorruptError(
                    f"{self.area.uri}/{_file(wanted)} is not JSON: restore it or delete this version."
                ) from None
        raise BusyError(f"{self.area.uri} changes faster than it can be read: try again.")

    def swap(self, expected_version: int, value: Any) -> bool:
        """Move to `value` if the pointer is still at `expected_version`; returns whether it moved."""
        data = json.dumps(value, indent=1, sort_keys=True).encode()
        numbers = self.versions()
        if (numbers[-1] if numbers else 0) != expected_version:
            return False
        return self.area.put_if_absent(_file(expected_version + 1), data)

    def set(self, value: Any) -> int:
        """Move to `value` whatever it holds now; returns the new version."""
        for _ in range(100):
            current = self.read()
            if current.value == value:
                return current.version
            if self.swap(current.version, value):
                return current.version + 1
        raise BusyError(f"{self.area.uri} is being moved by others all the time: try again.")

    def forget(self, version: int) -> None:
        """Delete one version. The next is counted from the newest that is left."""
        self.area.delete(_file(version))

    def trim(self, keep: int) -> None:
        """Delete all but the newest `keep` versions."""
        for version in self.versions()[:-keep]:
            self.forget(version)


def _file(version: int) -> str:
    return f"{version:08d}.json"
