import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retort.errors import InputError
from retort.mining.filtering import FilterSettings, filter_negatives, quantile_of_round

# Two queries: positives 8 and 4 (median 6); negatives 7, 5, 1 and 6, 3.
SCORES = np.array([8.0, 7.0, 5.0, 1.0, 4.0, 6.0, 3.0], dtype=np.float32)
POSITIVE = np.array([True, False, False, False, True, False, False])
QUERY = np.array([0, 0, 0, 0, 1, 1, 1])


def run(method="dynamic", round_number=0, previous=None, **fields):
    return filter_negatives(
        SCORES,
        POSITIVE,
        QUERY,
        settings=FilterSettings(method=method, **fields),
        round_number=round_number,
        previous=previous,
    )


def test_negatives_above_the_median_positive_go_in_the_first_round():
    outcome = run()
    assert outcome.kept.tolist() == [True, False, True, True, True, True, True]  # 7 > 6 goes; 6 is not above 6
    assert outcome.audit.threshold == 6.0 and outcome.audit.quantile == 0.5
    assert (outcome.audit.dropped, outcome.audit.negatives, outcome.audit.positives) == (1, 5, 2)
    assert outcome.audit.dropped_share == pytest.approx(0.2)


def test_the_threshold_tightens_from_round_to_round_down_to_its_floor():
    settings = FilterSettings(quantile=0.5, tighten=0.5, floor=0.2)
    assert [quantile_of_round(settings, r) for r in range(4)] == [0.5, 0.25, 0.2, 0.2]
    thresholds = []
    previous = None
    for round_number in range(4):
        previous = run(round_number=round_number, previous=previous, tighten=0.5).audit.threshold
        thresholds.append(previous)
    assert thresholds == pytest.approx([6.0, 5.0, 4.8, 4.8])  # quantiles of {4, 8}


def test_the_threshold_never_rises_though_the_positives_scores_do():
    assert run(previous=2.5).audit.threshold == 2.5
    assert run(previous=99.0).audit.threshold == 6.0


def test_static_keeps_the_first_rounds_threshold_or_the_given_one():
    assert run("static").audit.threshold == 6.0
    assert run("static", round_number=3, previous=6.5).audit.threshold == 6.5
    given_one = run("static", round_number=3, previous=6.5, threshold=4.5)
    assert given_one.audit.threshold == 4.5
    assert given_one.kept.tolist() == [True, False, False, True, True, False, True]


def test_none_keeps_everything():
    outcome = run("none")
    assert outcome.kept.all() and outcome.audit.threshold is None and outcome.audit.dropped == 0


def test_the_margin_measures_against_the_querys_own_weakest_positive():
    outcome = run("none", margin=2.0)  # query 0: above 6; query 1: above 2
    assert outcome.kept.tolist() == [True, False, True, True, True, False, False]
    assert outcome.audit.dropped_by_margin == 3 and outcome.audit.dropped_by_threshold == 0
    assert outcome.audit.queries_left_without_negatives == 1
    both = run("dynamic", margin=2.0).audit
    assert (both.dropped_by_threshold, both.dropped_by_margin, both.dropped) == (1, 2, 3)


def test_a_query_without_positives_knows_the_threshold_only():
    outcome = filter_negatives(
        np.array([5.0, 9.0, 4.0]),
        np.array([True, False, False]),
        np.array([7, 8, 8]),
        settings=FilterSettings(margin=0.0),
    )
    assert outcome.kept.tolist() == [True, False, True]
    assert outcome.audit.most_certain[0].weakest_positive is None


def test_the_audit_counts_shows_and_is_json():
    audit = run(margin=2.0).audit
    assert [example.pair for example in audit.most_certain] == [1, 5, 6]
    assert [example.pair for example in audit.most_doubtful] == [6, 5, 1]
    assert audit.most_certain[0].score == 7.0 and audit.most_certain[0].weakest_positive == 8.0
    assert audit.queries == 2 and audit.queries_with_drops == 2
    assert audit.positive_quantiles["0.5"] == 6.0 and audit.negative_quantiles["0.5"] == 5.0
    histogram = audit.histogram
    assert (sum(histogram["positives"]), sum(histogram["kept"]), sum(histogram["dropped"])) == (2, 2, 3)
    assert len(histogram["edges"]) == len(histogram["kept"]) + 1
    assert json.loads(json.dumps(audit.as_json()))["dropped_share"] == pytest.approx(0.6)


def test_overlap_is_the_chance_that_a_negative_outranks_a_positive():
    assert run().audit.overlap == pytest.approx(3 / 10)  # 7, 5 and 6 are above 4; none is above 8
    tie = filter_negatives(np.array([1.0, 1.0]), np.array([True, False]), np.array([0, 0]), settings=FilterSettings())
    assert tie.audit.overlap == 0.5


def test_no_positives_and_bad_scores_are_told():
    with pytest.raises(InputError, match="Not one of these queries has a labelled passage"):
        filter_negatives(np.array([1.0]), np.array([False]), np.array([0]), settings=FilterSettings())
    assert filter_negatives(
        np.array([1.0, 3.0]),
        np.zeros(2, dtype=bool),
        np.zeros(2, dtype=int),
        settings=FilterSettings(method="static", threshold=2),
    ).kept.tolist() == [True, False]
    with pytest.raises(InputError, match="pair 1 is nan"):
        filter_negatives(np.array([1.0, np.nan]), np.array([True, False]), np.array([0, 0]), settings=FilterSettings())


def test_nothing_to_filter_is_fine():
    empty = filter_negatives(
        np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=int), settings=FilterSettings(method="none")
    )
    assert empty.kept.shape == (0,) and empty.audit.dropped_share == 0 and empty.audit.overlap is None


@given(
    scores=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=60),
    data=st.data(),
    margin=st.one_of(st.none(), st.floats(-2, 2)),
)
def test_positives_stay_and_a_later_round_keeps_no_more(scores, data, margin):
    count = len(scores)
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    positive[0] = True
    query = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    settings = FilterSettings(margin=margin)
    kept = None
    previous = None
    for round_number in range(3):
        outcome = filter_negatives(
            np.array(scores), positive, query, settings=settings, round_number=round_number, previous=previous
        )
        previous = outcome.audit.threshold
        assert outcome.kept[positive].all()
        assert outcome.audit.dropped == int((~outcome.kept).sum())
        if margin is None:
            assert (outcome.kept == (positive | (np.array(scores) <= previous))).all()
        assert kept is None or not (outcome.kept & ~kept).any()
        kept = outcome.kept
