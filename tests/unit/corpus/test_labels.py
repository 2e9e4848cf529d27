from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retort.corpus.labels import Labels, divide, hold_out
from retort.corpus.readers.rows import Place, QrelRow, QueryRow

PLACE = Place("file", 1)
GROUPS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.integers(1, 30).map(lambda n: list(range(n))), min_size=3, max_size=40
)


@given(GROUPS, st.floats(0.05, 0.4), st.integers(0, 5))
def test_held_out_groups_are_whole_disjoint_and_leave_one(groups, share, seed):
    parts = hold_out(
        {name: [(name, item) for item in items] for name, items in groups.items()}, {"dev": share, "test": share}, seed
    )
    chosen = [{name for name, _ in part} for part in parts.values()]
    assert all(chosen) and not chosen[0] & chosen[1] and len(chosen[0] | chosen[1]) < len(groups)
    for part, names in zip(parts.values(), chosen, strict=True):
        assert len(part) == sum(len(groups[name]) for name in names)


def test_a_giant_group_is_not_held_out():
    groups = {"giant": list(range(500)), **{f"g{n}": [n] for n in range(100)}}
    for seed in range(10):
        parts = hold_out(groups, {"dev": 0.1, "test": 0.1}, seed)
        assert all(30 <= len(part) <= 75 for part in parts.values())


def labels(*queries: tuple[str, str, list[tuple[str, int, str]]]) -> Labels:
    made = Labels()
    for query_id, split, qrels in queries:
        made.add_query(QueryRow(query_id, query_id, PLACE, split=split))
        for document_id, grade, qrel_split in qrels:
            made.add_qrel(QrelRow(query_id, document_id, grade, PLACE, qrel_split))
    return made


def test_who_goes_where():
    division = divide(
        labels(
            ("by-file", "dev", [("a", 1, "")]),
            ("by-qrels", "", [("b", 1, "test")]),
            ("both", "train", [("c", 1, "train"), ("d", 2, "test")]),
            ("only-zero", "test", [("e", 0, "")]),
            ("unlabelled", "", []),
            ("plain", "", [("f", 1, "")]),
            ("other", "train", [("g", 1, "train")]),
        ),
        seed=1,
        held_out=0.1,
        groups={},
    )
    ids = {name: [query.query_id for query in split.queries] for name, split in division.splits.items()}
    assert ids == {"train": ["unlabelled", "plain", "other"], "dev": ["by-file"], "test": ["by-qrels", "both"]}
    assert (
        division.splits["test"].qrels["both"] == {"d": 2}
        and division.unlabelled_dropped == 1
        and division.missing == []
    )


def test_queries_about_one_document_are_held_out_together():
    rows = [(f"q{n}", "train", [(f"page{n % 12}#s{n}", 1, "")]) for n in range(60)]
    groups = {f"page{n % 12}#s{n}": f"page{n % 12}" for n in range(60)}
    division = divide(labels(*rows), seed=13, held_out=0.1, groups=groups)
    pages = [{groups[name] for grades in split.qrels.values() for name in grades} for split in division.splits.values()]
    assert not pages[0] & pages[1] and not pages[0] & pages[2] and not pages[1] & pages[2]
    assert all(split.held_out == (name != "train") for name, split in division.splits.items())
