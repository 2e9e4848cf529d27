"""Filters decided by hand."""

import json

import pytest

from retort.errors import ConfigError
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
