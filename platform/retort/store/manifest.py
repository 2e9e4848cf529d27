"""The manifest: what an artefact is, what it was made from, and how its bytes are checked.

It is the last file written: no manifest, no artefact. `key` decides skipping, `digest` decides binding (design.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class StoredFile(BaseModel):
    """One data file."""

    model_config = ConfigDict(frozen=True)

    path: str
    size_bytes: int
    sha256: str


class InputRecord(BaseModel):
    """One artefact that this one was made from."""

    model_config = ConfigDict(frozen=True)

    role: str
    kind: str
    name: str
    key: str
    digest: str


class Manifest(BaseModel):
    """Everything known about a published artefact."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    kind: str
    name: str
    key: str
    digest: str
    step: str
    step_version: int
    inputs: list[InputRecord] = Field(default_factory=list)
    config: dict[str, Any] = Field(default_factory=dict)
    code_version: str
    rows: int | None = None
    size_bytes: int = 0
    files: list[StoredFile] = Field(default_factory=list)
    metrics: dict[str, Any] = Field(default_factory=dict)
    licences: list[str] = Field(default_factory=list)
    personal_data: str = "unknown"
    notes: str = ""
    created: str
    wall_s: float = 0.0
    cpu_s: float = 0.0


def hash_json(value: Any) -> str:
    """sha256 of a JSON value in canonical form, hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def artefact_key(kind: str, step: str, version: int, inputs: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """The key: inputs' digests by role, the result-affecting config and the step's version, hashed."""
    return hash_json({"kind": kind, "step": step, "version": version, "inputs": dict(inputs), "config": dict(config)})


def files_digest(files: list[StoredFile]) -> str:
    """The digest: paths and checksums of the data files, hashed."""
    return hash_json([[item.path, item.sha256] for item in sorted(files, key=lambda item: item.path)])
