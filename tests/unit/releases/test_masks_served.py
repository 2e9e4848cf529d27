"""What serving makes of a masked release, and of one over a partial index."""

from retort.releases.deleting import mask_passages
from retort.releases.reindex import ReindexConfig, reindex
from retort.releases.release import load_release
from retort.serving.opening import Parts
from retort.serving.searcher import SearchQuery

from .worlds import answers, new_corpus


def served(parts, store, query="file socket", **settings):
    searcher = parts.open(load_release(store, "live"))
    return [hit.passage_id for hit in searcher.search([SearchQuery(query, **settings)])[0].hits]


def test_a_deletion_and_a_partial_index_reach_the_searcher(store, world):
    parts = Parts(store)
    first = served(parts, store, k=80)
    assert len(first) == 80
    mask_passages(store, "live", first[:2], "asked", "deleted")
    assert served(parts, store, k=80) == first[2:]
    assert served(parts, store, k=3, filters={"passage_id": first[:4]}) == first[2:4]
    reindex(ReindexConfig(release="live", corpus=new_corpus(store, range(3, 82)).uri))
    left = served(parts, store, k=80)
    assert not set(first[:2]) & set(left) and {"p080", "p081"} < set(left)
    assert len(answers(store, k=80)[0]) == len(left)
    assert served(parts, store, k=5, filters={"passage_id": ["p080", "p004"]}) == [
        i for i in left if i in ("p080", "p004")
    ]
