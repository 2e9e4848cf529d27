from __future__ import annotations

import pytest

from retort.corpus.queries import QuerySet
from retort.errors import InputError

from .helpers import beir


def test_lists_run_in_parallel_and_subsets_keep_them_so(data, run):
    queries = QuerySet.open(run(beir(data))["train"])
    assert len(queries) == len(queries.texts) == len(queries.langs) == len(queries.origins) == 20
    part = queries.subset(["q7", "q2"])
    assert (
        part.ids == ["q7", "q2"]
        and part.texts == ["question 7", "question 2"]
        and part.qrels == {"q7": {"d7": 1}, "q2": {"d2": 1}}
    )
    assert part.positions == {"q7": 0, "q2": 1} and part.positives("nobody") == []


def test_another_kind_is_refused(data, run):
    with pytest.raises(InputError, match="is of kind corpus; queries are needed"):
        QuerySet.open(run(beir(data))["corpus"])
