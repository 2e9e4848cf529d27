"""ONNX Runtime against torch on the same small weights."""

import numpy as np
import pytest
import torch

from retort.errors import ConfigError
from retort.models import fakes
from retort.models.cross_encoder import CrossEncoder
from retort.models.dual_encoder import DualEncoder
from retort.models.onnx_graph import check_backend, faster_backend, onnx_graph, weights_digest

TEXTS = ["a", "the quick brown fox", "", "jumps over the lazy dog and runs away", "one two three"] * 3


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("graphs"))


@pytest.fixture(autouse=True)
def one_cache(cache, monkeypatch):
    """Exported once for the module: an export takes some seconds."""
    monkeypatch.setenv("RETORT_CACHE", cache)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return fakes.tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory):
    return fakes.tiny_cross_encoder(tmp_path_factory.mktemp("teacher"))


def test_vectors_are_those_of_torch(encoder_folder):
    encoder = DualEncoder.load(encoder_folder, device="cpu", precision="fp32")
    expected = encoder.encode(TEXTS)
    assert encoder.use_backend("onnx") == "onnx"
    assert np.allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    assert np.allclose(encoder.encode(TEXTS[:1]), expected[:1], atol=1e-5)


def test_eight_bits_are_close(encoder_folder):
    encoder = DualEncoder.load(encoder_folder, device="cpu", precision="fp32")
    expected = encoder.encode(TEXTS)
    encoder.use_backend("onnx-int8")
    found = encoder.encode(TEXTS)
    assert not np.array_equal(found, expected)
    assert (found * expected).sum(axis=1).min() > 0.98


def test_scores_are_those_of_torch(teacher_folder):
    teacher = CrossEncoder.load(teacher_folder, device="cpu", precision="fp32")
    pairs = [(TEXTS[i], TEXTS[(i * 2 + 1) % 5]) for i in range(10)]
    expected = teacher.score(pairs)
    teacher.use_backend("onnx")
    assert np.allclose(teacher.score(pairs), expected, atol=1e-5)
    assert len(teacher.judge(pairs).word_maps) == 10


@pytest.mark.parametrize("labels", [1, 2])
def test_a_head_of_few_logits_is_quantised_too(labels, tmp_path):
    teacher = CrossEncoder.load(fakes.tiny_cross_encoder(tmp_path, labels=labels), device="cpu", precision="fp32")
    pairs = [(TEXTS[i], TEXTS[(i * 2 + 1) % 5]) for i in range(10)]
    expected = teacher.score(pairs)
    teacher.use_backend("onnx-int8")
    assert np.abs(teacher.score(pairs) - expected).max() < 0.1 * np.ptp(expected) + 0.05


def test_training_leaves_the_graph_behind(encoder_folder):
    encoder = DualEncoder.load(encoder_folder, device="cpu", precision="fp32")
    encoder.use_backend("onnx")
    before = encoder.encode(TEXTS)
    encoder.train()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    encoder.eval()
    assert not np.allclose(encoder.encode(TEXTS), before, atol=1e-3)


def test_a_graph_is_exported_once(encoder_folder, monkeypatch):
    model = DualEncoder.load(encoder_folder, device="cpu", precision="fp32").model
    onnx_graph(model, "last_hidden_state")
    monkeypatch.setattr("retort.models.onnx_graph._export", lambda *_: pytest.fail("exported again"))
    onnx_graph(model, "last_hidden_state")


def test_other_weights_are_another_graph(encoder_folder):
    model = DualEncoder.load(encoder_folder, device="cpu", precision="fp32").model
    before = weights_digest(model, "last_hidden_state", False)
    with torch.no_grad():
        next(model.parameters())[0] += 1e-3
    assert weights_digest(model, "last_hidden_state", False) != before


def test_the_faster_backend_is_measured_once(encoder_folder, monkeypatch):
    model = DualEncoder.load(encoder_folder, device="cpu", precision="fp32").model
    chosen = faster_backend(model, "last_hidden_state")
    assert chosen in ("torch", "onnx")
    monkeypatch.setattr("retort.models.onnx_graph._compare", lambda *_: pytest.fail("measured again"))
    assert faster_backend(model, "last_hidden_state") == chosen


def test_a_backend_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="'torch', 'onnx', 'onnx-int8'"):
        check_backend("tensorrt", torch.device("cpu"))
    with pytest.raises(ConfigError, match="Use torch there"):
        check_backend("onnx", torch.device("cuda"))


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="onnxruntime, onnx, onnxscript"):
        check_backend("onnx", torch.device("cpu"))
