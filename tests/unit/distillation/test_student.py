"""A smaller student is some of the base's layers, and loads like any encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from retort.distillation.student import initial_student, keep_layers
from retort.errors import ConfigError
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder


@pytest.mark.parametrize(("layers", "kept"), [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (6, [0, 1, 2, 3, 4, 5])])
def test_first_last_and_evenly_between(tmp_path: Path, layers: int, kept: list[int]) -> None:
    tiny_encoder(tmp_path / "base", layers=6)
    base = DualEncoder.load(tmp_path / "base", device="cpu", precision="fp32")
    student = initial_student(tmp_path / "base", layers=layers, precision="fp32", device="cpu")
    mine, theirs = student.model.encoder.layer, base.model.encoder.layer
    assert len(mine) == layers
    for one, number in zip(mine, kept, strict=True):
        assert torch.equal(one.attention.self.query.weight, theirs[number].attention.self.query.weight)


def test_a_smaller_student_is_saved_and_loaded(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "base", layers=4)
    student = initial_student(tmp_path / "base", layers=2, precision="fp32", device="cpu")
    student.save(tmp_path / "small")
    again = DualEncoder.load(tmp_path / "small", device="cpu", precision="fp32")
    assert np.allclose(again.encode(["read the file"]), student.encode(["read the file"]), atol=1e-6)
    assert again.passage_space != DualEncoder.load(tmp_path / "base", device="cpu").passage_space


def test_more_layers_than_there_are_is_an_error(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "base")
    with pytest.raises(ConfigError, match="layers is 7: the base has 2"):
        keep_layers(DualEncoder.load(tmp_path / "base", device="cpu"), 7)
