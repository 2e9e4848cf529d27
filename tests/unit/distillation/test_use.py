"""A trained student, loaded as anyone would: sentence-transformers and transformers alone give our vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from retort.distillation.fakes import small_course, small_trainer
from retort.models.dual_encoder import DualEncoder
from retort.models.fakes import tiny_encoder
from retort.store import Artefact
from retort.teaching.fakes import SMALL_WORDS

TEXTS = ["amber birch", "the river of stone", "amber"]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_and_auto_model_give_the_same_vectors(
    world: dict[str, Artefact], tmp_path: Path, pooling: str
) -> None:
    tiny_encoder(tmp_path / "pooled", SMALL_WORDS, pooling=pooling)
    base = DualEncoder.load(tmp_path / "pooled", device="cpu", precision="fp32")
    with small_trainer(world, tmp_path / "pooled", small_course()) as trainer:
        trainer.step()
        trainer._student.save(tmp_path / "student")
    ours = DualEncoder.load(tmp_path / "student", device="cpu", precision="fp32").encode(TEXTS)
    assert not np.allclose(ours, base.encode(TEXTS), atol=1e-4), "a step was done"

    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    theirs = SentenceTransformer(str(tmp_path / "student"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(tmp_path / "student").eval()(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = states[:, 0] if pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(torch.nn.functional.normalize(pooled, dim=1).numpy(), ours, atol=1e-5)
