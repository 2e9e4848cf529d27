"""What a release must answer before it may take traffic."""

import numpy as np
import pytest

from retort.errors import CorruptError, OverloadedError
from retort.releases.release import Canary
from retort.serving.canaries import check_canaries, check_own_queries
from retort.serving.fakes import PASSAGES, ExactIndex, Table, WordEncoder, make_searcher
from retort.serving.searcher import Searcher

CANARY = Canary(query="open file", expect=["p0"])
MANY = [
    {**PASSAGES[0], "passage_id": f"m{number}", "doc_id": f"d{number}", "title": "", "text": f"only word{number}"}
    for number in range(60)
]


def searcher(encode=None, rows=None):
    vocabulary = [f"word{number}" for number in range(60)]
    encoder = WordEncoder(vocabulary)
    texts = [passage["text"] for passage in MANY]
    vectors = encoder.encode(texts, "passage")
    if encode:
        encoder.encode = lambda texts, side: encode(WordEncoder(vocabulary).encode(texts, side))
    index = ExactIndex([passage["passage_id"] for passage in MANY], vectors if rows is None else vectors[rows])
    return Searcher({"words": encoder}, "words", index, Table(MANY))


def test_a_good_release_passes():
    check_own_queries(searcher(), "words")
    check_own_queries(make_searcher(), "words")


def test_vectors_that_are_not_finite_are_found():
    with pytest.raises(CorruptError, match="not finite"):
        check_own_queries(searcher(lambda vectors: np.where(vectors > 0, np.nan, vectors)), "words")


def test_an_answer_without_some_shards_says_nothing_about_the_release():
    class Leaky(ExactIndex):
        def take_missing(self):
            return [1, 4]

    away = make_searcher(index=Leaky)
    for check in (lambda: check_own_queries(away, "words"), lambda: check_canaries(away, [CANARY])):
        with pytest.raises(OverloadedError, match="Shards 1, 4 did not answer"):
            check()


def test_rows_that_do_not_belong_to_their_passages_are_found():
    with pytest.raises(CorruptError, match=r"only \d of 8 passages"):
        check_own_queries(searcher(rows=np.roll(np.arange(60), 25)), "words")


def test_an_encoder_that_says_the_same_of_everything_is_found():
    with pytest.raises(CorruptError, match="do not belong together"):
        check_own_queries(searcher(lambda vectors: np.ones_like(vectors)), "words")


def test_stored_canaries_name_what_was_found_instead():
    check_canaries(searcher(), [Canary(query="word7", expect=["m7", "gone"], within=1)])
    with pytest.raises(CorruptError, match=r"'word7' expects one of m8 among the first 1 hits; they are m7"):
        check_canaries(searcher(), [Canary(query="word7", expect=["m8"], within=1)])
