"""A small retrieval test that training runs now and then: dev queries against a pool of passages, MRR@10.

The pool holds the positives, the best candidates of each dev query where there are any (what could be mistaken for the
answer), and random passages up to its size. It is small, so its figures are higher than those over the whole corpus; it
is there to compare checkpoints with each other and with the base, all of which see the same pool.

Neighbours: `prepare.py` makes the pool, `trainer.py` evaluates on it, `evaluation/` measures whole systems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from retort.distillation.gather import gather_rows
from retort.distillation.training_set import Lists, lists_of
from retort.metrics.measures import evaluate
from retort.models.dual_encoder import DualEncoder

__all__ = ["DEV_FILE", "MEASURE", "DevPool"]

MEASURE = "mrr@10"
DEV_FILE = "dev.arrow"
TOP = 100  # hits kept per query


@dataclass(frozen=True)
class DevPool:
    """Tokenised dev queries and pool; `positives[i]` are pool rows of query i."""

    queries: Lists
    passages: Lists
    positives: Lists

    def __len__(self) -> int:
        return len(self.queries)

    def evaluate(self, encoder: DualEncoder, rank: int = 0, world: int = 1) -> float:
        """MRR@10; the workers share the encoding, and every one of them gets the same number."""
        queries = self._vectors(encoder, self.queries, rank, world)  # [queries, dim]
        passages = self._vectors(encoder, self.passages, rank, world)  # [pool, dim]
        top = (queries @ passages.T).topk(min(TOP, len(self.passages)), dim=1)  # [queries, top]
        run = {
            str(i): {str(row): float(score) for row, score in zip(rows, scores, strict=True)}
            for i, (rows, scores) in enumerate(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        }
        qrels = {str(i): {str(row): 1 for row in self.positives[i].tolist()} for i in range(len(self))}
        values = evaluate(run, qrels, (MEASURE,))[MEASURE].values()
        return float(sum(values)) / len(self)

    def _vectors(self, encoder: DualEncoder, texts: Lists, rank: int, world: int) -> Tensor:
        mine = np.arange(rank, len(texts), world)
        rows: Sequence[NDArray[np.int32]] = [texts[int(i)] for i in mine]
        vectors = torch.from_numpy(encoder.encode_tokens([row.tolist() for row in rows])).to(encoder.device)
        with torch.no_grad():
            gathered = gather_rows(vectors)  # rank after rank
        order = np.concatenate([np.arange(r, len(texts), world) for r in range(world)])
        back = torch.from_numpy(np.argsort(order)).to(gathered.device)
        return gathered[back].cpu()

    def save(self, folder: Path) -> None:
        """Write the file under `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        kinds = ["query"] * len(self.queries) + ["passage"] * len(self.passages)
        empty = [np.zeros(0, dtype=np.int32)] * len(self.passages)
        table = pa.table(
            {
                "kind": kinds,
                "tokens": [
                    *(self.queries[i] for i in range(len(self.queries))),
                    *(self.passages[i] for i in range(len(self.passages))),
                ],
                "positives": [*(self.positives[i] for i in range(len(self.positives))), *empty],
            },
            schema=pa.schema(
                [("kind", pa.string()), ("tokens", pa.list_(pa.int32())), ("positives", pa.list_(pa.int32()))]
            ),
        )
        with pa.OSFile(str(folder / DEV_FILE), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    @classmethod
    def open(cls, folder: Path) -> DevPool:
        """Read the file under `folder`."""
        with pa.memory_map(str(folder / DEV_FILE)) as source:
            table = pa.ipc.open_file(source).read_all()
        kinds = np.array(table.column("kind").to_pylist(), dtype=object)
        tokens = table.column("tokens").to_pylist()
        positives = table.column("positives").to_pylist()
        queries, passages = np.flatnonzero(kinds == "query"), np.flatnonzero(kinds == "passage")
        return cls(
            queries=lists_of([tokens[i] for i in queries]),
            passages=lists_of([tokens[i] for i in passages]),
            positives=lists_of([positives[i] for i in queries]),
        )
