"""The artefacts that a tuning run reads, found by their references and checked to belong together."""

from __future__ import annotations

from collections.abc import Mapping

from retort.errors import IncompatibleError, InputError, NotFoundError
from retort.indexing.vectors import facts
from retort.models.dual_encoder import passage_space
from retort.models.imports import encoder_artefact
from retort.store import Artefact, Store
from retort.tuning.config import TuneConfig

__all__ = ["find_inputs", "guard_sets"]


def find_inputs(config: TuneConfig, store: Store) -> dict[str, Artefact]:
    """The artefacts by role; the n-th guard set has the roles guard_queries.n, guard_embeddings.n and guard_corpus.n.

    Raises:
        NotFoundError: one is not in the store.
        InputError: an index, or embeddings that do not say what they are.
        IncompatibleError: vectors of another passage space than the encoder's, or queries about another corpus.
    """
    inputs: dict[str, Artefact] = {}
    for role, (reference, kind) in config.named().items():
        if kind == "encoder":
            inputs[role] = encoder_artefact(reference, store)
        else:
            inputs[role] = _embeddings(reference, store, role) if kind == "embeddings" else store.get(reference, kind)
    inputs.setdefault("encoder", inputs["embeddings"].input("encoder"))
    # The guard reads languages and levels from the corpora, of which the embeddings' digests say nothing.
    inputs |= {
        role.replace("embeddings", "corpus"): artefact.input("corpus")
        for role, artefact in inputs.items()
        if artefact.kind == "embeddings"
    }
    _check_spaces(inputs)
    for role, queries in inputs.items():
        if queries.kind == "queries":
            _check_corpus(role, queries, _searched(inputs, role))
    _check_judgements(inputs)
    return inputs


def guard_sets(
    inputs: Mapping[str, Artefact],
) -> tuple[list[tuple[Artefact, Artefact]], tuple[Artefact, Artefact] | None]:
    """(queries, embeddings) of each guard set; and of the tuned task, where there are dev queries."""
    roles = [role for role in inputs if role.startswith("guard_queries.")]
    sets = [(inputs[role], _searched(inputs, role)) for role in roles]
    dev = inputs.get("dev_queries")
    return sets, (dev, inputs["embeddings"]) if dev is not None else None


def _searched(inputs: Mapping[str, Artefact], role: str) -> Artefact:
    """The embeddings that these queries search."""
    number = role.rsplit(".", 1)[-1] if role.startswith("guard_queries.") else ""
    return inputs.get(f"guard_embeddings.{number}", inputs["embeddings"])


def _embeddings(reference: str, store: Store, role: str) -> Artefact:
    """Embeddings, and for an index the answer which ones it was built from."""
    try:
        return store.get(reference, "embeddings")
    except (NotFoundError, InputError):
        try:
            index = store.get(reference, "index")
            behind = index.input("embeddings").name
        except InputError:  # neither the one nor the other: the first error says so
            index = None
        if index is None:
            raise
        raise InputError(
            f"{role}: {index} is an index, which holds no vectors to tune against in readable form. Name the embeddings that it was "
            f"built from: {behind}."
        ) from None


def _check_spaces(inputs: Mapping[str, Artefact]) -> None:
    encoder = inputs["encoder"]
    ours = encoder.metrics.get("passage_space") or passage_space(encoder.local())
    for role, artefact in inputs.items():
        if artefact.kind == "embeddings" and (theirs := facts(artefact).passage_space) != ours:
            raise IncompatibleError(
                f"{role}: {artefact} is in passage space {theirs[:12]}, and {encoder} scores in {str(ours)[:12]}. Name the encoder that "
                "made these vectors (or leave `encoder` out), or embed the corpus with this one."
            )


def _check_corpus(role: str, queries: Artefact, embeddings: Artefact) -> None:
    found, ours = (
        next((record for record in artefact.manifest.inputs if record.role == "corpus"), None)
        for artefact in (queries, embeddings)
    )
    if found is not None and ours is not None and found.digest != ours.digest:
        raise IncompatibleError(
            f"{role}: {queries} is about corpus {found.name} ({found.digest[:12]}), {embeddings} holds the vectors of {ours.name} "
            f"({ours.digest[:12]}). Name queries and vectors of one corpus."
        )


def _check_judgements(inputs: Mapping[str, Artefact]) -> None:
    judgements = inputs.get("judgements")
    if judgements is None:
        return
    corpus = inputs["embeddings"].input("corpus")
    for role, ours in (("corpus", corpus.digest), ("queries", inputs["queries"].digest)):
        record = next((one for one in judgements.manifest.inputs if one.role == role), None)
        if record is not None and record.digest != ours:
            raise IncompatibleError(
                f"{judgements} is about {role} {record.name} ({record.digest[:12]}), this run has {ours[:12]}. Name the {role} that "
                "were judged, or score candidates of these."
            )
