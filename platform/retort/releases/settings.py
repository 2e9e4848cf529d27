"""The settings that an artefact was made with, for making its successor alike.

settings_of(model, artefact)              fields of a job's config, from the manifest
index_settings(index, embeddings)         those of the whole index that a partial one goes back to
"""

from __future__ import annotations

from typing import Any

from retort.config import JobConfig
from retort.indexing.build import IndexConfig
from retort.store import Artefact, Store

__all__ = ["index_settings", "settings_of"]


def settings_of(model: type[JobConfig], artefact: Artefact) -> dict[str, Any]:
    """The config of an artefact's manifest, as far as this version of its step knows the fields."""
    return {name: value for name, value in artefact.manifest.config.items() if name in model.model_fields}


def index_settings(index: Artefact, embeddings: Artefact) -> dict[str, Any]:
    """Fields of IndexConfig that build `embeddings` as `index`, or the whole index it was extended from, was built."""
    store = Store(index.store_area())
    whole = store.find("index", index.metrics.get("whole", index.key)) or index
    settings = settings_of(IndexConfig, whole)
    settings["shards"] = min(settings.get("shards", 1), int(embeddings.metrics["count"]))
    for record in whole.manifest.inputs:
        if record.role == "tune_queries":
            if store.find(record.kind, record.key) is not None:
                settings["tune_queries"] = whole.input("tune_queries").uri
            else:  # nothing to tune on any more: what was found then is no longer a setting but a width
                settings.pop("tune", None)
    return settings
