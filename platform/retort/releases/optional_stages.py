"""What a release does besides vectors: BM25, a teacher, routing. Carried on from version to version unless given anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from retort.config import validated
from retort.errors import InputError
from retort.releases.release import ArtefactRef, Release
from retort.releases.routing import Routing
from retort.store import Artefact

__all__ = ["read_routing", "with_stages"]


def with_stages(
    made: Release,
    current: Release | None,
    *,
    routing: Routing | None = None,
    bm25: bool | None = None,
    reranker: Artefact | None = None,
) -> Release:
    """`made` with these stages; those that are not given are those of `current`.

    Raises InputError when the routing names an encoder that the release has not.
    """
    if routing is None and current is not None:
        routing = current.routing
    strangers = sorted((routing.encoders if routing else set()) - set(made.encoders))
    if strangers:
        raise InputError(
            f"The routing of release {made.name!r} names {', '.join(strangers)}; its encoders are {', '.join(made.encoders)}. "
            "Give another (--routing FILE), or the encoders too."
        )
    carried_teacher = current.reranker if current else None
    changes: dict[str, Any] = {
        "routing": routing,
        "bm25": bm25 if bm25 is not None else bool(current and current.bm25),
        "reranker": ArtefactRef.of(reranker) if reranker is not None else carried_teacher,
    }
    return made.model_copy(update=changes)


def read_routing(path: str) -> Routing:
    """Routing from a YAML file; an empty file means none. InputError says what is wrong with it."""
    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"Routing {path}: {' '.join(str(error).split())}. Expected a YAML file.") from None
    if values is not None and not isinstance(values, dict):
        raise InputError(f"Routing {path} holds a {type(values).__name__}; expected rules, weights, shadows or guard.")
    return validated(Routing, values or {}, f"routing {path}")
