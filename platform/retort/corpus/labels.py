"""The user's queries and qrels: read, checked, and divided into train, dev and test.

    read_labels(source)    queries and qrels of their own files; duplicate and unknown query ids are refused
    divide(labels, ...)    who is in which split, and what is held out where a split is missing

Test qrels are for the table only: a query that test names anywhere is in test and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from retort.corpus.readers.rows import SPLITS, QrelRow, QueryRow, Source
from retort.errors import InputError

Item = TypeVar("Item")
_FIRST_NAMED = 5


@dataclass
class Labels:
    """Queries by id, in the order of the files, and the judgements of each."""

    queries: dict[str, QueryRow] = field(default_factory=dict)
    qrels: dict[str, list[QrelRow]] = field(default_factory=dict)

    def add_query(self, query: QueryRow) -> None:
        """InputError if there is a query with this id already."""
        first = self.queries.setdefault(query.query_id, query)
        if first is not query:
            raise InputError(
                f"Query id {query.query_id!r} is there twice: at {first.place} and at {query.place}. Give each query an id of its own."
            )

    def add_qrel(self, qrel: QrelRow) -> None:
        """The same pair twice is fine unless the grades differ."""
        rows = self.qrels.setdefault(qrel.query_id, [])
        for other in rows:
            if other.document_id == qrel.document_id and other.split == qrel.split:
                if other.grade != qrel.grade:
                    raise InputError(
                        f"Query {qrel.query_id!r} and passage {qrel.document_id!r} have grade {other.grade} at {other.place} and {qrel.grade} at {qrel.place}. Keep one."
                    )
                return
        rows.append(qrel)

    def document_ids(self) -> set[str]:
        """Ids of all judged documents."""
        return {row.document_id for rows in self.qrels.values() for row in rows}


@dataclass
class Split:
    """The queries of one split; `qrels` are by the user's document ids; `held_out` says that it was cut off from train."""

    queries: list[QueryRow] = field(default_factory=list)
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    held_out: bool = False

    @property
    def labelled(self) -> int:
        """How many queries have a relevant document."""
        return len(self.qrels)

    def add(self, query: QueryRow, grades: Mapping[str, int]) -> None:
        """`grades` are kept if one of them is above 0; else the query counts as unlabelled."""
        self.queries.append(query)
        if any(grade > 0 for grade in grades.values()):
            self.qrels[query.query_id] = dict(grades)


def read_labels(source: Source, *, drop_unknown: bool = False) -> Labels:
    """The queries and qrels in files of their own. InputError for an id given twice, and for qrels of a query that is not there."""
    labels = Labels()
    for query in source.queries():
        labels.add_query(query)
    unknown: list[QrelRow] = []
    for qrel in source.qrels():
        if qrel.query_id in labels.queries:
            labels.add_qrel(qrel)
        else:
            unknown.append(qrel)
    if unknown and not drop_unknown:
        raise unknown_ids("query", [(row.query_id, row) for row in unknown], len(labels.queries))
    return labels


def check_documents(labels: Labels, known: set[str], empty: set[str], *, drop_unknown: bool) -> int:
    """Drop the judgements of passages without text (and, where allowed, of unknown ones); returns how many. InputError names unknown ids."""
    missing = [row for rows in labels.qrels.values() for row in rows if row.document_id not in known]
    unknown = [(row.document_id, row) for row in missing if row.document_id not in empty]
    if unknown and not drop_unknown:
        raise unknown_ids("passage", unknown, len(known))
    if missing:
        for query_id, rows in labels.qrels.items():
            labels.qrels[query_id] = [row for row in rows if row.document_id in known]
    return len(missing)


def unknown_ids(what: str, rows: Sequence[tuple[str, QrelRow]], there: int) -> InputError:
    """The error for qrels that name ids which are not there: the first few, where, and how many."""
    names = list(dict.fromkeys(name for name, _ in rows))
    shown = ", ".join(repr(name) for name in names[:_FIRST_NAMED])
    more = f" and {len(names) - _FIRST_NAMED} more" if len(names) > _FIRST_NAMED else ""
    return InputError(
        f"The qrels name {len(names)} {what} ids that are not among the {there} {'queries' if what == 'query' else 'passages'}: {shown}{more} "
        f"(first at {rows[0][1].place}). Add them, or leave these judgements out with unknown_qrels: drop."
    )


@dataclass
class Division:
    """The user's queries by split. `unlabelled_dropped`: dev and test queries without a relevant document, useless for a table."""

    splits: dict[str, Split] = field(default_factory=lambda: {name: Split() for name in SPLITS})
    unlabelled_dropped: int = 0

    @property
    def missing(self) -> list[str]:
        """Splits without a labelled query."""
        return [name for name in SPLITS if not self.splits[name].labelled]


def has_training(labels: Labels) -> bool:
    """Whether there is a labelled query for train, or to be divided."""
    placed = (_place_query(labels, query) for query in labels.queries.values())
    return any(split == "train" and any(grade > 0 for grade in grades.values()) for split, grades in placed)


def _place_query(labels: Labels, query: QueryRow) -> tuple[str, dict[str, int]]:
    """(split, grades by document id) of one query."""
    rows = labels.qrels.get(query.query_id, [])
    named = {query.split, *(row.split for row in rows)}
    split = next((name for name in reversed(SPLITS) if name in named), "train")
    return split, {row.document_id: row.grade for row in rows if row.split in ("", split)}


def divide(labels: Labels, *, seed: int, held_out: float, groups: Mapping[str, str]) -> Division:
    """Put each query into one split: the one that its file, its row or its qrels name (test before dev before train), else train.

    Where train has labelled queries and dev or test has none, a share of `held_out` of train's is moved there: whole groups
    (queries whose first relevant document has the same `groups` entry, default its id), in the order of a hash.
    InputError if there are too few groups for that.
    """
    division = Division()
    for query in labels.queries.values():
        split, grades = _place_query(labels, query)
        if split != "train" and not any(grade > 0 for grade in grades.values()):
            division.unlabelled_dropped += 1
            continue
        division.splits[split].add(query, grades)
    train = division.splits["train"]
    missing = division.missing
    if train.labelled and missing:
        by_group: dict[str, list[QueryRow]] = {}
        for query in train.queries:
            if query.query_id in train.qrels:
                first = min(name for name, grade in train.qrels[query.query_id].items() if grade > 0)
                by_group.setdefault(groups.get(first, first), []).append(query)
        if len(by_group) <= len(missing):
            raise InputError(
                f"There are queries for only {len(by_group)} documents: too few to hold out {' and '.join(missing)} from them. Give more labelled "
                f"queries, or files for these splits (queries.{missing[0]}.jsonl and qrels.{missing[0]}.tsv)."
            )
        moved = hold_out(by_group, dict.fromkeys(missing, held_out), seed)
        for name, queries in moved.items():
            division.splits[name].held_out = True
            for query in queries:
                division.splits[name].add(query, train.qrels.pop(query.query_id))
        gone = {query.query_id for queries in moved.values() for query in queries}
        train.queries = [query for query in train.queries if query.query_id not in gone]
    return division


def hold_out(by_group: Mapping[str, Sequence[Item]], shares: Mapping[str, float], seed: int) -> dict[str, list[Item]]:
    """For each name, whole groups in the order of a hash, about its share of all items; at least one group each.

    A group that would go far over the share (a page that holds the whole manual) is passed over while there are smaller ones. At
    least one group is left.
    """
    order = sorted(by_group, key=lambda group: stable_hash(seed, group))
    total = sum(len(items) for items in by_group.values())
    taken: dict[str, list[Item]] = {}
    for place, (name, share) in enumerate(shares.items()):
        keep = len(shares) - place  # the rest, and each later name, need a group too
        chosen: list[Item] = []
        left: list[str] = []
        for number, group in enumerate(order):
            fits = len(chosen) + len(by_group[group]) <= max(1.0, 1.25 * share * total)
            if fits and len(chosen) < share * total and len(left) + len(order) - number > keep:
                chosen.extend(by_group[group])
            else:
                left.append(group)
        if not chosen:
            smallest = min(left, key=lambda group: len(by_group[group]))
            chosen.extend(by_group[smallest])
            left.remove(smallest)
        taken[name], order = chosen, left
    return taken


def stable_hash(seed: int, *parts: Hashable) -> int:
    """64 bits that are the same on every machine and in every run."""
    return int.from_bytes(
        hashlib.blake2b(repr((seed, *parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def origins(queries: Iterable[QueryRow]) -> dict[str, int]:
    """How many queries come from where (user, title, heading, sentence, docstring)."""
    counts: dict[str, int] = {}
    for query in queries:
        counts[query.origin] = counts.get(query.origin, 0) + 1
    return dict(sorted(counts.items()))
