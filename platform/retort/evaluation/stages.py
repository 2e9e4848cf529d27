"""Teacher re-ranking on Ray Data: a pool of actors, each with a teacher, each scoring whole parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retort.evaluation.rerank import RerankWorker
from retort.progress import Progress
from retort.resources import Resources
from retort.runtime.stages import map_parts


def rerank_parts(
    settings: Mapping[str, Any], sizes: Mapping[str, float], resources: Resources, progress: Progress
) -> None:
    """Score the parts named by `sizes` (pairs per part); `settings` are the arguments of `RerankWorker`."""
    map_parts(
        RerankWorker, settings, list(sizes), resources, describe="teacher re-ranking", progress=progress, weights=sizes
    )
