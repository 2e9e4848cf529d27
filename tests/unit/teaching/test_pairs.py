"""Pairs put together from stored tokens equal what the tokenizer makes of the pair."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from retort.errors import ModelError
from retort.teaching.pairs import PairLayout, tokenise

VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e", "f"])}
BERT = ("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", "[CLS] $A [SEP]")
ROBERTA = ("[CLS] $A [SEP] [SEP] $B [SEP]", "[CLS] $A [SEP]")


def make_tokenizer(pair: str, single: str) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


QUERIES = ["a b", "c", "a b c d e"]
PASSAGES = ["d e f d e f d e f", "f", "a a"]


@pytest.mark.parametrize("template", [BERT, ROBERTA])
def test_assembled_pairs_equal_the_tokenizers_own(template: tuple[str, str]) -> None:
    tokenizer = make_tokenizer(*template)
    layout = PairLayout.of(tokenizer, max_tokens=64)
    queries, passages = tokenise(tokenizer, [QUERIES], 64), tokenise(tokenizer, [PASSAGES[:2], PASSAGES[2:]], 64)
    made = layout.assemble([(queries[i], passages[i]) for i in range(3)])
    expected = tokenizer(QUERIES, PASSAGES, padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert made[name].tolist() == expected[name].tolist(), name
    assert layout.lengths(queries.lengths(), passages.lengths()).tolist() == expected["attention_mask"].sum(1).tolist()


def test_a_long_pair_loses_the_end_of_its_passage_as_the_tokenizer_would_cut_it() -> None:
    tokenizer = make_tokenizer(*BERT)
    layout = PairLayout.of(tokenizer, max_tokens=9)
    query, passage = tokenise(tokenizer, [["a b"]], 64)[0], tokenise(tokenizer, [["d e f d e f d e f"]], 64)[0]
    expected = tokenizer("a b", "d e f d e f d e f", truncation="only_second", max_length=9)
    assert layout.assemble([(query, passage)])["input_ids"][0].tolist() == expected["input_ids"]


def test_a_long_query_leaves_half_of_the_room_to_the_passage() -> None:
    layout = PairLayout.of(make_tokenizer(*BERT), max_tokens=9)
    made = layout.assemble([(np.full(50, 4), np.full(50, 5))])["input_ids"][0].tolist()
    assert made.count(4) == 3 and made.count(5) == 3 and len(made) == 9


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match=r"Slow.*slow one"):
        PairLayout.of(Slow(), 64)
