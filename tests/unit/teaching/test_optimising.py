"""What moves in a run, and how fast."""

from __future__ import annotations

import pytest
from torch import nn

from retort.errors import ConfigError
from retort.teaching.optimising import freeze, learning_rate_factor, mix_seed, parameter_groups, set_dropout


def model() -> nn.Module:
    """Names as in BERT."""
    layer = nn.ModuleDict({"dense": nn.Linear(2, 2), "LayerNorm": nn.LayerNorm(2), "dropout": nn.Dropout(0.1)})
    layers = nn.ModuleList([layer, nn.ModuleDict({"dense": nn.Linear(2, 2)})])
    body = nn.ModuleDict({"embeddings": nn.ModuleDict({"word_embeddings": nn.Embedding(3, 2)}), "layer": layers})
    return nn.ModuleDict({"bert": body, "classifier": nn.Linear(2, 1)})


def frozen(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def test_groups_of_weights_are_frozen_by_parts_of_their_names() -> None:
    module = model()
    assert freeze(module, ["embeddings", "layer.1"]) == 3
    assert frozen(module) == {
        "bert.embeddings.word_embeddings.weight",
        "bert.layer.1.dense.weight",
        "bert.layer.1.dense.bias",
    }
    assert freeze(module, []) == 0 and not frozen(module)


def test_freezing_something_unknown_names_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"'embedings'.*bert, classifier, dense, embeddings"):
        freeze(model(), ["embedings"])


def test_the_head_has_its_own_rate_and_only_matrices_decay() -> None:
    module = model()
    freeze(module, ["embeddings"])
    groups = {
        (group["lr"], group["weight_decay"]): len(group["params"])
        for group in parameter_groups(module, 1e-4, 3e-4, 0.01)
    }
    assert groups == {(1e-4, 0.01): 2, (1e-4, 0.0): 4, (3e-4, 0.01): 1, (3e-4, 0.0): 1}


def test_dropout_is_set_everywhere() -> None:
    module = model()
    set_dropout(module, 0.0)
    assert [part.p for part in module.modules() if isinstance(part, nn.Dropout)] == [0.0]


def test_the_learning_rate_rises_and_falls_linearly() -> None:
    rates = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert learning_rate_factor(0, 10, 0.0) == 1.0


def test_over_several_rounds_the_rate_falls_once() -> None:
    first, second = ([learning_rate_factor(step, 10, 0.2, number, 2) for step in range(10)] for number in (0, 1))
    whole = [learning_rate_factor(step, 20, 0.1) for step in range(20)]
    assert first == pytest.approx(whole[:10]) and second[2:] == pytest.approx(whole[12:])
    assert second[:2] == pytest.approx([whole[10] / 2, whole[11]]), "its own warm-up, up to where the fall is"


def test_seeds_of_neighbouring_steps_and_ranks_differ() -> None:
    seeds = {mix_seed(13, step, rank) for step in range(50) for rank in range(4)}
    assert len(seeds) == 200 and mix_seed(13, 2, 1) == mix_seed(13, 2, 1)
