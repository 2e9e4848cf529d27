"""Patterns name what they say, in BERT's names."""

from __future__ import annotations

from pathlib import Path

import pytest

from retort.errors import ConfigError
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.tuning.freezing import freeze_weights


@pytest.fixture
def encoder(tmp_path: Path) -> DualEncoder:
    return DualEncoder.load(tiny_encoder(tmp_path / "base", layers=3), device="cpu", precision="fp32")


def frozen(encoder: DualEncoder) -> set[str]:
    return {name for name, p in encoder.model.named_parameters() if not p.requires_grad}


def test_the_last_dense_weight_of_each_block_and_not_of_its_attention(encoder: DualEncoder) -> None:
    assert freeze_weights(encoder.model, ["output.dense.weight"]) == 3
    assert frozen(encoder) == {f"encoder.layer.{n}.output.dense.weight" for n in range(3)}
    freeze_weights(encoder.model, ["attention.output.dense.weight"])
    assert frozen(encoder) == {f"encoder.layer.{n}.attention.output.dense.weight" for n in range(3)}


def test_the_first_layers(encoder: DualEncoder) -> None:
    freeze_weights(encoder.model, ["first:2", "embeddings"])
    left = {name for name, p in encoder.model.named_parameters() if p.requires_grad}
    assert left and all(name.startswith("encoder.layer.2.") for name in left)


def test_the_pooler_is_accepted_though_it_is_not_there(encoder: DualEncoder) -> None:
    assert freeze_weights(encoder.model, ["pooler"]) == 0


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("embedings", "'embedings'.*expected one of .*embeddings"),
        ("first:4", "'first:4' is not first:N with N from 1 to 3"),
        ("first:all", "'first:all' is not first:N"),
    ],
)
def test_what_matches_nothing_is_refused(encoder: DualEncoder, pattern: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        freeze_weights(encoder.model, [pattern])


def test_something_must_be_left(encoder: DualEncoder) -> None:
    with pytest.raises(ConfigError, match="nothing could be tuned"):
        freeze_weights(encoder.model, ["embeddings", "encoder"])
