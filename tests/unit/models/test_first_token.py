"""Computing one token in the last layer gives the logits of computing all."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from retort.models.cross_encoder import CrossEncoder
from retort.models.fakes import tiny_cross_encoder
from retort.models.first_token import FirstToken

SIZE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 1,
}


def batch():
    ids = torch.randint(5, 90, (4, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[2, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (BertForSequenceClassification, BertConfig(**SIZE)),
        (RobertaForSequenceClassification, RobertaConfig(**SIZE, pad_token_id=1)),
        (ElectraForSequenceClassification, ElectraConfig(**SIZE, embedding_size=32)),
    ],
)
def test_logits_are_equal_and_less_is_computed(model, config):
    torch.manual_seed(3)
    classifier = model(config).eval()
    narrow = FirstToken.of(classifier)
    assert narrow is not None
    seen = []
    layers = getattr(classifier, classifier.base_model_prefix).encoder.layer
    layers[-1].intermediate.register_forward_hook(lambda module, given, made: seen.append(made.shape[1]))
    with torch.inference_mode():
        whole = classifier(**batch()).logits
        with narrow:
            cut = classifier(**batch()).logits
        again = classifier(**batch()).logits
    assert seen == [11, 1, 11]
    assert torch.allclose(cut, whole, atol=1e-6) and torch.equal(again, whole)


def test_a_body_built_otherwise_is_left_alone():
    config = DistilBertConfig(vocab_size=97, dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=1)
    assert FirstToken.of(DistilBertForSequenceClassification(config)) is None


def test_a_head_that_reads_every_token_is_left_alone():
    torch.manual_seed(3)
    classifier = BertForSequenceClassification(BertConfig(**SIZE))

    class MeanPooler(torch.nn.Module):
        def forward(self, states):
            return states.mean(dim=1)

    classifier.bert.pooler = MeanPooler()
    assert FirstToken.of(classifier) is None


def test_a_teacher_says_the_same_with_and_without(tmp_path):
    teacher = CrossEncoder.load(tiny_cross_encoder(tmp_path), device="cpu", precision="fp32")
    pairs = [("the quick", "brown fox jumps " * n) for n in range(1, 9)]
    quick = teacher.judge(pairs)
    teacher._narrow = None
    plain = teacher.judge(pairs)
    assert abs(quick.scores - plain.scores).max() < 1e-5
    assert [a.to_bytes() for a in quick.word_maps] == [b.to_bytes() for b in plain.word_maps]
