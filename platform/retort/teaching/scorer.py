"""Judging one part of the candidates: a plain class, run by `stages.py` in every Ray Data actor and by tests without Ray.

    candidates part -> distinct pairs -> texts -> (scores judged before) -> teacher -> judgements part of the same name

PairScorer does the middle of that, for the audit too; PartScorer reads and writes round it. Pairs are sorted by length
across the whole part before they are cut into batches, so that little of a batch is padding.
The quarantine file is written before the part: a part that is there is complete, with everything that belongs to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.models.cross_encoder import Judge as Teacher
from retort.models.word_maps import WordMap
from retort.store import Artefact, Draft
from retort.store.schemas import JUDGEMENT
from retort.teaching.checks import KnownQueries
from retort.teaching.quarantine import QUARANTINE, isolate, quarantine_name
from retort.teaching.reuse import pair_hash

__all__ = ["Judge", "PairScorer", "PartScorer", "QueryTexts", "TeacherJudge", "TextSource", "Verdict", "read_texts"]

log = logging.getLogger(__name__)

PAIRS_AT_ONCE = 1024  # pairs given to the teacher in one call: bounds what a poisoned row makes it do again


@dataclass(frozen=True)
class Verdict:
    """What the teacher says about one pair."""

    score: float  # raw logit
    window: int  # which window of a long passage it is about
    word_map: bytes | None


class Judge(Protocol):
    """Reads pairs; raises for the whole call when one of them cannot be read."""

    @property
    def by_query(self) -> bool:
        """Whether a query's pairs are wanted together, rather than pairs of like length."""

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return one verdict per pair, in order."""


class TextSource(Protocol):
    """Texts by id; raises for the whole call when one of them cannot be read."""

    def texts(self, ids: Sequence[str]) -> list[str]:
        """Return one text per id, in order."""


class Earlier(Protocol):
    """Judgements made before, as `reuse.ReuseIndex` has them."""

    def find(self, hashes: list[str]) -> Mapping[int, Mapping[str, Any]]:
        """Return score, window and word_map for the positions of `hashes` that were judged before."""


class TrustSource(Protocol):
    """How far to believe a teacher, as `trusted.TrustedTeacher` knows it."""

    def weights(self, pairs: Sequence[tuple[str, str]], scores: Sequence[float]) -> NDArray[np.float64]:
        """Return [n] in [0, 1] for (query id, passage id) pairs, whole queries at a time."""


class PairScorer:
    """Gives verdicts about pairs of ids; poisoned ones come back with a reason."""

    def __init__(
        self, *, queries: TextSource, passages: TextSource, judge: Judge, reuse: Earlier | None = None
    ) -> None:
        """Take everything open already; see `stages.py` for how an actor opens it."""
        self._queries, self._passages = queries, passages
        self._judge = judge
        self._reuse = reuse

    def verdicts(self, ids: list[tuple[str, str]]) -> tuple[list[Verdict | None], list[str], dict[int, str], int]:
        """Return verdict and content hash of each pair, the reason for each poisoned one, and how many were reused."""
        texts, reasons = self._texts(ids)
        clean = [i for i in range(len(ids)) if i not in reasons]
        hashes = [""] * len(ids)
        for i in clean:
            hashes[i] = pair_hash(*texts[i])
        verdicts: list[Verdict | None] = [None] * len(ids)
        before = self._reuse.find([hashes[i] for i in clean]) if self._reuse is not None else {}
        for position, row in before.items():
            verdicts[clean[position]] = Verdict(row["score"], row["window"], row["word_map"])

        by_query = self._judge.by_query
        # Longest first: a device that is too small says so at once. Characters order well enough for the calls; the
        # teacher sorts by tokens inside a call.
        pending = sorted(
            (i for position, i in enumerate(clean) if position not in before),
            key=lambda i: (ids[i][0] if by_query else "", -len(texts[i][0]) - len(texts[i][1]), i),
        )
        for start in range(0, len(pending), PAIRS_AT_ONCE):
            chunk = pending[start : start + PAIRS_AT_ONCE]
            found, poisoned = isolate(self._judge.judge, [texts[i] for i in chunk])
            for position, i in enumerate(chunk):
                verdict = found[position]
                if position in poisoned:
                    reasons[i] = poisoned[position]
                elif verdict is not None and not np.isfinite(verdict.score):
                    reasons[i] = f"the teacher's logit is {verdict.score}"
                else:
                    verdicts[i] = verdict
        return verdicts, hashes, reasons, len(before)

    def _texts(self, ids: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], dict[int, str]]:
        """Return both texts of each pair; a text that cannot be read or encoded poisons every pair it is in."""
        queries, bad_queries = read_texts(self._queries, sorted({query for query, _ in ids}))
        passages, bad_passages = read_texts(self._passages, sorted({passage for _, passage in ids}))
        reasons = {}
        for i, (query, passage) in enumerate(ids):
            if query in bad_queries:
                reasons[i] = f"query: {bad_queries[query]}"
            elif passage in bad_passages:
                reasons[i] = f"passage: {bad_passages[passage]}"
        return [(queries.get(query, ""), passages.get(passage, "")) for query, passage in ids], reasons


class PartScorer:
    """Judges parts of a candidates artefact and writes them through the draft."""

    def __init__(
        self,
        *,
        draft: Draft,
        candidates: Artefact,
        queries: TextSource,
        passages: TextSource,
        judge: Judge,
        reuse: Earlier | None = None,
        trust: TrustSource | None = None,
    ) -> None:
        """Take everything open already; without `trust` every judgement is trusted fully."""
        self._draft = draft
        self._candidates = candidates
        self._pairs = PairScorer(queries=queries, passages=passages, judge=judge, reuse=reuse)
        self._trust = trust

    def __call__(self, part: str) -> dict[str, Any]:
        """Judge one part; return {pairs, quarantined, reused, seconds}."""
        began = time.monotonic()
        ids = distinct_pairs(self._candidates.part(part, columns=["query_id", "passage_id"]))
        verdicts, hashes, reasons, reused = self._pairs.verdicts(ids)
        kept = [i for i in range(len(ids)) if i not in reasons]
        if reasons:
            rows = [{"query_id": ids[i][0], "passage_id": ids[i][1], "reason": reasons[i]} for i in sorted(reasons)]
            self._draft.write_table(quarantine_name(part), pa.Table.from_pylist(rows, schema=QUARANTINE))
        else:  # a run that was killed before its part may have left one, of pairs that this run could read
            self._draft.area.delete(quarantine_name(part))
        trust = self._trusted(ids, verdicts, kept)
        self._draft.write_table(part, _table(ids, verdicts, hashes, kept, trust))
        seconds = time.monotonic() - began
        log.info(
            "%s: %d pairs judged, %d reused, %d quarantined in %.1f s", part, len(kept), reused, len(reasons), seconds
        )
        return {"pairs": len(kept), "quarantined": len(reasons), "reused": reused, "seconds": seconds}

    def _trusted(
        self, ids: Sequence[tuple[str, str]], verdicts: Sequence[Verdict | None], kept: Sequence[int]
    ) -> NDArray[np.float64]:
        """Return the trust of each pair that is kept."""
        if self._trust is None or not kept:
            return np.ones(len(kept))  # full trust until the teacher is audited
        rows = [(ids[i], verdict.score) for i in kept if (verdict := verdicts[i]) is not None]
        return self._trust.weights([pair for pair, _ in rows], [score for _, score in rows])


def distinct_pairs(table: pa.Table) -> list[tuple[str, str]]:
    """Return (query_id, passage_id) in order, each pair once however many sources named it."""
    return list(
        dict.fromkeys(zip(table.column("query_id").to_pylist(), table.column("passage_id").to_pylist(), strict=True))
    )


def read_texts(source: TextSource, ids: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return texts by id, and the reason for each id whose text cannot be read or encoded."""

    def read(some: Sequence[str]) -> list[str]:
        texts = source.texts(some)
        for text in texts:
            text.encode()  # a lone surrogate fails here, by name, and not deep in a tokenizer
        return texts

    texts, reasons = isolate(read, ids)
    found = {id_: text for id_, text in zip(ids, texts, strict=True) if text is not None}
    return found, {ids[position]: reason for position, reason in reasons.items()}


def _table(
    ids: list[tuple[str, str]],
    verdicts: list[Verdict | None],
    hashes: list[str],
    kept: list[int],
    trust: NDArray[np.float64],
) -> pa.Table:
    """Return the judgements part, rows in the order of the candidates."""
    rows = [verdict for i in kept if (verdict := verdicts[i]) is not None]
    assert len(rows) == len(kept), "every pair that is not quarantined has a verdict"
    columns = [
        pa.array([ids[i][0] for i in kept], pa.string()),
        pa.array([ids[i][1] for i in kept], pa.string()),
        pa.array([hashes[i] for i in kept], pa.string()),
        pa.array([row.score for row in rows], pa.float32()),
        pa.array([row.window for row in rows], pa.int16()),
        pa.array(trust, pa.float32()),
        pa.array([row.word_map for row in rows], pa.binary()),
    ]
    return pa.Table.from_arrays(columns, schema=JUDGEMENT)


class TeacherJudge:
    """A cross-encoder as a `Judge`, with or without the word level."""

    def __init__(
        self,
        teacher: Teacher,
        *,
        word_level: bool,
        top_k: int,
        layers: Sequence[int],
        heads: Sequence[int],
        token_budget: int | None,
    ) -> None:
        """Take the teacher and how its word maps are made; no `layers`: the last one that is read; no `heads`: all of them; no budget: the device's own."""
        self._teacher = teacher
        self._word_level = word_level
        self._top_k, self._layers, self._heads = top_k, tuple(layers) or None, list(heads) or None
        self._token_budget = token_budget

    @property
    def by_query(self) -> bool:
        """Pairs of like length make batches with little padding."""
        return False

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return one verdict per pair, in order, from one forward pass."""
        found = self._teacher.judge(
            pairs, self._top_k, self._layers, self._heads, word_level=self._word_level, token_budget=self._token_budget
        )
        maps: Sequence[WordMap | None] = found.word_maps or [None] * len(pairs)
        return [
            Verdict(float(score), int(window), word_map.to_bytes() if word_map is not None else None)
            for score, window, word_map in zip(found.scores, found.windows, maps, strict=True)
        ]


class QueryTexts:
    """A query set as a `TextSource`."""

    def __init__(self, queries: KnownQueries) -> None:
        self._texts = dict(zip(queries.ids, queries.texts, strict=True))

    def texts(self, ids: Sequence[str]) -> list[str]:
        """Return one text per id, in order."""
        return [self._texts[id_] for id_ in ids]
