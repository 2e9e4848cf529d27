"""The fakes' answers, checked by hand."""

import numpy as np
import pytest

from retort.models.cross_encoder import CrossEncoder
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import FakeCrossEncoder, FakeEncoder, tiny_cross_encoder, tiny_encoder
from retort.models.tokenising import UnencodableTextError


def test_fake_vectors_are_bags_of_words():
    encoder = FakeEncoder(dimension=256)
    vectors = encoder.encode(["Read the FILE", "file the read", "write", ""])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[0] @ vectors[1] == pytest.approx(1)
    assert abs(vectors[0] @ vectors[2]) < 0.5
    assert vectors.dtype == np.float32
    with pytest.raises(UnencodableTextError):
        encoder.encode(["\ud800"])


def test_fake_spaces_differ_with_what_changes_vectors():
    assert FakeEncoder().passage_space == FakeEncoder(prefixes={"query": "q"}).passage_space
    assert (
        len({FakeEncoder().passage_space, FakeEncoder(32).passage_space, FakeEncoder(normalise=False).passage_space})
        == 3
    )


def test_fake_teacher_counts_shared_words_and_maps_equal_ones():
    verdicts = FakeCrossEncoder().judge([("read a file", "file, read it: file"), ("x", "y")])
    assert verdicts.scores.tolist() == [2.0, 0.0]
    assert verdicts.windows.tolist() == [0, 0]
    forward, backward = verdicts.word_maps[0].dense()
    assert forward.tolist() == [[0, 1, 0, 0], [0.25] * 4, [0.5, 0, 0, 0.5]]
    assert np.allclose(backward, [[0, 0, 1], [1, 0, 0], [1 / 3] * 3, [0, 0, 1]])


def test_tiny_models_are_the_same_each_time(tmp_path):
    one, two = (DualEncoder.load(tiny_encoder(tmp_path / name, ["quick"]), device="cpu") for name in "ab")
    assert one.passage_space == two.passage_space
    assert one.tokenizer.tokenize("quick brown") == ["quick", "b", "##r", "##o", "##w", "##n"]
    teachers = [CrossEncoder.load(tiny_cross_encoder(tmp_path / name), device="cpu") for name in "cd"]
    assert teachers[0].score([("read", "file")]) == teachers[1].score([("read", "file")])
