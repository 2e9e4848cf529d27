"""From labelled queries and stored vectors to what the guard reads: `prepare_guard` writes a `GuardData` folder.

Which queries search what, per set and language:

    same      passages of the query's own language; relevant: the labelled ones in that language
    cross     passages of the pivot language; relevant: the labelled ones in it, else the translations of those labelled.
              A query of which a relevant passage has no translation is left out. None for the pivot language itself
    target    the tuned task: passages of the pivot language, measured and not guarded

At each level (a corpus field, broad to narrow) a query searches the passages of the category of its first relevant one.
Neighbours: `collection.py` knows the passages, `guard_layout.py` chooses candidates and lays out the files' arrays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retort.corpus.queries import QuerySet
from retort.errors import IncompatibleError, InputError, NotFoundError
from retort.models.dual_encoder import DualEncoder
from retort.store import Artefact
from retort.tuning.collection import Collection, language_tag, same_language
from retort.tuning.guard_data import Kind
from retort.tuning.guard_layout import PIVOT, Asked, AskedCell, lay_out
from retort.tuning.guard_settings import GuardSettings

__all__ = ["TARGET", "prepare_guard"]

TARGET = "target"
"""Name of the tuned task among the sets."""
_NAMED = 8

Set = tuple[Artefact, Artefact]
"""(queries with languages and qrels, embeddings of the corpus that the qrels speak of)."""


def prepare_guard(
    settings: GuardSettings,
    sets: Sequence[Set],
    target: Set | None,
    base: DualEncoder,
    folder: Path,
    seed: int,
) -> None:
    """Write everything that looks at these sets need below `folder`; `Guard.open` reads it.

    Raises:
        IncompatibleError: vectors of another passage space than the base's, or queries about another corpus.
        InputError: a set without a single query that has a relevant passage; a level or `parallel` that no corpus has.
    """
    made = _Making(settings, base)
    for queries, embeddings in sets:
        made.add(queries, embeddings, guarded=True)
    if target is not None:
        made.add(*target, guarded=False)
    lay_out(settings, made.asked, base.dimension, seed, folder).save(folder)


class _Making:
    """Collects the cells of all sets, then chooses the blocks and lays everything out."""

    def __init__(self, settings: GuardSettings, base: DualEncoder) -> None:
        self._settings, self._base = settings, base
        self._pivot = language_tag(settings.pivot)
        self._collections: dict[str, Collection] = {}
        self._names: list[str] = []
        self.asked = Asked()

    # Sets

    def add(self, queries: Artefact, embeddings: Artefact, *, guarded: bool) -> None:
        """Sort the queries of one set into cells."""
        collection = self._collection(embeddings)
        known = QuerySet.open(queries)
        name = self._name(queries) if guarded else TARGET
        numbers = self._take(known, collection, queries)
        languages = self._languages(known, collection, name)
        cells: dict[tuple[str, Kind], AskedCell] = {}
        for query_id, number in numbers.items():
            graded = _graded(known, collection, query_id, queries)
            language = languages[query_id]
            chosen: dict[Kind, tuple[str, list[tuple[int, int]]]]
            if guarded:
                chosen = self._guarded(collection, language, graded) if language else {}
            else:
                language = self._pivot
                chosen = {"target": (PIVOT, [pair for pair in graded if collection.in_pivot(pair[0])])}
            for kind, (block, relevant) in chosen.items():
                if relevant:
                    cell = cells.setdefault((language, kind), AskedCell(name, language, kind, collection, block))
                    cell.queries.append(number)
                    cell.relevant.append(relevant)
        if not cells:
            raise InputError(
                f"{queries} has no query that the {'guard' if guarded else 'tuned task'} could be measured on: {len(numbers)} are labelled, "
                f"none with a passage {'of its own language or ' if guarded else ''}of language {self._pivot!r} in {collection.corpus}. "
                "Give queries with qrels and languages, or set guard.pivot."
            )
        self.asked.cells += [cells[key] for key in sorted(cells)]
        if guarded:
            self._note_gaps(name, collection, numbers, languages, cells)

    def _guarded(
        self, collection: Collection, language: str, graded: list[tuple[int, int]]
    ) -> dict[Kind, tuple[str, list[tuple[int, int]]]]:
        """Block and relevant passages by kind, of one query."""
        direct = [pair for pair in graded if collection.in_pivot(pair[0])]
        if same_language(language, self._pivot):
            return {"same": (PIVOT, direct)}
        own = [pair for pair in graded if collection.language_at(pair[0]) == language]
        across: dict[int, int] = dict(direct)
        found = [(collection.parallels(row), grade) for row, grade in graded]
        if direct or all(rows for rows, _ in found):
            for rows, grade in found:
                for row in rows:
                    across[row] = max(grade, across.get(row, 0))
        return {"same": (language, own), "cross": (PIVOT, list(across.items()))}

    def _collection(self, embeddings: Artefact) -> Collection:
        known = self._collections.get(embeddings.digest)
        if known is not None:
            return known
        made = Collection(embeddings, self._pivot, self._settings.parallel)
        if made.vectors.facts.passage_space != self._base.passage_space:
            raise IncompatibleError(
                f"{embeddings} is in passage space {made.vectors.facts.passage_space[:12]}, the query encoder scores in "
                f"{self._base.passage_space[:12]}. Name embeddings made by the encoder that is tuned, or tune the one that made them."
            )
        return self._collections.setdefault(embeddings.digest, made)

    def _name(self, queries: Artefact) -> str:
        """The artefact's name, numbered if it is there already."""
        taken = sum(name == queries.name for name in self._names)
        self._names.append(queries.name)
        return f"{queries.name} #{taken + 1}" if taken else queries.name

    def _take(self, known: QuerySet, collection: Collection, queries: Artefact) -> dict[str, int]:
        """Register the labelled queries; their numbers by id."""
        labelled = known.labelled
        places = [known.positions[query_id] for query_id in labelled]
        tokens = self._base.tokenize([known.texts[place] for place in places], "query")
        numbers: dict[str, int] = {}
        for query_id, place, ids in zip(labelled, places, tokens, strict=True):
            cluster = self._cluster(known, collection, query_id, known.langs[place], queries)
            numbers[query_id] = self.asked.add_query(query_id, cluster, ids)
        return numbers

    def _cluster(self, known: QuerySet, collection: Collection, query_id: str, language: str, queries: Artefact) -> str:
        """The underlying query, whose translations move together: statistics must not count them as independent."""
        if self._settings.parallel != "id":
            own = known.field(query_id).get(self._settings.parallel)
            if own not in (None, ""):
                return f"={own}"
            group = collection.group_of(_rows(collection, known.positives(query_id)[:1], queries)[0])
            if group is not None:
                return f"={group}"
        return query_id.removeprefix(f"{language}/") if language else query_id

    def _languages(self, known: QuerySet, collection: Collection, name: str) -> dict[str, str]:
        """The language of each query, "" where it is not known."""
        found = {query_id: language_tag(language) for query_id, language in zip(known.ids, known.langs, strict=True)}
        if not any(found.values()) and not collection.has_languages:
            return dict.fromkeys(found, self._pivot)  # nobody says a language: there is one
        unknown = sum(not found[query_id] for query_id in known.labelled)
        if unknown and name != TARGET:
            self.asked.notes.append(
                f"Set {name}: {unknown:,} labelled queries have no language and are not looked at. Set lang when ingesting them."
            )
        return found

    def _note_gaps(
        self,
        name: str,
        collection: Collection,
        numbers: dict[str, int],
        languages: dict[str, str],
        cells: dict[tuple[str, Kind], AskedCell],
    ) -> None:
        asked = Counter(languages[query_id] for query_id in numbers if languages[query_id])
        pivot_asked = any(same_language(language, self._pivot) for language in asked)
        silent = [
            language
            for language in collection.languages
            if language not in asked and not (pivot_asked and same_language(language, self._pivot))
        ]
        if collection.without_language:
            self.asked.notes.append(
                f"Set {name}: {collection.without_language:,} passages of {collection.corpus.name} have no language, so no query searches them."
            )
        if silent:
            self.asked.notes.append(
                f"Set {name} has no labelled query in {_listed(silent)}, though {collection.corpus.name} has passages in them: "
                "it guards nothing there."
            )
        for language, count in sorted(asked.items()):
            across = cells.get((language, "cross"))
            left_out = count - (len(across.queries) if across else 0)
            if left_out and not same_language(language, self._pivot):
                self.asked.notes.append(
                    f"Set {name}: {left_out:,} of {count:,} queries in {language} have no {self._pivot} translation of a relevant passage "
                    "and are left out across languages."
                )


def _graded(known: QuerySet, collection: Collection, query_id: str, queries: Artefact) -> list[tuple[int, int]]:
    """(row, grade) of the query's relevant passages."""
    relevant = known.positives(query_id)
    rows = _rows(collection, relevant, queries)
    return [(int(row), int(known.qrels[query_id][passage])) for row, passage in zip(rows, relevant, strict=True)]


def _rows(collection: Collection, passage_ids: Sequence[str], queries: Artefact) -> NDArray[np.int64]:
    try:
        return collection.passages.rows(passage_ids)
    except NotFoundError as error:
        raise IncompatibleError(
            f"{queries} is not about the passages of {collection.embeddings}: {error} Name the embeddings of the queries' own corpus."
        ) from None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
