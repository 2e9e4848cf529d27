"""What does not belong together is refused: judgements of other queries, too few negatives, texts cut to other parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retort.corpus.queries import QuerySet
from retort.distillation.checks import words_seen_share
from retort.distillation.distil import DistilConfig, distil
from retort.distillation.fakes import small_training_set
from retort.errors import IncompatibleError, InputError
from retort.models.dual_encoder import DualEncoder
from retort.models.judgements import Judgements
from retort.store import Artefact, open_store

World = dict[str, Artefact]


def renamed(queries: QuerySet) -> QuerySet:
    """The same queries under other ids."""
    ids = [f"other-{name}" for name in queries.ids]
    qrels = {f"other-{name}": grades for name, grades in queries.qrels.items()}
    return QuerySet(ids, queries.texts, queries.langs, queries.origins, queries.fields, qrels)


def test_judgements_of_other_queries_are_refused_even_where_no_lineage_says_so(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Not one of the 32 judged queries is among the 32 training queries.*other-"):
        small_training_set(world, tmp_path / "base", queries=renamed(QuerySet.open(world["queries"])))


def test_dev_candidates_of_other_queries_are_refused(world: World, tmp_path: Path) -> None:
    draft = open_store().draft("queries", "dev", step="fake", inputs={"corpus": world["corpus"]}, config={"n": 9})
    with draft:
        draft.put_file("queries.parquet", world["queries"].local("queries.parquet"))
        draft.write_table("qrels.parquet", world["queries"].part("qrels.parquet").slice(0, 9))
        draft.publish()
    needed = {"corpus": "small", "queries": "small", "judgements": "small", "base": str(tmp_path / "base")}
    with pytest.raises(IncompatibleError, match=r"candidates/small .*is about queries small .*, this run has dev"):
        distil(DistilConfig(**needed, dev_queries="dev", dev_candidates="small"))


def test_more_negatives_than_anybody_has_are_refused_and_short_lists_counted(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="9 hard negatives.*no judged query has more than 7.*lower negatives to 7"):
        small_training_set(world, tmp_path / "base", negatives=9)

    def drop_all_of_one(group):
        return np.full(len(group), group.query_id == Judgements.open(world["judgements"]).query_ids[0])

    _, coverage = small_training_set(world, tmp_path / "base", negatives=3, false_negatives=drop_all_of_one)
    assert coverage.short_of_negatives == 1


def test_the_share_of_the_teachers_words_that_the_student_reads(world: World, tmp_path: Path) -> None:
    judgements = Judgements.open(world["judgements"])
    whole, _ = small_training_set(world, tmp_path / "base")
    assert words_seen_share(whole, judgements, 64) == 1.0
    cut = DualEncoder.load(tmp_path / "base", device="cpu", precision="fp32", max_tokens={"query": 64, "passage": 6})
    part, _ = small_training_set(world, tmp_path / "base", encoder=cut)
    share = words_seen_share(part, judgements, 6)
    assert share is not None and 0.2 < share < 0.8
    nothing = DualEncoder.load(
        tmp_path / "base", device="cpu", precision="fp32", max_tokens={"query": 64, "passage": 2}
    )
    blind, _ = small_training_set(world, tmp_path / "base", encoder=nothing)
    with pytest.raises(InputError, match="share no passage word.*Raise max_passage_tokens"):
        words_seen_share(blind, judgements, 2)
    off, _ = small_training_set(world, tmp_path / "base", words=False)
    assert words_seen_share(off, judgements, 64) is None
