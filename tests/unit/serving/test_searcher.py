"""Queries to hits, against answers worked out by hand and against brute force."""

import random

import numpy as np
import pytest

from retort.errors import ConfigError, NotFoundError, OverloadedError
from retort.indexing.merge import Hits
from retort.serving.fakes import PASSAGES, ExactIndex, make_searcher
from retort.serving.models import Range
from retort.serving.searcher import SearchQuery


def ids(result):
    return [hit.passage_id for hit in result.hits]


def test_hits_come_best_first_with_texts_and_marked_words():
    (result,) = make_searcher().search([SearchQuery("read the file", k=2)])
    assert ids(result) == ["p1", "p0"]  # the: 1, file(s): 1 + 0, read: 1 each; p1 has "the" as well
    top = result.hits[0]
    assert (top.title, top.doc_id, top.lang, top.section, top.fields["year"]) == ("Files", "files", "en", "io", 2003)
    assert top.text == PASSAGES[1]["text"]
    assert [top.snippet.text[start:end] for start, end in top.snippet.words] == ["the", "file", "read"]
    assert result.encoder == "words" and set(result.stages_ms) == {"encode", "search", "fetch"}


def test_offset_pages_through_the_same_ranking():
    searcher = make_searcher()
    (whole,) = searcher.search([SearchQuery("open file", k=5)])
    pages = [ids(searcher.search([SearchQuery("open file", k=2, offset=offset)])[0]) for offset in (0, 2, 4, 6)]
    assert pages == [ids(whole)[:2], ids(whole)[2:4], ids(whole)[4:], []]


def test_group_by_keeps_the_best_passage_of_each_document_and_still_fills_the_page():
    (result,) = make_searcher().search([SearchQuery("read file open", k=3, group_by="doc_id")])
    documents = [hit.doc_id for hit in result.hits]
    assert documents[0] == "files" and len(set(documents)) == len(documents) == 3
    assert ids(result)[0] == "p0"


def test_filters_look_deeper_until_the_page_is_full():
    searcher = make_searcher()
    (result,) = searcher.search([SearchQuery("read file open", k=1, filters={"lang": "de"})])
    assert ids(result) == ["p3"]
    (result,) = searcher.search([SearchQuery("read", k=5, filters={"year": Range(gte=2003, lt=2007)})])
    assert sorted(ids(result)) == ["p1", "p2"]
    (result,) = searcher.search([SearchQuery("read", k=5, filters={"lang": "xx"})])
    assert ids(result) == []


def test_an_unknown_encoder_and_an_unknown_field_name_what_there_is():
    searcher = make_searcher(encoders=("base", "tuned"))
    with pytest.raises(NotFoundError, match="no query encoder 'bse'. It has: base, tuned"):
        searcher.search([SearchQuery("x", encoder="bse")])
    with pytest.raises(ConfigError, match="no field 'yer'"):
        searcher.search([SearchQuery("x", filters={"yer": 1})])


def test_queries_for_different_encoders_and_depths_share_a_batch_and_keep_their_own_answers():
    searcher = make_searcher(encoders=("base", "tuned"))
    queries = [
        SearchQuery("open socket", k=1, encoder="tuned"),
        SearchQuery("sort numbers", k=4),
        SearchQuery("open file", k=2, group_by="doc_id"),
        SearchQuery("read", k=2, filters={"lang": "en"}),
    ]
    together = searcher.search(queries)
    alone = [searcher.search([query])[0] for query in queries]
    assert [ids(one) for one in together] == [ids(one) for one in alone]
    assert [one.encoder for one in together] == ["tuned", "base", "base", "base"]
    for one, other in zip(together, alone, strict=True):
        assert [hit.score for hit in one.hits] == pytest.approx([hit.score for hit in other.hits])


def test_a_neighbour_that_looks_deeper_changes_nothing_in_an_approximate_index():
    class Approximate(ExactIndex):
        """Finds its best row only where it is asked for many, as an index of few probes does."""

        def search(self, vectors, k, allowed=None):
            scores, rows = super().search(vectors, k + 1, allowed)
            return Hits(scores[:, :k], rows[:, :k]) if k > 3 else Hits(scores[:, 1:], rows[:, 1:])

    searcher = make_searcher(index=Approximate)
    queries = [SearchQuery("open file", k=k) for k in (2, 5, 2, 3)]
    together = [ids(one) for one in searcher.search(queries)]
    assert together == [ids(searcher.search([query])[0]) for query in queries]
    assert together[0] == together[2] == together[1][1:3]


def test_what_was_missing_in_a_search_that_failed_is_not_missing_in_the_next():
    class Leaky(ExactIndex):
        missing = (2,)

        def search(self, vectors, k, allowed=None):
            if self.missing:
                raise OverloadedError("No shard answered")
            return super().search(vectors, k, allowed)

        def take_missing(self):
            taken, self.missing = list(self.missing), ()
            return taken

    searcher = make_searcher(index=Leaky)
    with pytest.raises(OverloadedError):
        searcher.search([SearchQuery("open file")])
    assert searcher.search([SearchQuery("open file")])[0].missing_shards == ()


def test_random_filters_and_groups_equal_brute_force():
    source = random.Random(5)
    words = [f"w{number}" for number in range(30)]
    passages = [
        {"passage_id": f"p{number:03d}", "doc_id": f"d{number % 40}", "title": "", "text": " ".join(source.choices(words, k=12)),
         "lang": source.choice(["en", "de", "fr"]), "section": "", "fields": {"year": source.randrange(10)}}
        for number in range(200)
    ]  # fmt: skip
    searcher = make_searcher(passages)
    by_id = {passage["passage_id"]: passage for passage in passages}
    for _ in range(60):
        text, k, offset = " ".join(source.choices(words, k=3)), source.randrange(1, 30), source.randrange(0, 10)
        lang, year = source.choice([None, "en", "de"]), source.choice([None, source.randrange(10)])
        group = source.choice([None, "doc_id"])
        filters = {name: value for name, value in (("lang", lang), ("year", year)) if value is not None}
        (everything,) = searcher.search([SearchQuery(text, k=200, highlight=False)])
        expected, seen = [], set()
        for hit in everything.hits:
            passage = by_id[hit.passage_id]
            fits = (lang is None or passage["lang"] == lang) and (year is None or passage["fields"]["year"] == year)
            if fits and (group is None or passage["doc_id"] not in seen):
                seen.add(passage["doc_id"])
                expected.append(hit.passage_id)
        (found,) = searcher.search([SearchQuery(text, k=k, offset=offset, filters=filters or None, group_by=group)])
        assert ids(found) == expected[offset : offset + k]


def test_embeddings_are_the_encoders_own_vectors():
    searcher = make_searcher()
    vectors = searcher.embed(["open open file", "nothing known"], None, "query")
    assert vectors.sum(axis=1).tolist() == [3.0, 0.0] and np.count_nonzero(vectors[0]) == 2
    assert searcher.count_tokens(["open a file", "x"], None, "query") == 4
