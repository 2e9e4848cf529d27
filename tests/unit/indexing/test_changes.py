"""What changed between two corpora."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retort.corpus.lookup import Passages
from retort.indexing.changes import Changes, find_changes, matching_rows

ids = st.sampled_from([f"p{number}" for number in range(12)])
corpora = st.dictionaries(ids, st.sampled_from(["one", "two", "three", "four"]), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=corpora, after=corpora, order=st.randoms(use_true_random=False))
def test_every_passage_is_added_changed_deleted_or_unchanged(publish_corpus, before, after, order):
    listed = sorted(after.items())
    order.shuffle(listed)
    old = Passages.open(
        publish_corpus([(id_, "", text) for id_, text in before.items()], name=f"a{hash(str(before))}"[:40])
    )
    new = Passages.open(publish_corpus([(id_, "", text) for id_, text in listed], name=f"b{hash(str(listed))}"[:40]))
    changes = find_changes(new, old)
    assert set(changes.added) == set(after) - set(before)
    assert set(changes.deleted) == set(before) - set(after)
    assert set(changes.changed) == {id_ for id_ in set(before) & set(after) if before[id_] != after[id_]}
    assert changes.unchanged == len(after) - len(changes.added) - len(changes.changed)
    for row, match in enumerate(matching_rows(new, old).tolist()):
        id_, text = listed[row]
        assert (match >= 0) == (text in before.values())
        if match >= 0:
            assert list(before.values())[match] == text  # also of another passage: a text that moved is not read again
        if before.get(id_) == text:
            assert list(before)[match] == id_


def test_a_changed_title_is_a_change_and_another_section_is_none(publish_corpus):
    old = Passages.open(publish_corpus([("a", "T", "text"), ("b", "T", "text two")], name="old"))
    new = Passages.open(publish_corpus([("a", "U", "text"), ("b", "T", "text two")], name="new"))
    assert find_changes(new, old) == Changes([], ["a"], [], 1)
    assert find_changes(new, old).told() == "0 added, 1 changed, 0 deleted, 1 unchanged"


def test_equal_hashes_of_different_texts_are_not_believed(publish_corpus, monkeypatch):
    monkeypatch.setattr("tests.unit.indexing.conftest.content_hash", lambda title, text: "0123456789abcdef")
    old = Passages.open(publish_corpus([("a", "", "one"), ("b", "", "two")], name="old"))
    new = Passages.open(publish_corpus([("a", "", "one"), ("b", "", "changed"), ("c", "", "new")], name="new"))
    assert matching_rows(new, old).tolist() == [0, -1, -1]


def test_hashes_of_another_form_are_compared_too(publish_corpus, monkeypatch):
    monkeypatch.setattr("tests.unit.indexing.conftest.content_hash", lambda title, text: f"mine:{text}")
    old = Passages.open(publish_corpus([("a", "", "one"), ("b", "", "two")], name="old"))
    new = Passages.open(publish_corpus([("b", "", "two"), ("c", "", "three")], name="new"))
    assert matching_rows(new, old).tolist() == [1, -1]


@pytest.mark.parametrize("rows", [3, 9000])
def test_many_batches_are_compared_row_by_row(publish_corpus, rows, monkeypatch):
    passages = [(f"p{number}", "", f"text {number}") for number in range(9000)]
    old = Passages.open(publish_corpus(passages, rows=4000, name="old"))
    moved = [*passages[5000:], *passages[: 5000 - rows // 2]]
    new = Passages.open(publish_corpus(moved, rows=4000, name=f"new{rows}"))
    matches = matching_rows(new, old)
    assert [passages[row][2] for row in matches.tolist()] == [text for _, _, text in moved]
    assert len(find_changes(new, old, matches).deleted) == len(passages) - len(moved)
