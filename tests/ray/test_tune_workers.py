"""Two processes over gloo, without Ray: their gradients, and after a few steps their weights, are those of one with the whole batch."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch

from retort.store import Artefact, open_store
from retort.tuning.fakes import publish_two_languages, small_course, small_trainer

STEPS = 4
COURSES = {
    "triplet": {},
    "infonce": {"loss": "infonce"},
    "uneven": {"batch_queries": 7, "forward_tokens": 24},
    "clipped": {"clip_norm": 0.05, "master": "kahan"},
    "fewer than workers": {"batch_queries": 1},
}

# What each of two processes does: some steps of each course; its first gradients, its losses and its weights saved.
WORKER = f"""
import json, pickle, sys
import torch, torch.distributed as dist
from pathlib import Path
from retort.tuning.fakes import small_course, small_trainer
torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{{folder}}/meet", rank=rank, world_size=2)
world, courses = pickle.loads((folder / "world.pickle").read_bytes())
out = {{}}
for name, changes in courses.items():
    with small_trainer(world, small_course(look_at=(), **changes), rank=rank, workers=2) as trainer:
        losses = [trainer.step()["loss"]]
        grads = {{n: p.grad.clone() for n, p in trainer._encoder.model.named_parameters() if p.grad is not None}}
        losses += [trainer.step()["loss"] for _ in range({STEPS - 1})]
        out[name] = (losses, grads, {{n: p.detach().clone() for n, p in trainer._encoder.model.named_parameters()}})
torch.save(out, folder / f"out{{rank}}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Artefact], list[dict]]:
    folder = tmp_path_factory.mktemp("two")
    # Its own store: the per-test one goes away between the tests of this module.
    os.environ["RETORT_CACHE"] = str(folder / "cache")
    world = publish_two_languages(open_store(str(folder / "store")), folder / "base")
    (folder / "world.pickle").write_bytes(pickle.dumps((world, COURSES)))
    environment = {**os.environ, "RETORT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(folder)], env=environment) for rank in (0, 1)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    return world, [torch.load(folder / f"out{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", COURSES)
def test_two_workers_take_the_steps_of_one(two: tuple[dict[str, Artefact], list[dict]], name: str) -> None:
    world, outs = two
    changes = {**COURSES[name], "forward_tokens": 10_000}
    with small_trainer(world, small_course(look_at=(), **changes)) as alone:
        losses = [alone.step()["loss"]]
        gradients = {n: p.grad.clone() for n, p in alone._encoder.model.named_parameters() if p.grad is not None}
        losses += [alone.step()["loss"] for _ in range(STEPS - 1)]
        weights = {n: p.detach() for n, p in alone._encoder.model.named_parameters()}
    rate = small_course().learning_rate
    for theirs, their_gradients, their_weights in (out[name] for out in outs):
        assert theirs == pytest.approx(losses, rel=2e-3)
        assert their_gradients.keys() == gradients.keys()
        # Of the largest gradient: some are zero but for rounding (a key's bias has no effect on attention).
        largest = max(float(value.abs().max()) for value in gradients.values())
        for key, value in gradients.items():
            torch.testing.assert_close(their_gradients[key], value, rtol=0, atol=1e-5 * largest, msg=key)
        # And Adam makes whole steps of such gradients, so of single weights no more can be asked than their sum; of most it can.
        distances = torch.cat([(their_weights[key] - value).abs().reshape(-1) for key, value in weights.items()])
        assert float(distances.max()) <= 2 * STEPS * rate * 1.01
        assert float((distances < 0.02 * rate).float().mean()) > 0.97
    assert all(torch.equal(outs[0][name][2][key], outs[1][name][2][key]) for key in weights), (
        "the workers agree to the bit"
    )
