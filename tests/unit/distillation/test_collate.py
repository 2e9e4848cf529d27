"""Batches become tensors: chunks, columns, judgements; words that one side does not see are left out."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.distillation.batches import BatchSampler
from retort.distillation.collate import Collator
from retort.distillation.fakes import small_training_set
from retort.distillation.pool import view_pool
from retort.distillation.word_level import student_word_maps
from retort.distillation.word_targets import WordTargets
from retort.models.dual_encoder import DualEncoder
from retort.models.judgements import Judgements
from retort.store import Artefact

World = dict[str, Artefact]
BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def test_columns_lead_to_each_candidates_tokens(world: World, tmp_path: Path) -> None:
    data, _ = small_training_set(world, tmp_path / "base")
    batch = BatchSampler(data, batch_queries=8, negatives=3, similar=1, seed=1).batch(0)
    given = Collator(data, padding=0, chunk_tokens=150, forward_tokens=64, word_targets=None)(batch)
    assert len(given.chunks) > 1
    assert np.array_equal(
        given.pool[given.columns.numpy()][given.present.numpy()], batch.candidates[given.present.numpy()]
    )
    start = 0
    for chunk in given.chunks:
        for part in chunk.passages:
            assert part.ids.numel() <= 64 or len(part.ids) == 1
            for ids, mask, place in zip(part.ids, part.mask, part.places, strict=True):
                assert ids[mask.bool()].tolist() == data.passages.tokens[int(given.pool[start + place])].tolist()
        start += chunk.passage_count
    assert sum(chunk.query_count for chunk in given.chunks) == 8


def test_scores_and_trust_are_those_of_the_judgements(world: World, tmp_path: Path) -> None:
    data, _ = small_training_set(world, tmp_path / "base")
    judgements = Judgements.open(world["judgements"])
    batch = BatchSampler(data, batch_queries=8, negatives=3, similar=1, seed=1).batch(0)
    given = Collator(data, padding=0, chunk_tokens=10_000, forward_tokens=64, word_targets=None)(batch)
    assert given.judged.all()
    for i, query in enumerate(batch.queries):
        group = judgements.group(data.query_ids[query])
        scores = dict(zip(group.passage_ids, group.scores.tolist(), strict=True))
        assert given.scores[i].tolist() == [scores[data.passage_ids[row]] for row in batch.candidates[i]]


def test_the_pool_counts_a_passage_once_and_never_a_known_one(world: World, tmp_path: Path) -> None:
    data, _ = small_training_set(world, tmp_path / "base")
    positive, other = int(data.positives[0][0]), int(data.positives[1][0])
    view = view_pool(np.array([other, positive, other, other]), np.array([0, 1]), data)
    assert view.negative.tolist() == [[True, False, False, False], [False, True, False, False]]
    judged = set(data.judged[0].tolist())
    assert view.judged[0].tolist() == [other in judged, True, False, False]
    start = int(data.judged.offsets[0])
    assert view.scores[0, 1] == data.scores[start + data.judged[0].tolist().index(positive)]


def targets_for(world: World, base: Path, max_tokens: dict[str, int]):
    encoder = DualEncoder.load(base, device="cpu", precision="fp32", max_tokens=max_tokens)
    data, _ = small_training_set(world, base, encoder=encoder)
    batch = BatchSampler(data, batch_queries=8, negatives=3, similar=1, seed=1).batch(0)
    given = Collator(
        data,
        padding=0,
        chunk_tokens=10_000,
        forward_tokens=10_000,
        word_targets=WordTargets(Judgements.open(world["judgements"])),
    )(batch)
    return data, batch, given, given.chunks[0].targets[0]


def test_word_targets_find_the_passage_words_that_equal_the_query_words(world: World, tmp_path: Path) -> None:
    data, batch, given, target = targets_for(world, tmp_path / "base", {"query": 64, "passage": 64})
    assert target is not None and target.pairs == given.mapped_pairs == 32
    texts = dict(zip(QuerySet.open(world["queries"]).ids, QuerySet.open(world["queries"]).texts, strict=True))
    passages = Passages.open(world["corpus"])
    place = given.chunks[0].passages[0].places
    for n in range(target.pairs):
        query = texts[data.query_ids[batch.queries[target.queries[n]]]].split()
        passage = passages.texts([data.passage_ids[given.pool[place[target.passages[n]]]]])[0].split()
        for word, (index, weight) in enumerate(zip(target.index[n], target.weight[n], strict=True)):
            best = [
                passage[i]
                for i, w in zip(index.tolist(), weight.tolist(), strict=True)
                if i >= 0 and w > 0.3 / max(1, passage.count(query[word]))
            ]
            assert query[word] not in passage or set(best) == {query[word]}
    assert torch.allclose(target.weight.sum(-1) + target.rest, torch.ones_like(target.rest), atol=1e-4)


def test_maps_cover_only_words_that_both_sides_see(world: World, tmp_path: Path) -> None:
    """Passages cut to four words, queries to one; the teacher saw them whole."""
    _, _, _, target = targets_for(world, tmp_path / "base", {"query": 3, "passage": 6})
    assert target is not None
    query_words, passage_words = target.matrices()
    assert int(target.index.max()) <= 3 and query_words[0].shape[2] == 2
    assert (target.weight[:, 1] == 0).all(), "the second query word is cut off"
    rows = target.weight[:, 0].sum(-1) + target.rest[:, 0]
    assert torch.all(((rows - 1).abs() < 1e-4) | (rows == 0)) and (rows > 0).any()
    states = (
        torch.randn(target.pairs, query_words[0].shape[1], 8),
        torch.randn(target.pairs, passage_words[0].shape[1], 8),
    )
    forward, _ = student_word_maps(*states, query_words, passage_words)
    assert torch.allclose(forward[:, 0].sum(-1), torch.ones(target.pairs), atol=1e-5)
    assert (forward[:, 1] == 0).all()


def test_word_targets_of_a_whole_step_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some steps wait ready, with thousands of pairs each: of 16 and 128 tokens, their pooling matrices would take 130 kB a pair."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    made = importlib.import_module("training_memory")
    data = made.training_set(8)
    batch = BatchSampler(data, batch_queries=8, negatives=7, similar=1, seed=1).batch(0)
    maps = WordTargets(made.judgements(data, tmp_path / "judgements.arrow"))
    given = Collator(data, padding=0, chunk_tokens=4096, forward_tokens=1024, word_targets=maps)(batch)
    targets = [target for chunk in given.chunks for target in chunk.targets if target is not None]
    assert sum(target.pairs for target in targets) == given.mapped_pairs == 64
    kept = [value for target in targets for value in vars(target).values() if isinstance(value, torch.Tensor)]
    assert sum(value.untyped_storage().nbytes() for value in kept) < 8_000 * given.mapped_pairs
    _, (columns, rows) = targets[0].matrices()
    assert columns.shape == (targets[0].pairs, 128, 126) and rows.shape == (targets[0].pairs, 126, 128)
