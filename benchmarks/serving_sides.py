"""The sides that the endpoint is measured against: a bare loop in one process, and the server that a user would write.

python benchmarks/serving_sides.py peer STORE INDEX PORT THREADS WHOSE  WHOSE encoder: "theirs" (sentence-transformers) or "ours"
python benchmarks/serving_sides.py bare STORE INDEX BODIES THREADS      is asked for {batch, seconds, pause_s} (asking.py)
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from retort.resources import share_the_machine

share_the_machine()


def parts(store_uri: str, index_key: str, threads: int, whose: str = "ours") -> tuple[Any, Any, Any]:
    """What encodes queries, the index and the texts: the same weights, files and threads as the endpoint's."""
    from retort.corpus.lookup import Passages
    from retort.indexing.search import ShardedIndex
    from retort.models.dual_encoder import DualEncoder
    from retort.resources import limit_threads
    from retort.store import open_store

    artefact = open_store(store_uri).get(index_key, "index")
    embeddings = artefact.input("embeddings")
    folder = embeddings.input("encoder").local()
    encode = theirs(folder) if whose == "theirs" else ours(DualEncoder.load(folder).pack(for_queries=True))
    index = ShardedIndex.open(artefact, threads=threads)
    limit_threads(threads)
    return encode, index, Passages.open(embeddings.input("corpus"))


def ours(encoder: Any) -> Any:
    """Queries to vectors as the endpoint does it."""
    return lambda queries: encoder.encode(queries, "query")


def theirs(folder: Path) -> Any:
    """As a user would: sentence-transformers, in the precision that is faster here."""
    import torch
    from sentence_transformers import SentenceTransformer

    from retort.models.backend import pick_precision

    dtype = torch.bfloat16 if pick_precision("cpu") == "bf16" else torch.float32
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})

    def encode(queries: list[str]) -> Any:
        vectors = model.encode(queries, convert_to_tensor=True, show_progress_bar=False)
        return vectors.float().numpy()

    return encode


def peer(store: str, index_key: str, port: str, threads: str, whose: str) -> None:
    """FastAPI + uvicorn, one process: encode, search, look up, answer."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    encode, index, passages = parts(store, index_key, int(threads), whose)
    app = FastAPI()

    class Query(BaseModel):
        query: str
        k: int = 10

    @app.post("/v1/search")
    def search(body: Query) -> dict[str, Any]:
        hits = index.search(encode([body.query]), body.k)
        rows = [int(row) for row in hits.rows[0] if row >= 0]
        return {
            "hits": [
                {**record, "score": float(score)} for record, score in zip(passages.records_at(rows), hits.scores[0])
            ]
        }

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


def bare(store: str, index_key: str, bodies: str, threads: str) -> None:
    """Encode and search in a loop, for as long as it is told: queries a second, and the milliseconds' median of a batch."""
    encode, index, _ = parts(store, index_key, int(threads))
    lines = [json.loads(line) for line in Path(bodies).read_text("utf-8").splitlines()]
    at = 0
    for told in sys.stdin:
        asked = json.loads(told)
        batch, seconds, pause_s = asked["batch"], asked["seconds"], asked["pause_s"]
        times: list[float] = []
        while sum(times) < seconds or len(times) < 3:
            queries = [lines[(at + offset) % len(lines)]["query"] for offset in range(batch)]
            at += batch
            began = time.perf_counter()
            index.search(encode(queries), lines[0]["k"])
            times.append(time.perf_counter() - began)
            if pause_s:
                time.sleep(pause_s)
        kept = times[len(times) // 10 :]  # the first ones warm up
        print(json.dumps({"rate": batch * len(kept) / sum(kept), "p50_ms": statistics.median(kept) * 1000}), flush=True)


if __name__ == "__main__":
    {"peer": peer, "bare": bare}[sys.argv[1]](*sys.argv[2:])
