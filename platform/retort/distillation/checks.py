"""Whether what is given belongs together: judgements, candidates, vectors of these texts, and texts cut alike on both sides."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from retort.distillation.training_set import TrainingSet
from retort.errors import IncompatibleError, InputError
from retort.models.dual_encoder import DualEncoder
from retort.models.judgements import Judgements
from retort.models.word_maps import WordMap
from retort.store import Artefact

__all__ = ["check_bound", "check_cut_alike", "words_seen_share"]

BOUND = {
    "queries": {"corpus": "corpus"},
    "judgements": {"corpus": "corpus", "queries": "queries"},
    "dev_queries": {"corpus": "corpus"},
    "dev_candidates": {"corpus": "corpus", "queries": "dev_queries"},
    "embeddings": {"corpus": "corpus"},
}
"""Role -> role among its own inputs -> our role that must be the same artefact."""
MAPS_READ = 1000


def check_bound(inputs: Mapping[str, Artefact]) -> None:
    """Refuse judgements, candidates or vectors of other texts; IncompatibleError names both."""
    for role, bonds in BOUND.items():
        if role not in inputs:
            continue
        theirs = {record.role: record for record in inputs[role].manifest.inputs}
        for their_role, our_role in bonds.items():
            record, ours = theirs.get(their_role), inputs[our_role]
            if record is not None and record.digest != ours.digest:
                raise IncompatibleError(
                    f"{inputs[role]} is about {their_role} {record.name} ({record.digest[:12]}), this run has {ours.name} ({ours.digest[:12]}). "
                    f"Name the {their_role} that it was made for, or make it again for these."
                )


def check_cut_alike(base: DualEncoder, start: DualEncoder) -> None:
    """Refuse a start that cuts texts otherwise than the base: training, dev pool and comparison read one cut of them.

    Raises:
        InputError: other tokens, or other prefixes.
    """
    if dict(base.prefixes) != dict(start.prefixes):
        what = f"the start lays {dict(start.prefixes)} before texts, the base {dict(base.prefixes)}"
    elif base.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        what = f"the start has a vocabulary of {len(start.tokenizer)} tokens, the base another of {len(base.tokenizer)}"
    else:
        return
    raise InputError(
        f"Start and base cut texts differently: {what}. Name as base the encoder that the start was made from, or leave start out."
    )


def words_seen_share(data: TrainingSet, judgements: Judgements, max_passage_tokens: int) -> float | None:
    """Of the passage words in the teacher's maps, the share that the student reads too; None without maps.

    Measured on some thousand maps. Words that one side does not see teach nothing: `word_targets.py` leaves them out.

    Raises:
        InputError: not one word is seen by both.
    """
    pairs = np.flatnonzero(data.places >= 0)
    if not len(pairs):
        return None
    pairs = np.random.default_rng(0).permutation(pairs)[:MAPS_READ]
    query_rows = np.searchsorted(data.judged.offsets, pairs, side="right") - 1
    given = both = 0
    for pair, row in zip(pairs.tolist(), query_rows.tolist(), strict=True):
        blob = judgements[int(data.groups[row])].word_maps[int(data.places[pair])]
        one = WordMap.from_bytes(blob or b"")
        end = int(data.passages.words_of(int(data.judged.values[pair]))[:, 1].max(initial=0))
        given += one.stop - one.first
        both += max(0, min(one.stop, end) - one.first)
    if given and not both:
        raise InputError(
            f"The teacher's word maps and the student share no passage word: the maps are of later parts of the passages than the first "
            f"{max_passage_tokens} tokens that the student reads. Raise max_passage_tokens, cut passages shorter when ingesting, or set word_weight to 0."
        )
    return both / given if given else None
