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
        (500_000, 8, "hnsw-sq8"),
        (500_000, 0.25, "ivf-sq8"),
        (500_000, 0.1, "ivf-pq"),
        (5_000_000, 64, "ivf-sq8"),
        (10**9, 64, "ivf-pq"),
    ],
)
def test_auto_follows_count_and_memory_and_says_why(count, memory_gib, kind):
    chosen, why = choose_kind(count, 384, memory_gib * GIB)
    assert chosen == kind
    assert f"{count:,} passages of 384 dimensions" in why


def test_auto_keeps_the_vectors_where_codes_alone_would_not_reach_the_recall():
    assert choose_kind(500_000, 384, 8 * GIB, 0.99, "off")[0] == "hnsw"
    assert choose_kind(5_000_000, 384, 8 * GIB, 0.99, "off")[0] == "ivf-flat"
    assert choose_kind(500_000, 384, 8 * GIB, 0.99)[0] == "hnsw-sq8"
    assert "refining gives 0.99" in choose_kind(500_000, 384, 8 * GIB, 0.99)[1]
    assert choose_kind(10**9, 384, 8 * GIB, 1.0)[0] == "flat"
    assert choose_kind(10**9, 382, 64 * GIB)[0] == "ivf-rabitq"  # four do not divide 382
    assert "low recall, for refine is off" in choose_kind(10**9, 384, 64 * GIB, 0.95, "off")[1]


def test_auto_never_takes_more_memory_than_it_may_but_for_exact_search():
    for count in (10**5, 10**6, 10**7, 10**8):
        for gib in (0.05, 0.5, 5, 50):
            _, why = choose_kind(count, 384, gib * GIB)
            if "graph over" in why and "fits" in why:
                assert count * (384 + 272) <= gib * GIB


def test_refine_follows_the_bits_a_dimension():
    def factor(kind, **more):
        return plan_index(kind, 100_000, 384, GIB, **more).search.get("refine", 0)

    assert (factor("hnsw"), factor("ivf-sq8"), factor("HNSW16,SQ4"), factor("ivf-rabitq")) == (0, 0, 4, 8)
    assert factor("ivf-sq8", recall=0.99) == 2 and factor("ivf-flat", recall=0.99) == 0
    assert factor("ivf-pq", refine="off") == 0 and factor("ivf-pq", refine=3) == 3
    with pytest.raises(InputError, match="refine is 3, and index kind 'flat' keeps the vectors"):
        plan_index("flat", 1000, 64, GIB, refine=3)


def test_a_refine_part_of_the_factory_string_is_refused():
    with pytest.raises(InputError, match="Leave its Refine part out and set refine"):
        plan_index("IVF4,SQ4,RFlat", 1000, 16, GIB)


def test_every_named_kind_is_one_that_faiss_builds():
    for kind in KINDS:
        plan = plan_index(kind, 5000, 32, GIB)
        assert plan.exact == (kind == "flat")
        assert plan.trained == (kind not in ("flat", "hnsw"))
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
