import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retort.corpus.words import bm25_terms
from retort.errors import CorruptError, InputError
from retort.mining.bm25 import Bm25
from retort.store import cache_root

TEXTS = {
    "a": "the cat sat on the mat",
    "b": "the dog chased the cat",
    "c": "a dog and a dog and a dog",
    "d": "日本語の文書を検索する",
    "e": "",
}


def by_hand(texts, query, k1=1.5, b=0.75):
    """Lucene's BM25 (Kamphuis et al. 2020, table 1), written from the formula."""
    terms = {id_: Counter(bm25_terms(text)) for id_, text in texts.items()}
    average = sum(sum(own.values()) for own in terms.values()) / len(texts)
    scores = {}
    for id_, own in terms.items():
        total = 0.0
        for term in bm25_terms(query):
            containing = sum(term in other for other in terms.values())
            if containing and own[term]:
                idf = math.log(1 + (len(texts) - containing + 0.5) / (containing + 0.5))
                total += idf * own[term] / (own[term] + k1 * (1 - b + b * sum(own.values()) / average))
        if total:
            scores[id_] = total
    return scores


def pairs(bm25, query, k=10):
    (ids,), (scores,) = bm25.search([query], k)
    return list(zip(ids, scores.tolist(), strict=True))


@pytest.mark.parametrize("query", ["cat", "the dog", "dog dog cat", "a cat on a mat", "文書", "検索する"])
@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4)])
def test_scores_are_those_of_the_formula(query, k1, b):
    found = pairs(Bm25.of(list(TEXTS), TEXTS.values(), k1=k1, b=b), query)
    expected = by_hand(TEXTS, query, k1, b)
    assert {id_ for id_, _ in found} == set(expected)
    assert [id_ for id_, _ in found] == sorted(expected, key=lambda id_: (-round(expected[id_], 5), id_))
    for id_, score in found:
        assert score == pytest.approx(expected[id_], rel=1e-5)


def test_words_that_are_nowhere_find_nothing():
    bm25 = Bm25.of(list(TEXTS), TEXTS.values())
    ids, scores = bm25.search(["zebra", "", "?!", "cat zebra"], 5)
    assert ids[:3] == [[], [], []] and [len(own) for own in scores[:3]] == [0, 0, 0]
    assert ids[3] == bm25.search(["cat"], 5)[0][0]


def test_equal_scores_are_in_the_order_of_ids_also_across_the_last_place():
    bm25 = Bm25.of(["d", "b", "a", "c", "other"], ["same words", "same words", "same words", "same words", "different"])
    assert bm25.search(["same"], 3)[0] == [["a", "b", "c"]]
    assert bm25.search(["same"], 9)[0] == [["a", "b", "c", "d"]]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.lists(st.sampled_from("abcde"), max_size=6).map(" ".join), min_size=1, max_size=12),
    query=st.lists(st.sampled_from("abcdef"), max_size=4).map(" ".join),
    k=st.integers(1, 14),
)
def test_the_k_best_are_the_first_k_of_all(texts, query, k):
    if not any(texts):
        return
    ids = [f"{number * 7 % 13:02d}" for number in range(len(texts))]
    bm25 = Bm25.of(ids, texts)
    everything = pairs(bm25, query, 100)
    assert pairs(bm25, query, k) == everything[:k]
    assert everything == sorted(everything, key=lambda pair: (-pair[1], pair[0]))


def test_a_saved_index_is_mapped_has_no_pickle_and_finds_the_same(tmp_path):
    bm25 = Bm25.of(list(TEXTS), TEXTS.values(), k1=1.2)
    bm25.save(tmp_path / "index")
    again = Bm25.load(tmp_path / "index")
    assert isinstance(again._model.scores["data"], np.memmap)
    assert again.about == bm25.about and again.about["k1"] == 1.2 and len(again) == 5
    for query in ("cat", "the dog", "文書"):
        assert pairs(again, query) == pairs(bm25, query)
    for path in (tmp_path / "index").iterdir():
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)
        else:
            with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, KeyError, UnicodeDecodeError)):
                pickle.loads(path.read_bytes())
    on_disk = sum(path.stat().st_size for path in (tmp_path / "index").iterdir())
    assert bm25.index_bytes < on_disk < bm25.index_bytes + 4096


def test_a_broken_folder_is_told(tmp_path):
    Bm25.of(list(TEXTS), TEXTS.values()).save(tmp_path / "index")
    (tmp_path / "index" / "ids.arrow").write_bytes(b"nothing")
    with pytest.raises(CorruptError, match="is no BM25 index"):
        Bm25.load(tmp_path / "index")
    with pytest.raises(CorruptError, match="is no BM25 index"):
        Bm25.load(tmp_path)


def test_open_builds_once_per_machine(publish_corpus, monkeypatch):
    corpus = publish_corpus()
    first = Bm25.open(corpus)
    monkeypatch.setattr(Bm25, "build", lambda *_, **__: pytest.fail("built again"))
    assert pairs(Bm25.open(corpus), "file") == pairs(first, "file")
    assert [path.name.endswith(".part") for path in (cache_root() / "bm25").iterdir()] == [False]


def test_title_and_text_are_both_indexed(publish_corpus):
    bm25 = Bm25.build(publish_corpus())
    assert bm25.search(["sorting"], 5)[0] == [["p1"]]
    assert bm25.search(["文書を検索"], 1)[0] == [["p5"]]


def test_what_cannot_be_indexed(publish_corpus, publish_queries):
    with pytest.raises(InputError, match="not one word in 2 passages"):
        Bm25.of(["a", "b"], ["", "?"])
    with pytest.raises(InputError, match="of kind queries; a corpus is needed"):
        Bm25.build(publish_queries(publish_corpus()))


def test_rows_may_be_limited_to_some_passages():
    made = Bm25.of(["a", "b", "c", "d"], ["read file", "read read", "write", "read the file"])
    every = made.rows("read file", 4)
    assert [["a", "b", "c", "d"][row] for row in every] == made.search(["read file"], 4)[0][0]
    allowed = np.array([False, True, True, True])
    assert made.rows("read file", 1, allowed).tolist() == [row for row in every if allowed[row]][:1]
    assert made.rows("nothing", 3).tolist() == []
