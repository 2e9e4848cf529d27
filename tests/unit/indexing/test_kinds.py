import numpy as np
import pytest

from retort.errors import InputError
from retort.indexing.kinds import KINDS, choose_kind, empty_index, plan_index

GIB = 1 << 30


@pytest.mark.parametrize(
    ("count", "memory_gib", "kind"),
    [
        (100, 8, "flat"),
        (33_000, 8, "flat"),
        (500_000, 8, "hnsw"),
        (500_000, 0.5, "ivf-sq8"),
        (5_000_000, 64, "ivf-sq8"),
        (10**9, 64, "ivf-rabitq"),
    ],
)
def test_auto_follows_count_and_memory_and_says_why(count, memory_gib, kind):
    chosen, why = choose_kind(count, 384, memory_gib * GIB)
    assert chosen == kind
    assert f"{count:,} passages of 384 dimensions" in why


def test_every_named_kind_is_one_that_faiss_builds():
    for kind in KINDS:
        plan = plan_index(kind, 5000, 32, GIB)
        assert plan.exact == (kind == "flat")
        assert plan.trained == kind.startswith("ivf")
        assert "{" not in plan.factory


def test_search_settings_go_with_the_kind():
    assert plan_index("flat", 5000, 32, GIB).search == {}
    assert plan_index("hnsw", 5000, 32, GIB).search == {"efSearch": 64}
    assert plan_index("IVF64,Flat", 5000, 32, GIB).search == {"nprobe": 16}
    assert plan_index("PCA16,HNSW8,Flat", 5000, 32, GIB).search == {"efSearch": 64}


@pytest.mark.parametrize("factory", ["falt", "IVF4,PQ7", "HNSWx", "IVF,Flat"])
def test_what_faiss_rejects_is_told_in_one_line_with_what_would_do(factory):
    with pytest.raises(InputError, match=f"FAISS rejects index kind '{factory}' for 16 dimensions") as caught:
        plan_index(factory, 5000, 16, GIB)
    assert "ivf-sq8" in str(caught.value)
    assert "/project/" not in str(caught.value) and "\n" not in str(caught.value)


def test_more_lists_than_passages_are_refused_before_any_training():
    with pytest.raises(InputError, match="64 inverted lists for 50 passages"):
        plan_index("IVF64,Flat", 50, 16, GIB)
    assert plan_index("ivf-flat", 50, 16, GIB).factory == "IVF1,Flat"


def test_scores_are_inner_products_and_not_distances():
    index = empty_index("Flat", 2)
    index.add(np.array([[1, 0], [3, 0]], dtype=np.float32))
    assert index.search(np.array([[1, 0]], dtype=np.float32), 1)[1].tolist() == [[1]]
