"""Texts end to end in one row: the same vectors as with padding, for every architecture that takes it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from retort.models import attention
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.models.unpadded import Unpadded, packs

TEXTS = ["read the file", "what is this " * 9, "path", "日本語 text", "one two up use", "a"]
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalise", [True, False])
def test_vectors_are_those_of_padded_texts_whatever_the_budget(tmp_path, pooling, normalise):
    encoder = DualEncoder.load(
        tiny_encoder(tmp_path, pooling=pooling, normalise=normalise), device="cpu", precision="fp32"
    )
    padded = encoder.encode(TEXTS)
    assert encoder.use_padding(False) is False
    for budget in (1, 20, 10_000):
        assert np.abs(encoder.encode(TEXTS, token_budget=budget) - padded).max() < 1e-5
    assert encoder.use_padding(True) is True
    assert np.array_equal(encoder.encode(TEXTS), padded)


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (BertConfig(**SIZES), BertModel),
        (RobertaConfig(**SIZES, pad_token_id=1), RobertaModel),
        (XLMRobertaConfig(**SIZES, pad_token_id=1), XLMRobertaModel),
        (
            ModernBertConfig(**SIZES, pad_token_id=0, cls_token_id=1, bos_token_id=1, sep_token_id=2, eos_token_id=2),
            ModernBertModel,
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, type) else "",
)
def test_positions_are_counted_as_the_architecture_counts_them(config, model):
    torch.manual_seed(0)
    body = model(config).eval()
    attention.install(body)
    with torch.no_grad():  # so far apart that a wrong position or a neighbour's token is seen
        for name, weight in body.named_parameters():
            if "position" in name:
                weight.normal_(0, 1)
    pad = config.pad_token_id
    unpadded = Unpadded.of(body, pad)
    assert unpadded is not None
    rows = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    with torch.inference_mode():
        states, ends = unpadded.states(rows)
        assert ends.tolist() == [0, 5, 7, 10]
        for row, (start, end) in zip(rows, [(0, 5), (5, 7), (7, 10)], strict=True):
            ids = torch.tensor([row])
            alone = body(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
            assert torch.allclose(states[start:end], alone, atol=1e-5)


def test_a_model_with_its_own_attention_is_padded():
    body = MPNetModel(MPNetConfig(**SIZES, pad_token_id=1)).eval()
    attention.install(body)
    assert Unpadded.of(body, 1) is None


def test_what_is_run_after_it_attends_as_ever(tmp_path):
    encoder = DualEncoder.load(tiny_encoder(tmp_path), device="cpu", precision="fp32")
    before = encoder.encode(TEXTS)
    encoder.use_padding(False)
    encoder.encode(TEXTS)
    ids = torch.tensor([[5, 6, 7], [8, 9, 0]])
    encoder(ids, (ids > 0).long())
    encoder.use_padding(True)
    assert np.array_equal(encoder.encode(TEXTS), before)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 60))
def test_packs_hold_every_row_once_within_the_budget(lengths, budget):
    found = packs(lengths, budget)
    assert sorted(row for pack in found for row in pack) == list(range(len(lengths)))
    for pack in found:
        assert pack and (len(pack) == 1 or sum(lengths[row] for row in pack) <= budget)
    flat = [lengths[row] for pack in found for row in pack]
    assert flat == sorted(lengths, reverse=True)
