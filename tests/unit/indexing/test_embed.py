"""What the step refuses before any worker starts; embedding itself is tested in tests/ray/test_embed.py."""

import pytest

from retort.errors import ConfigError, ModelError, NotFoundError
from retort.indexing.embed import EmbedConfig, embed
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder


def test_a_query_encoder_must_not_embed_passages(publish_corpus, tmp_path):
    base = DualEncoder.load(tiny_encoder(tmp_path / "base"))
    base.save(tmp_path / "tuned", passage_space="f" * 64)
    with pytest.raises(
        ModelError, match="is a query encoder: its queries search the passages of encoder space ffffffffffff"
    ):
        embed(EmbedConfig(corpus=publish_corpus([("a", "", "text")]).uri, encoder=str(tmp_path / "tuned")))


def test_missing_inputs_are_named(publish_corpus):
    with pytest.raises(NotFoundError, match="no corpus 'nothing'"):
        embed(EmbedConfig(corpus="nothing"))
    with pytest.raises(NotFoundError, match="'no-such-model'"):
        embed(EmbedConfig(corpus=publish_corpus([("a", "", "text")]).uri, encoder="no-such-model"))


def test_unknown_fields_are_named():
    with pytest.raises(ConfigError, match="Did you mean 'token_budget'"):
        EmbedConfig.validated({"corpus": "c", "token_budgets": 100})
