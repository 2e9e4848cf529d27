"""The cross-encoder: logits as sentence-transformers gives them, maps as eager attention gives them."""

import json

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification

from retort.errors import ModelError
from retort.models import attention
from retort.models.cross_encoder import CrossEncoder
from retort.models.fakes import tiny_cross_encoder, tiny_encoder, tiny_tokenizer
from retort.models.tokenising import UnencodableTextError
from retort.models.word_maps import WordMap

PAIRS = [
    ("read the file", "open the path, and read it"),
    ("what?", "xylophone names have xylophones"),
    ("a b c", "d"),
    ("", "nothing asked"),
    ("日本 file", "語 file 日"),
    ("set name", "value " * 20),
]


def load(folder, **settings):
    return CrossEncoder.load(folder, device="cpu", precision="fp32", **settings)


@pytest.fixture
def folder(tmp_path):
    return tiny_cross_encoder(tmp_path / "teacher")


def test_logits_equal_those_of_sentence_transformers(folder):
    from sentence_transformers import CrossEncoder as Peer

    ours = load(folder).score(PAIRS)
    theirs = Peer(str(folder), device="cpu").predict(PAIRS, activation_fn=torch.nn.Identity())
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 1e-5


def test_of_two_logits_the_difference_counts(tmp_path):
    folder = tiny_cross_encoder(tmp_path / "two", labels=2)
    teacher = load(folder)
    tokens = teacher.tokenizer([PAIRS[0][0]], [PAIRS[0][1]], return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits[0]
    assert abs(teacher.score(PAIRS[:1])[0] - float(logits[1] - logits[0])) < 1e-5


def test_logits_do_not_depend_on_the_batch_or_on_maps(folder):
    teacher = load(folder)
    alone = np.array([teacher.score([pair])[0] for pair in PAIRS])
    for budget in (20, 100, 5000):
        assert np.abs(teacher.score(PAIRS, budget) - alone).max() < 1e-5
        verdicts = teacher.judge(PAIRS, token_budget=budget)
        assert np.abs(verdicts.scores - alone).max() < 1e-5
        assert len(verdicts.word_maps) == len(PAIRS)
    assert teacher.judge(PAIRS, word_level=False).word_maps is None


def test_many_pairs_go_through_in_chunks(folder, monkeypatch):
    teacher = load(folder)
    expected = teacher.judge(PAIRS)
    monkeypatch.setattr("retort.models.cross_encoder.PAIRS_AT_ONCE", 2)
    done = []

    class Counter:
        def update(self, advance=1, *, note=None):
            done.append(advance)

    found = teacher.judge(PAIRS, progress=Counter())
    assert np.abs(found.scores - expected.scores).max() < 1e-5
    assert sum(done) == len(PAIRS)
    with pytest.raises(UnencodableTextError) as caught:
        teacher.judge([*PAIRS[:3], ("q", "\ud800")])
    assert caught.value.index == 3


def test_the_best_window_of_a_long_passage_counts(folder):
    teacher = load(folder)
    passage = "up " * 100 + "name " * 100
    cut = teacher._cutter.cut([("set name", passage)], with_words=True).windows
    with torch.no_grad():
        logits = [float(teacher.model(**teacher._cutter.assemble([window]).inputs).logits) for window in cut]
    verdicts = teacher.judge([PAIRS[0], ("set name", passage)], token_budget=70)
    assert len(cut) > 2
    assert abs(verdicts.scores[1] - max(logits)) < 1e-5
    assert verdicts.windows.tolist() == [0, int(np.argmax(logits))]
    assert verdicts.word_maps[1].first == cut[int(np.argmax(logits))].start  # a token per word


# Maps
# ------------------------------------------------------------------------------------------------------------------


def by_hand(model, tokenizer, query, passage, layers, heads=None):
    """The definition, in plain loops, from transformers' own eager attention."""
    from retort.corpus.words import word_spans

    takes_types = model.config.model_type in {"bert", "electra", "deberta-v2", "albert"}
    tokens = tokenizer(
        query, passage, return_tensors="pt", return_offsets_mapping=True, return_token_type_ids=takes_types
    )
    offsets, owners = tokens.pop("offset_mapping")[0].tolist(), tokens.sequence_ids(0)
    with torch.no_grad():
        everything = model(**tokens, output_attentions=True).attentions
        attentions = [everything[number] for number in layers]
    every = torch.stack(
        [layer[0] if heads is None else layer[0, heads] for layer in attentions]
    )  # [layers, heads, t, t]
    probabilities = every.mean(dim=(0, 1)).numpy()

    def members(owner, text):
        return [
            [i for i, (s, e) in enumerate(offsets) if owners[i] == owner and s < stop and start < e]
            for start, stop in word_spans(text)
        ]

    def block(rows, columns):
        found = np.array([[np.mean([probabilities[i, c].sum() for i in r]) for c in columns] for r in rows])
        return found / found.sum(axis=1, keepdims=True)

    asked, given = members(0, query), members(1, passage)
    return block(asked, given), block(given, asked)


def tiny(kind, config, folder):
    """A random classifier of another architecture, saved with the tiny tokenizer."""
    tokenizer = tiny_tokenizer()
    made = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, **config)
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
ARCHITECTURES = {
    "Bert": (SMALL, True),
    "Roberta": ({**SMALL, "type_vocab_size": 1}, True),  # one token type, while the tokenizer offers two
    "XLMRoberta": ({**SMALL, "type_vocab_size": 1}, True),
    "Electra": ({**SMALL, "embedding_size": 16}, True),
    "DistilBert": ({"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 40, "max_position_embeddings": 64}, True),
    "ModernBert": ({**SMALL, "local_attention": 128}, True),
    "Albert": ({**SMALL, "embedding_size": 16}, True),
    "MPNet": (SMALL, False),
    "DebertaV2": (SMALL, False),
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_maps_equal_eager_attention(kind, tmp_path):
    settings, recorded = ARCHITECTURES[kind]
    folder = tiny(kind, settings, tmp_path / kind)
    teacher = load(folder)
    assert attention.uses_ours(teacher.model) == recorded
    eager = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    pairs = [pair for pair in PAIRS if pair[0]]
    for layers in ((2,), (1, 2), (0,)):
        verdicts = teacher.judge(pairs, k=100, layers=layers)
        for (query, passage), found in zip(pairs, verdicts.word_maps):
            forward, backward = by_hand(eager, teacher.tokenizer, query, passage, layers)
            assert found.to_passage.shape == forward.shape
            assert np.abs(found.to_passage - forward).max() < 1e-5
            assert np.abs(found.to_query - backward).max() < 1e-5


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_maps_are_of_the_last_layer_that_the_judgement_depends_on(kind, tmp_path):
    """All of these read their first token alone: what the others attend to in the last layer does not reach the logit."""
    teacher = load(tiny(kind, ARCHITECTURES[kind][0], tmp_path / kind))
    assert (teacher.layers, teacher.last_layer_read) == (3, 1)
    by_itself, named, last = (teacher.judge(PAIRS[:1], layers=layers).word_maps[0] for layers in (None, [1], [2]))
    assert np.array_equal(by_itself.to_passage, named.to_passage)
    assert np.abs(by_itself.to_passage - last.to_passage).max() > 1e-3


def test_a_classifier_that_reads_all_tokens_has_its_last_layer_read(tmp_path):
    settings = {**SMALL, "local_attention": 128, "classifier_pooling": "mean"}
    assert load(tiny("ModernBert", settings, tmp_path)).last_layer_read == 2


def test_chosen_heads_alone(folder):
    teacher = load(folder)
    eager = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    found = teacher.judge(PAIRS[:1], k=100, heads=[1, 3]).word_maps[0]
    forward, _ = by_hand(eager, teacher.tokenizer, *PAIRS[0], [teacher.last_layer_read], [1, 3])
    assert np.abs(found.to_passage - forward).max() < 1e-5


def test_k_words_are_kept_and_the_rest_is_a_bucket(folder):
    teacher = load(folder)
    whole, few = teacher.judge(PAIRS, k=100).word_maps[0], teacher.judge(PAIRS, k=2).word_maps[0]
    top = np.unique(np.argsort(-whole.to_passage, axis=1)[:, :2])
    assert few.words.tolist() == top.tolist()
    assert np.allclose(few.to_passage, whole.to_passage[:, top], atol=1e-6)
    assert np.allclose(few.remainder, 1 - few.to_passage.sum(axis=1), atol=1e-6)
    assert np.allclose(few.to_query, whole.to_query[top], atol=1e-6)


def test_texts_without_words_have_empty_maps(folder):
    maps = load(folder).judge([("?!", "the file"), ("file", "..."), ("", "")]).word_maps
    assert [one.query_words for one in maps] == [0, 1, 0]
    assert all(WordMap.from_bytes(one.to_bytes()).to_passage.sum() == 0 for one in maps)


# Folders
# ---------------------------------------------------------------------------------------------------------------


def test_saved_teacher_is_the_same_teacher(tmp_path, folder):
    teacher = load(folder, max_tokens=20)
    teacher.save(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.max_tokens == 20
    assert np.array_equal(again.score(PAIRS), teacher.score(PAIRS))


def test_a_new_teacher_grows_on_an_encoder_and_depends_on_the_seed(tmp_path):
    encoder = tiny_encoder(tmp_path / "encoder")
    one, same, other = (
        CrossEncoder.from_encoder(encoder, seed=seed, max_tokens=40, device="cpu", precision="fp32")
        for seed in (1, 1, 2)
    )
    assert one.max_tokens == 40
    assert one.model.config.num_labels == 1
    assert np.array_equal(one.score(PAIRS), same.score(PAIRS))
    assert not np.array_equal(one.score(PAIRS), other.score(PAIRS))
    body = AutoModelForSequenceClassification.from_pretrained(encoder).bert.encoder.state_dict()
    assert all(torch.equal(tensor, one.model.bert.encoder.state_dict()[name]) for name, tensor in body.items())
    state = torch.get_rng_state()
    CrossEncoder.from_encoder(encoder, seed=3, device="cpu")
    assert torch.equal(state, torch.get_rng_state())


class TestRefuses:
    def test_a_bi_encoder(self, tmp_path):
        folder = tiny_encoder(tmp_path / "encoder")
        with pytest.raises(ModelError, match="is a bi-encoder.*train-teacher"):
            load(folder)
        (folder / "modules.json").unlink()
        with pytest.raises(ModelError, match=r"no trained classification head.*classifier"):
            load(folder)

    def test_three_labels(self, folder):
        config = json.loads((folder / "config.json").read_text())
        config["id2label"] = {"0": "a", "1": "b", "2": "c"}
        config["label2id"] = {"a": 0, "b": 1, "c": 2}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="3 labels: expected one relevance logit, or two"):
            load(folder)

    def test_a_slow_tokenizer(self, folder):
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CanineTokenizer"}))
        with pytest.raises(ModelError, match="slow one without character offsets"):
            load(folder)
