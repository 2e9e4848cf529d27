"""Which of a teacher's layers to take word maps from: the one that tells relevant passages best from others.

What a layer attends to between query and passage says little by itself: some layers match words, some look at the ends of
sentences whatever the texts say. A layer is worth learning from where its rows are sharp for a relevant passage and even for any other.
So each layer's rows are compared with even ones (KL divergence, nats, mean over the query's words), for pairs of a query and its first candidate, and for
the same queries with each other's passages; the layer with the largest difference is taken. Layers behind the last one on which the judgement
depends are not asked. (Ours: MD2PR speaks of the teacher's attention and not, as far as we could read it, of which.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import entropy

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.errors import IncompatibleError
from retort.models.cross_encoder import CrossEncoder
from retort.models.word_maps import WordMap
from retort.store import Artefact, Draft
from retort.teaching.quarantine import isolate
from retort.teaching.scorer import QueryTexts, read_texts

__all__ = ["LayerChoice", "choose_layers", "layers_for", "sample_pairs", "sharpness"]

LAYERS_FILE = "word_layers.json"  # of a judgements artefact: a LayerChoice
SAMPLE = 32  # queries: the difference is an average over all their words
WHOLE = 255  # passage words of a query word's row

Pairs = list[tuple[str, str]]


class LayerChoice(BaseModel):
    """The layers taken, and what was measured of each: mean nats of related and of unrelated pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[int, ...]
    related: tuple[float, ...] = ()
    unrelated: tuple[float, ...] = ()


def choose_layers(teacher: CrossEncoder, related: Pairs, unrelated: Pairs, heads: Sequence[int] = ()) -> LayerChoice:
    """The layer whose maps differ most between related and unrelated pairs; without pairs the last that is read."""
    last = teacher.last_layer_read
    if not related or last == 0:
        return LayerChoice(layers=(last,))

    def nats(pairs: Pairs, layer: int) -> float:
        def maps(some: Sequence[tuple[str, str]]) -> list[WordMap]:
            return teacher.judge(some, k=WHOLE, layers=[layer], heads=list(heads) or None).word_maps or []

        found, _ = isolate(maps, pairs)  # a text that cannot be read is told of where all are judged
        return round(float(np.mean([sharpness(one) for one in found if one is not None] or [0.0])), 4)

    ours, others = (tuple(nats(pairs, layer) for layer in range(last + 1)) for pairs in (related, unrelated))
    # Of equal ones the last: it has seen most of the pair.
    best = max(range(last + 1), key=lambda layer: (ours[layer] - others[layer], layer))
    return LayerChoice(layers=(best,), related=ours, unrelated=others)


def layers_for(
    teacher: CrossEncoder,
    draft: Draft,
    earlier: Sequence[Artefact],
    candidates: Artefact,
    queries: QuerySet,
    passages: Passages,
    heads: Sequence[int] = (),
) -> tuple[int, ...]:
    """The layers of a judgements draft: those its parts have already, those of the judgements it reuses, or chosen now; written down in it.

    Raises:
        IncompatibleError: judgements to reuse are of different layers.
    """
    if draft.has(LAYERS_FILE):
        return LayerChoice.model_validate(draft.read_json(LAYERS_FILE)).layers
    known = [LayerChoice.model_validate(one.json(LAYERS_FILE)) for one in earlier]
    if any(one.layers != known[0].layers for one in known):
        raise IncompatibleError(
            f"The judgements of `reuse` have word maps of different layers ({', '.join(str(list(one.layers)) for one in known)}). "
            "Leave some of them out, or name `layers`."
        )
    choice = known[0] if known else choose_layers(teacher, *sample_pairs(candidates, queries, passages), heads)
    draft.write_json(LAYERS_FILE, choice.model_dump(mode="json"))
    return choice.layers


def sharpness(word_map: WordMap) -> float:
    """KL(row || even row) of a query word over the passage's words, mean over the words that have a row; nats."""
    forward, _ = word_map.dense()  # [q, p]
    rows = forward[forward.sum(axis=1) > 0]
    return math.log(rows.shape[1]) - float(entropy(rows, axis=1).mean()) if len(rows) else 0.0


def sample_pairs(candidates: Artefact, queries: QuerySet, passages: Passages) -> tuple[Pairs, Pairs]:
    """Some queries of the first part with their first candidate (a labelled passage, where there is one), and with the next query's."""
    first: dict[str, str] = {}
    for part in candidates.parts()[:1]:
        table = candidates.part(part, columns=["query_id", "passage_id"])
        for query, passage in zip(*(column.to_pylist() for column in table.columns), strict=True):
            first.setdefault(query, passage)
    asked = list(first)[:: max(1, len(first) // SAMPLE)][:SAMPLE]
    texts, _ = read_texts(QueryTexts(queries), asked)
    answers, _ = read_texts(passages, sorted({first[query] for query in asked}))
    asked = [query for query in asked if query in texts and first[query] in answers]
    others = [*asked[1:], *asked[:1]]
    if len(asked) < 2:
        return [], []
    return (
        [(texts[query], answers[first[query]]) for query in asked],
        [(texts[query], answers[first[other]]) for query, other in zip(asked, others, strict=True)],
    )
