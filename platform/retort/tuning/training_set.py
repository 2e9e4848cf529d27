"""What a step of tuning reads: query tokens and row numbers of stored passage vectors, as memory-mapped arrays.

    NAME.npy                  flat arrays; lists of different lengths are NAME.values.npy and NAME.offsets.npy
    queries.json              ids of the training queries

Made once per run by `prepare.py`; the vectors themselves are those of the embeddings artefact (`indexing.vectors`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retort.distillation.training_set import Lists
from retort.errors import CorruptError

__all__ = ["TrainingSet"]

_IDS = "queries.json"


@dataclass(frozen=True)
class TrainingSet:
    """Arrays of one run; `tokens[i]`, `positives[i]`, ... belong to training query i and hold rows of the vectors."""

    query_ids: list[str]
    tokens: Lists  # token ids, with prefix and special tokens
    positives: Lists  # labelled relevant, all in one language, which is the query's `language`
    known: Lists  # never a negative: every passage labelled relevant, in any language
    negatives: Lists  # mined, best first
    judged: Lists  # passages that the teacher judged; all empty without one
    scores: NDArray[np.float32]  # [len(judged.values)] teacher logits
    trust: NDArray[np.float32]  # [len(judged.values)] in [0, 1]
    language: NDArray[np.int32]  # [queries] code of the positives' language
    passage_language: NDArray[np.int32]  # [passages] code of each passage's language
    by_language: NDArray[np.int32]  # [passages] rows, language after language
    starts: NDArray[np.int64]  # [languages + 1] where each language begins in `by_language`

    def __len__(self) -> int:
        return len(self.query_ids)

    def save(self, folder: Path) -> None:
        """Write all files under `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in vars(self).items():
            if isinstance(value, Lists):
                np.save(folder / f"{name}.values.npy", value.values)
                np.save(folder / f"{name}.offsets.npy", value.offsets)
            elif name != "query_ids":
                np.save(folder / f"{name}.npy", value)
        (folder / _IDS).write_text(json.dumps(self.query_ids), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> TrainingSet:
        """Map the files under `folder`; CorruptError where one is missing or cannot be read."""
        values: dict[str, Any] = {}
        try:
            values["query_ids"] = json.loads((folder / _IDS).read_text(encoding="utf-8"))
            for name, kind in cls.__annotations__.items():
                if kind == "Lists":
                    values[name] = Lists(
                        _mapped(folder / f"{name}.values.npy"), _mapped(folder / f"{name}.offsets.npy")
                    )
                elif name != "query_ids":
                    values[name] = _mapped(folder / f"{name}.npy")
        except (OSError, ValueError) as error:
            raise CorruptError(
                f"The training set in {folder} cannot be read: {error}. Delete the folder and run the same command again."
            ) from None
        return cls(**values)


def _mapped(path: Path) -> NDArray[Any]:
    """A plain array over the mapped file: numpy's memmap class is slow to index. Empty files cannot be mapped."""
    try:
        return np.asarray(np.load(path, mmap_mode="r"))
    except ValueError:
        return np.asarray(np.load(path))
