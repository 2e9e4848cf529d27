"""Filters decided by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retort.errors import ConfigError
from retort.serving import filters
from retort.serving.filters import FieldIndex
from retort.serving.models import Range

FIELDS = [
    {"year": 2001, "tags": ["a", "b"]},
    {"year": 2003.5, "draft": True},
    {"year": "2003"},
    {},
    {"year": 1, "draft": 1},
]
COLUMNS = {
    "lang": ["en", "de", "en", "", "fr"],
    "doc_id": ["d0", "d0", "d1", "d2", "d3"],
    "fields": [json.dumps(row) for row in FIELDS],
}


@pytest.fixture
def index():
    return FieldIndex(lambda name: COLUMNS.get(name, [""] * 5))


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        ({"lang": "en"}, [0, 2]),
        ({"lang": ["en", "fr"]}, [0, 2, 4]),
        ({"lang": "en", "doc_id": "d1"}, [2]),
        ({"year": 2001}, [0]),
        ({"year": "2003"}, [2]),
        ({"year": Range(gte=2001)}, [0, 1]),
        ({"year": Range(gte=2001, lt=2003.5)}, [0]),
        ({"year": Range(lt="3")}, [2]),
        ({"tags": "b"}, [0]),
        ({"tags": ["x", "a"]}, [0]),
        ({"draft": True}, [1]),
        ({"draft": 1}, [4]),
        ({"lang": "xx"}, []),
    ],
)
def test_masks(index, filters, passing):
    assert index.mask(filters).nonzero()[0].tolist() == passing


def test_an_unknown_field_names_those_there_are(index):
    with pytest.raises(ConfigError, match=r"no field 'yeer'.*lang.*draft, tags, year"):
        index.mask({"yeer": 1})


def passes(value, wanted):
    """Whether one value passes, by comparing it with all that is wanted."""
    if isinstance(value, list):
        return any(passes(item, wanted) for item in value)
    if isinstance(wanted, list):
        return any(equal(value, item) for item in wanted)
    if isinstance(wanted, Range):
        return (
            all(
                bound is None
                or (isinstance(value, str | int | float) and isinstance(value, str) == isinstance(bound, str))
                for bound in (wanted.gte, wanted.lt)
            )
            and (wanted.gte is None or value >= wanted.gte)
            and (wanted.lt is None or value < wanted.lt)
        )
    return equal(value, wanted)


def equal(value, wanted):
    return all(isinstance(value, kind) == isinstance(wanted, kind) for kind in (bool, str)) and value == wanted


# Few of them, so that they meet: equal numbers of two types, what looks alike, and what Python holds to be equal.
SCALARS = st.sampled_from([True, False, 0, 1, 0.0, -0.0, 1.0, 1.5, 2**60, "", "0", "1", "true", "[1]", "\x001", "é"])
VALUES = st.recursive(
    st.none() | SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("a"), inner), max_leaves=6
)
SIDES = st.tuples(SCALARS, SCALARS).filter(lambda pair: isinstance(pair[0], str) == isinstance(pair[1], str))
RANGES = (
    SCALARS.map(lambda bound: Range(gte=bound))
    | SCALARS.map(lambda bound: Range(lt=bound))
    | SIDES.map(lambda pair: Range(gte=pair[0], lt=pair[1]))
)


@given(st.lists(VALUES, min_size=1, max_size=12), SCALARS | st.lists(SCALARS, min_size=1, max_size=4) | RANGES)
def test_looking_up_finds_what_comparing_every_value_finds(values, wanted):
    rows = [{"kept": 0, "value": value} for value in values]
    index = FieldIndex(lambda name: [json.dumps(row) for row in rows])
    assert index.mask({"value": wanted}).tolist() == [passes(value, wanted) for value in values]


def test_only_a_range_looks_at_every_distinct_value(monkeypatch):
    looked = []
    real = filters._passes
    monkeypatch.setattr(filters, "_passes", lambda value, wanted: looked.append(value) or real(value, wanted))
    index = FieldIndex(lambda name: [f"d{number}" for number in range(1000)])
    assert index.mask({"doc_id": [f"d{number}" for number in range(500, 1500)]}).sum() == 500
    assert index.mask({"doc_id": "d7"}).nonzero()[0].tolist() == [7] and looked == []
    assert index.mask({"doc_id": Range(lt="d1")}).sum() == 1 and len(looked) == 1000


def test_the_filters_of_one_request_are_decided_once():
    index = FieldIndex(lambda name: COLUMNS.get(name, [""] * 5))
    wanted = {"draft": True}
    assert index.mask(wanted) is index.mask(wanted)
    assert index.mask({"draft": 1}).nonzero()[0].tolist() == [4], "equal to Python, and another question"


def test_names_are_checked_without_reading_a_column():
    read = []
    index = FieldIndex(lambda name: read.append(name) or COLUMNS[name])
    index.check_names(["lang", "yeer"])
    assert read == []
    index.mask({"year": 1})
    with pytest.raises(ConfigError, match=r"no field 'yeer'"):
        index.check_names(["lang", "yeer"])
    index.check_names(["lang", "section", "year", "tags"])
    assert read == ["fields"]
