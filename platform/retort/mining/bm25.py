"""BM25 over the words of `corpus/words.py`, by the bm25s library: scores are computed when the index is built, a search adds them up.

    Bm25.build(corpus)          in memory; Bm25.of(ids, texts) without a store
    Bm25.open(corpus)           from the node cache, built there on first use
    .save(folder) / Bm25.load(folder)     NumPy arrays and JSON, memory-mapped, never a pickle
    .search(texts, k)           passage ids and scores, best first, equal scores by passage id

References: Lu 2024, arXiv 2407.03618 (bm25s); Kamphuis et al. 2020 for the variants of the formula.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import bm25s
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retort.corpus.passages import passage_text
from retort.corpus.words import bm25_terms
from retort.errors import CorruptError, InputError
from retort.progress import QUIET, Progress
from retort.store import Artefact, cache_root
from retort.store.files import storage_errors
from retort.store.manifest import hash_json

__all__ = ["K1", "B", "Bm25", "Method"]

Method = Literal["lucene", "robertson", "atire"]
"""Variants in which a passage without a query word scores 0, and so is no hit."""

K1, B = 1.5, 0.75
LAYOUT = 1
_ABOUT, _IDS = "retort.json", "ids.arrow"


class Bm25:
    """An index of words."""

    def __init__(self, model: Any, ids: pa.ChunkedArray, about: dict[str, Any]) -> None:
        """Take a bm25s model and the passage ids of its rows; use `build`, `of`, `open` or `load`."""
        self._model, self._ids, self.about = model, ids, about

    @classmethod
    def build(
        cls, corpus: Artefact, *, k1: float = K1, b: float = B, method: Method = "lucene", progress: Progress = QUIET
    ) -> Self:
        """Index a corpus artefact. InputError for another kind, or a corpus without a word."""
        if corpus.kind != "corpus":
            raise InputError(f"{corpus} is of kind {corpus.kind}; a corpus is needed here.")
        ids: list[str] = []

        def texts() -> Iterable[str]:
            with progress.task("reading words for BM25", corpus.manifest.rows) as task:
                for batch in corpus.batches(columns=["passage_id", "title", "text"]):
                    ids.extend(batch.column("passage_id").to_pylist())
                    yield from map(passage_text, batch.column("title").to_pylist(), batch.column("text").to_pylist())
                    task.update(batch.num_rows)

        return cls._of(ids, texts(), k1, b, method, str(corpus))

    @classmethod
    def of(
        cls, ids: Sequence[str], texts: Iterable[str], *, k1: float = K1, b: float = B, method: Method = "lucene"
    ) -> Self:
        """Index texts. InputError if they hold no word."""
        return cls._of(list(ids), texts, k1, b, method, "the texts")

    @classmethod
    def _of(cls, ids: list[str], texts: Iterable[str], k1: float, b: float, method: Method, what: str) -> Self:
        vocabulary: dict[str, int] = {}
        # Four bytes a word: lists of Python numbers would take nine times that.
        rows = [
            array("i", (vocabulary.setdefault(term, len(vocabulary)) for term in bm25_terms(text))) for text in texts
        ]
        if not vocabulary:
            raise InputError(f"{what}: there is not one word in {len(rows)} passages, so BM25 has nothing to index.")
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it prints DEBUG lines to every console otherwise
        model = bm25s.BM25(k1=k1, b=b, method=method)
        model.index((rows, vocabulary), create_empty_token=False, show_progress=False)
        column = pa.chunked_array([pa.array(ids, pa.large_string())])
        return cls(model, column, {"layout": LAYOUT, "k1": k1, "b": b, "method": method, "passages": len(ids)})

    @classmethod
    def open(
        cls, corpus: Artefact, *, k1: float = K1, b: float = B, method: Method = "lucene", progress: Progress = QUIET
    ) -> Self:
        """The index of a corpus, memory-mapped from the node cache; built there on first use. Errors as `build`."""
        what = hash_json({"layout": LAYOUT, "k1": k1, "b": b, "method": method, "bm25s": bm25s.__version__})
        target = cache_root() / "bm25" / f"{corpus.digest[:32]}-{what[:16]}"
        if not (target / _ABOUT).exists():
            temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
            try:
                with storage_errors(f"write the BM25 index of {corpus} to the node cache {target.parent}"):
                    cls.build(corpus, k1=k1, b=b, method=method, progress=progress).save(temporary)
                    try:
                        temporary.rename(target)
                    except OSError:  # another process was quicker: its index is the same
                        if not (target / _ABOUT).exists():
                            raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return cls.load(target)

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder: arrays as .npy, vocabulary and settings as JSON, ids as Arrow."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self._model.save(path, allow_pickle=False, show_progress=False)
        table = pa.table({"passage_id": self._ids})
        with pa.OSFile(str(path / _IDS), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        (path / _ABOUT).write_text(json.dumps(self.about), encoding="utf-8")  # last: a folder with it is whole

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Open a saved index, its arrays memory-mapped. CorruptError if the folder is not a whole index."""
        path = Path(folder)
        try:
            about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
            model = bm25s.BM25.load(path, mmap=True, allow_pickle=False, load_corpus=False, show_progress=False)
            ids = pa.ipc.open_file(pa.memory_map(str(path / _IDS))).read_all().column("passage_id")
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise CorruptError(
                f"{path} is no BM25 index: {str(error).splitlines()[0]}. Delete the folder and build it again."
            ) from None
        if not len(ids) == about["passages"] == model.scores["num_docs"]:
            raise CorruptError(
                f"{path}: {len(ids)} passage ids for {model.scores['num_docs']} passages. Delete the folder and build it again."
            )
        return cls(model, ids, about)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def index_bytes(self) -> int:
        """Bytes that a search reads: scores, rows, offsets, vocabulary and ids (on disk within a few hundred bytes)."""
        arrays = sum(self._model.scores[name].nbytes for name in ("data", "indices", "indptr"))
        words = sum(len(term.encode()) + 10 for term in self._model.vocab_dict)  # "term": 12345,
        return int(arrays + words + self._ids.nbytes)

    def search(self, texts: Sequence[str], k: int) -> tuple[list[list[str]], list[NDArray[np.float32]]]:
        """The k best passages of each text: ids, and scores [<= k] descending; equal scores by passage id.

        Passages without a word of the text are no hits, so a list may be shorter than k, or empty.
        """
        if k < 1:
            raise InputError(f"k is {k}; expected at least 1.")
        found = [self._search_one(text, k) for text in texts]
        return [ids for ids, _ in found], [scores for _, scores in found]

    def rows(self, text: str, k: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """As `search`, of one text: the rows [<= k] of its best passages, only of those that are true in `allowed` [passages]."""
        if k < 1:
            raise InputError(f"k is {k}; expected at least 1.")
        return self._best(text, k, allowed)[0]

    def _search_one(self, text: str, k: int) -> tuple[list[str], NDArray[np.float32]]:
        rows, scores = self._best(text, k, None)
        return self._ids.take(pa.array(rows)).to_pylist(), scores

    def _best(
        self, text: str, k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        terms = self._model.get_tokens_ids(bm25_terms(text))
        if not terms:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        scores = self._model.get_scores_from_ids(terms)  # [passages] float32
        rows = np.flatnonzero(scores > 0 if allowed is None else (scores > 0) & allowed)
        if len(rows) > k:
            kth = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
            rows = rows[scores[rows] >= kth]  # more than k where passages tie with the k-th
        ids = self._ids.take(pa.array(rows)).to_pylist()
        order = sorted(range(len(rows)), key=lambda place: (-scores[rows[place]], ids[place]))[:k]
        return rows[order], scores[rows[order]]
