"""Two processes over gloo, without Ray: gathered negatives and gradient caching give the gradients of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from retort.distillation.fakes import publish_judgements, small_course, small_trainer, small_training_set
from retort.models.fakes import tiny_encoder
from retort.store import Artefact, open_store
from retort.teaching.fakes import SMALL_WORDS, publish_small_world

# What each of two processes does: the first steps of each course; losses, gradients and numbers of chunks are saved.
# A collective that the other process does not take part in ends after a minute.
WORKER = """
import json, os, pickle, sys
import torch, torch.distributed as dist
from datetime import timedelta
from pathlib import Path
from retort.distillation.fakes import small_course, small_trainer
from retort.distillation.gather import gather_rows
from retort.models.backend import shared_precision
torch.set_num_threads(1)
rank, folder, courses = int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60))
world = pickle.loads((folder / "world.pickle").read_bytes())
out = {}
for name, changes in courses.items():
    with small_trainer(world, folder / "base", small_course(**changes), rank=rank, workers=2) as trainer:
        out[name] = []
        for step in range(3):
            chunks = len(trainer._collator(trainer._sampler.batch(step, rank, 2)).chunks)
            report = trainer.step()
            grads = {n: p.grad.clone() for n, p in trainer._student.model.named_parameters() if p.grad is not None}
            out[name].append((report["loss"], grads, chunks))
out["precision"] = shared_precision(torch.device("cpu"), ("bf16", "fp32")[rank])
# Rows of unequal numbers, and a loss that weighs them all.
x = torch.arange(2 * (2 + rank), dtype=torch.float32).reshape(-1, 2).requires_grad_()
gathered = gather_rows(x)
(gathered.square().sum() * (rank + 1)).backward()
out["gather"] = (gathered.detach(), x.grad)
torch.save(out, folder / f"out{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""

# No clipping: it would hide a wrong scale. At a rate of 0 the weights stay equal to the last bit, so that later steps can be compared too.
STILL = {"clip_norm": 1e9, "learning_rate": 0.0}
COURSES = {
    "plain": STILL,
    "cached": {**STILL, "chunk_tokens": 80, "forward_tokens": 60},
    "own": {**STILL, "pool": "own", "sentence_loss": "margin"},
    "uneven": {**STILL, "batch_queries": 7, "chunk_tokens": 80},
    "mixed": {**STILL, "chunk_tokens": 154},
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Artefact], list[dict]]:
    import pickle

    folder = tmp_path_factory.mktemp("two")
    # Its own store: the per-test one goes away between the tests of this module.
    os.environ["RETORT_CACHE"] = str(folder / "cache")
    tiny_encoder(folder / "base", SMALL_WORDS)
    store = open_store(str(folder / "store"))
    world = publish_small_world(store, passages=40, queries=32, per_part=8, depth=8)
    world = {**world, "judgements": publish_judgements(store, world)}
    (folder / "world.pickle").write_bytes(pickle.dumps(world))
    environment = {**os.environ, "RETORT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(folder), json.dumps(COURSES)], env=environment)
        for rank in (0, 1)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    return folder, world, [torch.load(folder / f"out{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", COURSES)
def test_two_processes_have_the_gradients_of_one(two: tuple[Path, dict[str, Artefact], list[dict]], name: str) -> None:
    folder, world, outs = two
    changes = {**COURSES[name], "chunk_tokens": 100_000}
    with small_trainer(
        world, folder / "base", small_course(**changes), data=small_training_set(world, folder / "base")[0]
    ) as alone:
        for step in range(3):
            report = alone.step()
            expected = {n: p.grad for n, p in alone._student.model.named_parameters() if p.grad is not None}
            for loss, gradients, _ in (out[name][step] for out in outs):
                assert loss == pytest.approx(report["loss"], rel=1e-5)
                assert gradients.keys() == expected.keys()
                # Of the largest gradient: some are zero but for rounding (a key's bias has no effect on attention).
                largest = max(float(value.abs().max()) for value in expected.values())
                for key, value in expected.items():
                    torch.testing.assert_close(gradients[key], value, rtol=0, atol=1e-5 * largest, msg=key)


def test_one_chunk_beside_several_is_among_what_was_compared(two: tuple[Path, dict[str, Artefact], list[dict]]) -> None:
    """Data parallelism orders its buckets anew in the second step; both workers must come to that after the same collectives."""
    _, _, outs = two
    counts = [[chunks for _, _, chunks in out["mixed"]] for out in outs]
    assert counts[0][0] == counts[1][0] == 1 and (counts[0][1] == 1) != (counts[1][1] == 1)


def test_workers_agree_on_what_all_of_them_are_fast_with(two: tuple[Path, dict[str, Artefact], list[dict]]) -> None:
    assert [out["precision"] for out in two[2]] == ["fp32", "fp32"]


def test_gathered_rows_come_from_everybody_and_gradients_go_home(
    two: tuple[Path, dict[str, Artefact], list[dict]],
) -> None:
    """Loss of rank r: (r + 1) * sum of squares of all rows; so the gradient of a row x is (1 + 2) * 2x wherever it lies."""
    _, _, outs = two
    mine = [torch.arange(4.0).reshape(-1, 2), torch.arange(6.0).reshape(-1, 2)]
    for rank, out in enumerate(outs):
        gathered, gradient = out["gather"]
        assert torch.equal(gathered, torch.cat(mine))
        assert torch.equal(gradient, 6 * mine[rank])
