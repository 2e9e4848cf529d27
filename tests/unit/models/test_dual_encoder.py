"""The dual encoder: vectors, folders, passage space. Compared with sentence-transformers and plain transformers."""

import json
import random

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from retort.errors import ModelError, NotFoundError
from retort.models.dual_encoder import DualEncoder, passage_space
from retort.models.fakes import tiny_encoder
from retort.models.packed import PackedLinear, can_lay_out, pack
from retort.models.tokenising import UnencodableTextError

TEXTS = ["read the file", "", "what is this " * 30, "path", "日本語 text", "one two up use"]


@pytest.fixture
def folder(tmp_path):
    return tiny_encoder(tmp_path / "encoder")


def load(folder, **settings):
    return DualEncoder.load(folder, device="cpu", precision="fp32", **settings)


def test_vectors_are_float32_contiguous_unit_and_in_order(folder):
    encoder = load(folder)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.flags["C_CONTIGUOUS"]
    assert vectors.shape == (len(TEXTS), encoder.dimension)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert np.abs(vectors - alone).max() < 1e-5


def test_a_text_has_the_same_vector_in_any_batch(folder):
    encoder = load(folder)
    expected = encoder.encode(["read the file"])[0]
    for seed in range(5):
        others = [" ".join(["list", "value", "x"] * random.Random(seed + i).randint(0, 15)) for i in range(20)]
        for budget in (16, 200, 5000):
            found = encoder.encode([*others, "read the file"], token_budget=budget)[-1]
            assert np.abs(found - expected).max() < 1e-5


def test_many_texts_go_through_in_chunks(folder, monkeypatch):
    monkeypatch.setattr("retort.models.dual_encoder.TEXTS_AT_ONCE", 3)
    encoder = load(folder)
    texts = [f"file {i}" for i in range(8)]
    done = []

    class Counter:
        def update(self, advance=1, *, note=None):
            done.append(advance)

    vectors = encoder.encode(texts, progress=Counter())
    assert sum(done) == 8
    assert np.abs(vectors - np.concatenate([encoder.encode([text]) for text in texts])).max() < 1e-5
    with pytest.raises(UnencodableTextError) as caught:
        encoder.encode([*texts[:4], "\ud800"])
    assert caught.value.index == 4


def test_no_texts_give_no_vectors(folder):
    assert load(folder).encode([]).shape == (0, 32)


@pytest.mark.parametrize(("pooling", "normalise"), [("mean", True), ("cls", True), ("mean", False)])
def test_sentence_transformers_and_transformers_give_the_same_vectors(tmp_path, pooling, normalise):
    from sentence_transformers import SentenceTransformer

    prefixes = {"query": "query: ", "passage": "passage: "}
    folder = tiny_encoder(tmp_path / "e", pooling=pooling, normalise=normalise, prefixes=prefixes, max_tokens=24)
    encoder = load(folder)
    assert (encoder.pooling, encoder.normalise, encoder.prefixes) == (pooling, normalise, prefixes)
    peer = SentenceTransformer(str(folder), device="cpu")
    assert peer.max_seq_length == 24
    assert peer.similarity_fn_name == ("cosine" if normalise else "dot")
    for side, prompt, call in (("query", "query: ", peer.encode_query), ("passage", "passage: ", peer.encode_document)):
        ours = encoder.encode(TEXTS, side)
        assert np.abs(ours - call(TEXTS)).max() < 1e-5
        model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        batch = tokenizer([prompt + text for text in TEXTS], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        vectors = (states * mask).sum(1) / mask.sum(1) if pooling == "mean" else states[:, 0]
        if normalise:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        assert np.abs(ours - vectors.numpy()).max() < 1e-5


def test_reads_what_sentence_transformers_writes(tmp_path, folder):
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(folder), device="cpu", prompts={"query": "ask: ", "document": "doc: "})
    peer.max_seq_length = 20
    peer.save(str(tmp_path / "theirs"))
    encoder = load(tmp_path / "theirs")
    assert encoder.prefixes == {"query": "ask: ", "passage": "doc: "}
    assert encoder.max_tokens == {"query": 20, "passage": 20}
    assert np.abs(encoder.encode(TEXTS, "query") - peer.encode_query(TEXTS)).max() < 1e-5


def test_a_plain_model_is_mean_pooled_and_normalised_unless_said(tmp_path, folder):
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "plain")
    assert np.array_equal(load(tmp_path / "plain").encode(TEXTS), load(folder).encode(TEXTS))
    other = load(tmp_path / "plain", pooling="cls", normalise=False, max_tokens={"query": 5})
    assert (other.pooling, other.normalise, other.max_tokens) == ("cls", False, {"query": 5, "passage": 64})
    assert len(other.tokenize(["a " * 50], "query")[0]) == 5


def test_saved_encoder_is_the_same_encoder(tmp_path, folder):
    encoder = load(folder, max_tokens={"query": 10}, prefixes={"query": "q: "})
    encoder.save(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.layout == encoder.layout
    assert np.array_equal(again.encode(TEXTS, "query"), encoder.encode(TEXTS, "query"))
    assert AutoModel.from_pretrained(tmp_path / "again").pooler is not None  # kept aside, not lost


def test_gradients_reach_every_weight(folder):
    encoder = load(folder).train()
    ids = torch.tensor(encoder.tokenize(["read the file"], "query"))
    states, vectors = encoder(ids, torch.ones_like(ids))
    assert states.shape == (1, ids.shape[1], 32)
    (vectors * torch.arange(32)).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    before = encoder.training
    encoder.encode(["x"])
    assert encoder.training == before


def test_bf16_training_on_a_cpu_takes_plain_attention_and_agrees_with_float32(folder):
    from retort.models import attention
    from retort.models.backend import autocast

    encoder = load(folder)
    ids = torch.tensor(encoder.tokenize(["read the file", "open the path"], "query"))
    mask = torch.ones_like(ids)
    mask[1, -1] = 0
    expected = encoder(ids, mask)[1]
    calls = []
    original = attention._eager
    attention._eager = lambda *a: calls.append(1) or original(*a)
    try:
        with autocast("bf16", "cpu"):
            vectors = encoder(ids, mask)[1]
    finally:
        attention._eager = original
    assert calls == [1, 1]
    vectors.sum().backward()
    assert (vectors - expected).abs().max() < 0.02


def test_words_of_tokens_leave_the_prefix_out(folder):
    encoder = load(folder, prefixes={"passage": "what: "})
    ((ids, words),) = encoder.tokenize_words(["read file"], "passage")
    assert encoder.tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "what", ":", "read", "file", "[SEP]"]
    assert words.tolist() == [[0, 0], [0, 0], [0, 0], [0, 1], [1, 2], [0, 0]]


def test_float16_weights_load_as_float32(tmp_path, folder):
    half = AutoModel.from_pretrained(folder, dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "half")
    encoder = load(tmp_path / "half")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    encoder.save(tmp_path / "full")
    assert passage_space(tmp_path / "half") == passage_space(tmp_path / "full")


class TestPassageSpace:
    def test_survives_saving_and_query_side_settings(self, tmp_path, folder):
        space = passage_space(folder)
        assert len(space) == 64
        encoder = load(folder, prefixes={"query": "q: "}, max_tokens={"query": 9})
        encoder.save(tmp_path / "b")
        assert passage_space(tmp_path / "b") == space

    @pytest.mark.parametrize(
        "change",
        [{"pooling": "cls"}, {"normalise": False}, {"prefixes": {"passage": "p: "}}, {"max_tokens": {"passage": 30}}],
    )
    def test_changes_with_what_changes_passage_vectors(self, folder, change):
        assert load(folder, **change).passage_space != passage_space(folder)

    def test_changes_with_one_bit_of_one_weight(self, folder):
        encoder = load(folder)
        before = encoder.passage_space
        with torch.no_grad():
            weight = encoder.model.embeddings.word_embeddings.weight
            weight[3, 3] = torch.nextafter(weight[3, 3], torch.tensor(10.0))
        assert encoder.passage_space != before

    def test_a_query_encoder_keeps_its_bases(self, tmp_path, folder):
        encoder = load(folder)
        space = encoder.passage_space
        with torch.no_grad():
            encoder.model.embeddings.word_embeddings.weight.mul_(1.01)
        encoder.save(tmp_path / "tuned", passage_space=space)
        tuned = load(tmp_path / "tuned")
        assert tuned.passage_space == space
        assert tuned.own_space() != space


class TestRefuses:
    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(NotFoundError, match="no model folder"):
            load(tmp_path / "nowhere")

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(ModelError, match=r"no config\.json"):
            load(tmp_path)

    def test_pickled_weights(self, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"safetensors.*pytorch_model\.bin"):
            load(folder)

    def test_damaged_weights(self, folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ModelError, match="cannot be loaded"):
            load(folder)

    def test_weights_that_are_missing(self, folder):
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        del tensors["encoder.layer.1.output.dense.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"lacks weights.*encoder\.layer\.1\.output\.dense\.weight"):
            load(folder)

    def test_weights_of_another_shape(self, folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 100}))
        with pytest.raises(ModelError):
            load(folder)

    def test_damaged_settings(self, folder):
        (folder / "sentence_bert_config.json").write_text("{")
        with pytest.raises(ModelError, match=r"sentence_bert_config\.json is not JSON"):
            load(folder)

    def test_other_poolings_and_layers(self, folder):
        settings = {"pooling_mode": "lasttoken", "embedding_dimension": 32}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
        with pytest.raises(ModelError, match="'lasttoken'.*cls, mean"):
            load(folder)
        modules = json.loads((folder / "modules.json").read_text())
        modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
        (folder / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(ModelError):
            load(folder)


def test_the_multilingual_model_of_the_project_loads(shared_data):
    folder = shared_data / "models" / "minilm-l6-multilingual"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}: this test needs it")
    vectors = load(folder).encode(
        ["The cat sits on the roof.", "Die Katze sitzt auf dem Dach.", "Le prix du pétrole monte."]
    )
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


has_bf16 = can_lay_out(torch.bfloat16)


@pytest.mark.skipif(has_bf16, reason="this processor has bfloat16 products: the test below packs them")
def test_where_torch_cannot_lay_weights_out_packing_changes_nothing(folder, tmp_path):
    encoder = DualEncoder.load(folder, device="cpu", precision="bf16")
    before = encoder.encode(TEXTS)
    assert np.array_equal(encoder.pack().encode(TEXTS), before)
    encoder.save(tmp_path / "out")
    assert encoder.train() is encoder and encoder.own_space() == DualEncoder.load(tmp_path / "out").own_space()


@pytest.mark.parametrize(
    "precision",
    [
        "fp32",
        pytest.param("bf16", marks=pytest.mark.skipif(not has_bf16, reason="no bfloat16 products on this processor")),
    ],
)
def test_a_packed_encoder_gives_the_same_vectors_and_can_only_encode(folder, tmp_path, precision):
    plain = DualEncoder.load(folder, device="cpu", precision=precision)
    packed = DualEncoder.load(folder, device="cpu", precision=precision).pack()
    whole = sum(weights.numel() for weights in plain.parameters())
    assert sum(weights.numel() for weights in packed.parameters()) < whole, "the weights are not kept twice"
    assert np.abs(packed.encode(TEXTS) - plain.encode(TEXTS)).max() <= (1e-2 if precision == "bf16" else 1e-6)
    again = packed.encode(TEXTS)
    assert packed.pack() is packed and packed.use_padding(False)
    assert np.array_equal(packed.encode(TEXTS), again)
    for forbidden in (
        packed.train,
        packed.own_space,
        lambda: packed.save(tmp_path / "out"),
        lambda: packed.use_backend("onnx"),
        lambda: packed(torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64)),
    ):
        with pytest.raises(AssertionError, match="load the encoder again"):
            forbidden()
    assert not (tmp_path / "out").exists()


def test_packed_for_queries_its_vectors_stay_those_of_the_passages_encoder(folder):
    """Whatever this machine keeps the weights in for queries: nearer than bfloat16's rounding, which any precision "auto" may have."""
    plain, packed = (DualEncoder.load(folder, device="cpu", precision="fp32") for _ in range(2))
    expected, found = plain.encode(TEXTS, "query"), packed.pack(for_queries=True).encode(TEXTS, "query")
    assert np.abs(found - expected).max() <= 1e-3
    assert np.array_equal(packed.encode(TEXTS, "query"), found)


def test_an_encoder_in_another_backend_or_without_padding_is_not_packed(folder):
    for encoder in (load(folder, backend="onnx"), load(folder)):
        encoder.use_padding(encoder.backend == "onnx")
        encoder.pack()
        assert encoder.own_space(), "its weights are still there"


def test_layers_in_two_places_are_packed_once_and_others_than_linear_stay():
    shared = torch.nn.Linear(8, 8, bias=False)
    model = torch.nn.Sequential(shared, torch.nn.GELU(), torch.nn.Sequential(shared, torch.nn.LayerNorm(8)))
    values = torch.randn(2, 3, 8)
    expected = model(values)
    assert pack(model, "fp32")
    assert (
        model[0] is model[2][0] and isinstance(model[0], PackedLinear) and isinstance(model[2][1], torch.nn.LayerNorm)
    )
    assert torch.allclose(model(values), expected, atol=1e-6)
