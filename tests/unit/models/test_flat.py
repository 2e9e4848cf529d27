"""A body laid out flat: the states of its modules, for every family that it knows; others keep their modules."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from retort.models import attention
from retort.models.batching import pad
from retort.models.flat import FlatBody, lay_out
from retort.models.packed import PackedLinear, can_lay_out

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
KNOWN = [
    (BertModel, BertConfig(**SIZES)),
    (RobertaModel, RobertaConfig(**SIZES, pad_token_id=1)),
    (XLMRobertaModel, XLMRobertaConfig(**SIZES, pad_token_id=1, type_vocab_size=1)),
    (CamembertModel, CamembertConfig(**SIZES, pad_token_id=1)),
]
OTHERS = [
    (BertModel, BertConfig(**SIZES, hidden_act="relu")),
    (BertModel, BertConfig(**SIZES, is_decoder=True)),
    (DistilBertModel, DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, hidden_dim=48)),
    (ModernBertModel, ModernBertConfig(**SIZES, pad_token_id=0, cls_token_id=1, sep_token_id=2)),
]


def name(value):
    return value.__name__ if isinstance(value, type) else ""


def body_of(model, config):
    torch.manual_seed(0)
    body = model(config).eval()
    attention.install(body)
    return body


def states_of(body, ids, mask):
    with torch.inference_mode():
        return body(input_ids=ids, attention_mask=mask).last_hidden_state


@pytest.mark.parametrize(("model", "config"), KNOWN, ids=name)
def test_states_are_those_of_the_modules(model, config):
    body = body_of(model, config)
    flat = FlatBody.of(body, "fp32")
    assert flat is not None

    @settings(max_examples=30)
    @given(st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=20), min_size=1, max_size=5))
    def holds(rows):  # with the padding token's id among them: a text may say "<pad>"
        ids, mask = pad(rows, config.pad_token_id)
        expected = states_of(body, ids, mask)
        with torch.inference_mode():
            found = flat(ids, mask)
        assert found.dtype == torch.float32
        assert torch.allclose(found[mask == 1], expected[mask == 1], atol=2e-5)

    holds()


@pytest.mark.parametrize(("model", "config"), OTHERS, ids=name)
def test_another_family_keeps_its_modules_with_packed_layers(model, config):
    body = body_of(model, config)
    assert FlatBody.of(body, "fp32") is None
    ids, mask = pad([[5, 6, 7], [8]], 0)
    expected = states_of(body, ids, mask)
    run = lay_out(body, "fp32")
    assert run is not None
    assert any(isinstance(module, PackedLinear) for module in body.modules())
    with torch.inference_mode():
        assert torch.allclose(run(ids, mask)[mask == 1], expected[mask == 1], atol=1e-5)


@pytest.mark.skipif(not can_lay_out(torch.bfloat16), reason="torch has no laid out bfloat16 products on this processor")
def test_in_bfloat16_it_is_as_near_to_float32_as_the_modules_are():
    body = body_of(*KNOWN[0])
    flat = FlatBody.of(body, "bf16")
    assert flat is not None
    ids, mask = pad([list(range(2, 22)), list(range(5, 12))], 0)
    exact = states_of(body, ids, mask)[mask == 1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = states_of(body, ids, mask)[mask == 1]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = flat(ids, mask)[mask == 1]
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).norm()) <= 1.2 * float((rounded - exact).norm())


has_half = can_lay_out(torch.float16)
no_half = "torch has no products with float16 weights on this processor"


@pytest.mark.skipif(not has_half, reason=no_half)
@pytest.mark.parametrize(("model", "config"), KNOWN, ids=name)
def test_half_weights_round_less_than_bfloat16_would(model, config):
    body = body_of(model, config)
    flat = FlatBody._of(body, "fp32", torch.float16)
    assert flat is not None
    ids, mask = pad([list(range(2, 22)), list(range(5, 12)), [3]], config.pad_token_id)
    exact = states_of(body, ids, mask)[mask == 1]
    with torch.inference_mode():
        found = flat(ids, mask)[mask == 1]
    assert found.dtype == torch.float32
    error = float((found - exact).norm() / exact.norm())
    assert 0 < error < 2**-10, "float16 has 11 bits, bfloat16 8"


@pytest.mark.skipif(not has_half, reason=no_half)
def test_weights_that_float16_cannot_hold_stay_as_they_are():
    body = body_of(*KNOWN[0])
    with torch.no_grad():  # the product of both is as it was
        body.encoder.layer[0].attention.self.value.weight.mul_(1e7)
        body.encoder.layer[0].attention.self.value.bias.mul_(1e7)
        body.encoder.layer[0].attention.output.dense.weight.mul_(1e-7)
    assert FlatBody._of(body, "fp32", torch.float16) is None
    flat = FlatBody.of(body, "fp32", half_weights=True)
    assert flat is not None
    ids, mask = pad([[5, 6, 7], [8]], 0)
    with torch.inference_mode():
        assert torch.allclose(flat(ids, mask)[mask == 1], states_of(body, ids, mask)[mask == 1], atol=2e-5)


def test_a_model_whose_states_are_not_those_of_its_name_keeps_its_modules():
    body = body_of(*KNOWN[0])

    class BertModelOfOurs(type(body)):
        def forward(self, *args, **kwargs):
            found = super().forward(*args, **kwargs)
            found.last_hidden_state = found.last_hidden_state * 1.01
            return found

    BertModelOfOurs.__name__ = "BertModel"
    other = copy.deepcopy(body)
    other.__class__ = BertModelOfOurs
    assert FlatBody.of(other, "fp32") is None
    del body.encoder.layer[1].output.LayerNorm
    assert FlatBody.of(body, "fp32") is None


def test_the_layers_of_the_model_are_used_up():
    body = body_of(*KNOWN[0])
    before = sum(weights.numel() for weights in body.parameters())
    assert lay_out(body, "fp32") is not None
    assert sum(weights.numel() for weights in body.parameters()) < before / 2


def test_one_text_without_padding_and_with_it_has_the_same_states():
    body = body_of(*KNOWN[1])
    flat = FlatBody.of(body, "fp32")
    alone, wide = pad([[5, 6, 7]], 1), pad([[5, 6, 7], list(range(2, 40))], 1)
    with torch.inference_mode():
        assert np.abs(flat(*alone)[0].numpy() - flat(*wide)[0, :3].numpy()).max() < 1e-5
