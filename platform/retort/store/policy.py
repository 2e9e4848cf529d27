"""What a project allows in what it makes: licences and personal data, checked along the lineage before any work.

    enforce(policy, inputs)     PolicyError names the artefact that brings what is forbidden

Manifests carry `licences` and `personal_data`, and what is derived inherits both (lineage.py). The artefact to name is
therefore not the input at hand but the oldest one on the way to it that has the licence or the note: that one is to be
replaced. Nothing said counts as "unknown", and unknown is neither allowed nor free of personal data; `vouched_for` is
the way out where somebody knows better than the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from retort.errors import PolicyError
from retort.store.artefact import Artefact
from retort.store.lineage import Ancestor, lineage

__all__ = ["Policy", "enforce"]

UNKNOWN = "unknown"
NO_PERSONAL_DATA = "none"
NAMED = 3  # faults told in one message


class Policy(BaseModel):
    """What may go into an artefact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allowed_licences: tuple[str, ...] | None = Field(
        None,
        description="Licences that teacher and data may have, compared without case; an unknown one is refused. Default: any.",
    )
    no_personal_data: bool = Field(
        False, description="Whether every input's note on personal data must be 'none'; an unknown one is refused."
    )
    vouched_for: tuple[str, ...] = Field(
        (),
        description="Artefacts (kind/name) whose unknown licence or note you answer for; what a manifest does say still counts.",
    )


@dataclass(frozen=True)
class _Node:
    """One artefact of the lineage: what its manifest says, and what its own inputs say already."""

    label: str  # kind/name
    role: str
    key: str
    licences: frozenset[str]
    notes: frozenset[str]
    from_inputs: frozenset[str]  # licences
    notes_from_inputs: frozenset[str]


def enforce(policy: Policy, inputs: Mapping[str, Artefact]) -> None:
    """Check the whole lineage of each input (role -> artefact).

    Raises:
        PolicyError: an artefact brings a licence or a note that the policy forbids.
    """
    if policy.allowed_licences is None and not policy.no_personal_data:
        return
    faults: dict[str, None] = {}
    looked_at: set[str] = set()  # a corpus is an ancestor many times over
    for role, artefact in inputs.items():
        for node in _nodes(lineage(artefact), role):
            if node.key not in looked_at:
                faults.update(dict.fromkeys(_faults(policy, node)))
            looked_at.add(node.key)
    if faults:
        told = list(faults)
        more = f" And {len(told) - NAMED} more." if len(told) > NAMED else ""
        raise PolicyError(
            f"The policy forbids this: {' '.join(told[:NAMED])}{more} Choose other inputs, state the licence or the note where the "
            "artefact is made, or change the policy."
        )


def _faults(policy: Policy, node: _Node) -> Iterator[str]:
    """Yield a sentence for each thing that this artefact itself brings and the policy forbids."""
    where = f"{node.label} ({node.key[:12]}, {node.role})"
    trusted = node.label in policy.vouched_for
    if policy.allowed_licences is not None:
        allowed = {licence.casefold() for licence in policy.allowed_licences}
        for licence in sorted(node.licences - node.from_inputs):
            if licence.casefold() in allowed or (trusted and licence.casefold() == UNKNOWN):
                continue
            expected = f"allowed are {_listed(policy.allowed_licences)}"
            if licence.casefold() == UNKNOWN:
                yield f"{where} has no known licence; {expected}."
            else:
                yield f"{where} brings the licence {licence!r}; {expected}."
    if policy.no_personal_data:
        for note in sorted(node.notes - node.notes_from_inputs):
            if note.casefold() == NO_PERSONAL_DATA or (trusted and note.casefold() == UNKNOWN):
                continue
            if note.casefold() == UNKNOWN:
                yield f"{where} does not say whether it holds personal data; no_personal_data asks for the note 'none'."
            else:
                yield f"{where} holds personal data ({note}); no_personal_data is set."


def _nodes(node: Ancestor, role: str) -> Iterator[_Node]:
    """Yield the artefacts of a tree; one that the store no longer has is told by what was made from it."""
    if node.artefact is None:
        return
    children = [child for child in node.inputs if child.artefact is not None]
    yield _Node(
        label=f"{node.record.kind}/{node.record.name}",
        role=role,
        key=node.record.key,
        licences=_licences(node),
        notes=_notes(node),
        from_inputs=frozenset[str]().union(*(_licences(child) for child in children)),
        notes_from_inputs=frozenset[str]().union(*(_notes(child) for child in children)),
    )
    for child in children:
        yield from _nodes(child, f"{role}: {child.role}")


def _licences(node: Ancestor) -> frozenset[str]:
    """Return what a manifest says; an artefact that says nothing and is made from nothing that is here is unknown."""
    assert node.artefact is not None
    said = frozenset(node.artefact.manifest.licences)
    inputs_here = any(child.artefact is not None for child in node.inputs)
    return said if said or inputs_here else frozenset({UNKNOWN})


def _notes(node: Ancestor) -> frozenset[str]:
    """Return the notes of a manifest; `inherited` joins those of several inputs with semicolons."""
    assert node.artefact is not None
    said = frozenset(part.strip() for part in node.artefact.manifest.personal_data.split(";") if part.strip())
    return said or frozenset({UNKNOWN})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none at all"
