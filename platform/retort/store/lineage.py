"""How an artefact came to be: the tree of its inputs, with versions, licences and cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from retort.store.artefact import Artefact
from retort.store.manifest import InputRecord
from retort.store.store import Store


@dataclass(frozen=True)
class Ancestor:
    """One node: the record that its descendant keeps, the artefact where the store still has it, and its own inputs."""

    role: str
    record: InputRecord
    artefact: Artefact | None
    inputs: list[Ancestor] = field(default_factory=list)


def lineage(artefact: Artefact) -> Ancestor:
    """The whole tree above an artefact; inputs that the store no longer has are leaves without an artefact."""
    store = Store(artefact.store_area())

    def grow(role: str, record: InputRecord, found: Artefact | None) -> Ancestor:
        inputs = (
            [grow(item.role, item, store.find(item.kind, item.key)) for item in found.manifest.inputs] if found else []
        )
        return Ancestor(role, record, found, inputs)

    manifest = artefact.manifest
    own = InputRecord(role="", kind=manifest.kind, name=manifest.name, key=manifest.key, digest=manifest.digest)
    return grow("", own, artefact)


def licences(artefact: Artefact) -> list[str]:
    """Every licence on the way to this artefact, sorted."""
    found: set[str] = set()

    def visit(node: Ancestor) -> None:
        if node.artefact is not None:
            found.update(node.artefact.manifest.licences)
        for item in node.inputs:
            visit(item)

    visit(lineage(artefact))
    return sorted(found)


def inherited(inputs: Iterable[Artefact]) -> dict[str, Any]:
    """`licences` and `personal_data` for `Draft.publish`: all licences on the way here, the notes of all inputs joined."""
    artefacts = list(inputs)
    notes = {artefact.manifest.personal_data for artefact in artefacts}
    return {
        "licences": sorted({licence for artefact in artefacts for licence in licences(artefact)}),
        # "unknown" next to a definite note stays visible: unknown is not none.
        "personal_data": "; ".join(sorted(notes)) or "unknown",
    }
