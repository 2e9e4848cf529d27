"""What two workers send each other in one step, counted at torch's own collectives; started twice by `training.py`.

    python benchmarks/training_bytes.py RANK FOLDER STEPS     rank 0 prints JSON: bytes of gradients and of vectors per step

FOLDER holds `world.pickle` (what `training.py` trains with). Gradients are counted by a communication hook of
DistributedDataParallel, vectors and counts where `gather.py` calls torch.distributed.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

from retort.resources import limit_threads, share_the_machine


def main() -> None:
    share_the_machine()
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from training import bare_trainer

    rank, folder, steps = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    limit_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    sent = {"gradients": 0, "vectors": 0}
    gather, reduce = dist.all_gather, dist.all_reduce

    def counted_gather(into: Any, mine: Any, *given: Any, **named: Any) -> Any:
        sent["vectors"] += mine.nbytes
        return gather(into, mine, *given, **named)

    def counted_reduce(mine: Any, *given: Any, **named: Any) -> Any:
        sent["vectors"] += mine.nbytes
        return reduce(mine, *given, **named)

    def counted_hook(state: Any, bucket: Any) -> Any:
        sent["gradients"] += bucket.buffer().nbytes
        return allreduce_hook(state, bucket)

    dist.all_gather, dist.all_reduce = counted_gather, counted_reduce
    settings = pickle.loads((folder / "world.pickle").read_bytes())  # written by training.py a moment ago
    with bare_trainer(settings, rank=rank, world=2) as trainer:
        trainer._towers.register_comm_hook(None, counted_hook)
        for _ in range(steps):
            trainer.step()
    if rank == 0:
        print(json.dumps({name: value / steps for name, value in sent.items()}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
