"""What an audit decides for the steps after it: may this teacher teach, and how far is each of its judgements to be believed.

    require_passed(audit, digest, name)    InputError unless the audit looked at this teacher and it passed
    reliability_of(audit, digest, name)    what trust.py needs to weight its judgements
    TrustedTeacher                         the trust of pairs while they are scored

Written by `audit.py`; read by `score.py`, and by `distillation/`, which gives the digest of the teacher behind its judgements.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.errors import InputError
from retort.models.judgements import Judgements
from retort.store import Artefact
from retort.teaching.pair_facts import PassageRecords, read_facts
from retort.teaching.trust import Reliability, agreement

__all__ = ["AUDIT", "TrustedTeacher", "audit_entry", "reliability_of", "require_passed"]

AUDIT = "audit.json"


def audit_entry(audit: Artefact, digest: str, name: str) -> dict[str, Any]:
    """Return what an audit says about the teacher with this digest.

    Raises:
        InputError: the report is no audit, or it is about other teachers.
    """
    if AUDIT not in audit.files():
        raise InputError(
            f"{audit} is a report of the step {audit.manifest.step!r} and no audit of a teacher. Name what `retort audit` made."
        )
    teachers: list[dict[str, Any]] = audit.json(AUDIT)["teachers"]
    for entry in teachers:
        if entry["digest"] == digest:
            return entry
    named = ", ".join(f"{entry['name']} ({entry['digest'][:12]})" for entry in teachers)
    raise InputError(
        f"{audit} is about {named}, and not about teacher {name} ({digest[:12]}). Audit this teacher with `retort audit`, or name one of those."
    )


def require_passed(audit: Artefact, digest: str, name: str) -> None:
    """Let a teacher teach only if it passed.

    Raises:
        InputError: it failed the audit, with what failed; or as `audit_entry`.
    """
    verdict = audit_entry(audit, digest, name)["verdict"]
    if not verdict["passed"]:
        raise InputError(
            f"Teacher {name} ({digest[:12]}) may not teach: it failed its audit {audit}. {verdict['why']} "
            f"Look at {audit.area.full('audit.html')}; train it longer or on more labels, choose another teacher, or audit it again with "
            "other thresholds."
        )


def reliability_of(audit: Artefact, digest: str, name: str) -> Reliability:
    """Return the measured reliability of a teacher; errors as `audit_entry`."""
    return Reliability.model_validate(audit_entry(audit, digest, name)["reliability"])


class TrustedTeacher:
    """The trust of a teacher's judgements: its reliability on their slices, times its agreement with other teachers."""

    def __init__(
        self,
        reliability: Reliability,
        languages: Mapping[str, str],
        passages: PassageRecords,
        others: Sequence[Judgements] = (),
    ) -> None:
        """Take the languages of the queries ("" where unknown), the corpus, and what other teachers said of the same candidates."""
        self._reliability = reliability
        self._languages, self._passages = languages, passages
        self._others = list(others)

    def weights(self, pairs: Sequence[tuple[str, str]], scores: Sequence[float]) -> NDArray[np.float64]:
        """Return [n] in [0, 1] for (query id, passage id) pairs; all pairs of a query must be there at once."""
        trust = self._reliability.trust(read_facts(pairs, self._languages, self._passages))
        if not self._others:
            return trust
        numbers: dict[str, int] = {}
        query = np.array([numbers.setdefault(name, len(numbers)) for name, _ in pairs], dtype=np.int64)
        rows: dict[str, list[int]] = defaultdict(list)
        for row, (name, _) in enumerate(pairs):
            rows[name].append(row)
        theirs = [_scores_of(other, pairs, rows) for other in self._others]
        return trust * agreement(np.array(scores, dtype=np.float64), theirs, query)


def _scores_of(
    judgements: Judgements, pairs: Sequence[tuple[str, str]], rows: Mapping[str, Sequence[int]]
) -> NDArray[np.float64]:
    """Return another teacher's scores of these pairs, [n]; NaN where it did not judge one."""
    found = np.full(len(pairs), np.nan)
    for name, own in rows.items():
        if name in judgements:
            group = judgements.group(name)
            said = dict(zip(group.passage_ids, group.scores.tolist(), strict=True))
            found[list(own)] = [said.get(pairs[row][1], np.nan) for row in own]
    return found
