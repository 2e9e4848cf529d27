"""What a partial re-index costs beside a full one, in CPU-seconds: the row `partial_reindex_cost`.

    python benchmarks/reindex_cost.py [--quick] [--whole] [--json OUT]        benchmarks/indexing.py takes its row from here

One process does all the work, without Ray's, so its own CPU time (all threads) is the whole cost; imports are over before.
Both sides end with the same checks and the same move of the pointer. The partial side is `retort reindex` itself, three
times over, each with another 1 % changed (four tenths changed texts, three tenths added, three tenths deleted).

The full side embeds and builds the index. Embedding 100,000 passages takes half an hour of CPU, so by default two parts
in 25 are embedded (one of Debian's own passages, one of mixtures) and their CPU-seconds scaled by characters; the other
parts get vectors near those, so that the index and what is copied have their real size. `--whole` embeds all of it, part by
part, and goes on where it was interrupted.

The corpus: Debian's 33,000 passages, and texts mixed from their sentences up to 100,000, every one of them distinct.
"""

from __future__ import annotations

import json
import random
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from harness import SHARED, Report, Row, arguments, need
from real_data import rows

TARGET = 0.025
PASSAGES = 100_000
QUICK_PASSAGES = 4_000
SHARE = 0.01
REPEATS = 3

Passage = tuple[str, str, str]  # id, title, text


def real_passages(count: int) -> list[Passage]:
    """`count` distinct passages: Debian's own first, then mixtures of the sentences of two of them."""
    from retort.corpus.passages import sentence_spans

    source = need(SHARED / "debian") / "corpus.jsonl.gz"
    own = [(row["_id"], row.get("title", ""), row["text"]) for row in rows(source)][:count]
    generator = random.Random(7)
    sentences = [[text[a:b] for a, b in sentence_spans(text)] for _, _, text in own]
    seen = {text for _, _, text in own}
    made: list[Passage] = []
    while len(own) + len(made) < count:
        one, other = generator.randrange(len(own)), generator.randrange(len(own))
        text = " ".join([*sentences[one][::2], *sentences[other][1::2]])
        if len(text) >= 20 and text not in seen:
            seen.add(text)
            made.append((f"mixed-{len(made):06d}", own[one][1], text))
    return own + made


def changed(passages: Sequence[Passage], share: float, seed: int) -> list[Passage]:
    """The same corpus with `share` of it changed, added and deleted, four to three to three."""
    generator = random.Random(seed)
    count = max(10, int(share * len(passages)))
    places = generator.sample(range(len(passages)), count * 7 // 10)
    edited, deleted = set(places[: count * 4 // 10]), set(places[count * 4 // 10 :])
    result = []
    for place, (id_, title, text) in enumerate(passages):
        if place in edited:
            text = f"{text} {passages[generator.randrange(len(passages))][2][:200]} (revised {seed})"
        if place not in deleted:
            result.append((id_, title, text))
    for number in range(count - len(places)):
        one, other = (passages[generator.randrange(len(passages))] for _ in range(2))
        result.append((f"new-{seed}-{number:05d}", one[1], f"{one[2][:300]} {other[2][-300:]} (added {seed})"))
    return result


def publish_corpus(store: Any, passages: Sequence[Passage], name: str) -> Any:
    """A corpus as `ingest` writes it."""
    import pyarrow as pa

    from retort.corpus.passages import content_hash
    from retort.store.manifest import hash_json
    from retort.store.schemas import PASSAGE, part_name

    draft = store.draft("corpus", name, step="benchmark", config={"passages": hash_json(list(passages))})
    if draft.published:
        return draft.published
    with draft:
        for number, start in enumerate(range(0, len(passages), 4096)):
            values = [
                {
                    "passage_id": id_, "text": text, "title": title, "lang": "en", "section": "", "doc_id": id_,
                    "content_hash": content_hash(title, text), "fields": "{}",
                }
                for id_, title, text in passages[start : start + 4096]
            ]  # fmt: skip
            draft.write_table(part_name(number), pa.Table.from_pylist(values, schema=PASSAGE))
        return draft.publish(rows=len(passages))


@contextmanager
def in_this_process() -> Iterator[None]:
    """Part workers run here, one part after the other: the CPU time of this process is then the whole cost."""
    import retort.indexing.stages as stages
    from retort.resources import limit_threads

    def in_turn(worker: Any, settings: Mapping[str, Any], parts: Sequence[str], resources: Any, **_: Any) -> list[Any]:
        limit_threads(resources.resolve().threads)
        made = worker(**settings)
        return [dict(made(part)) for part in parts]

    real = stages.map_parts
    stages.map_parts = in_turn  # type: ignore[assignment]
    try:
        yield
    finally:
        stages.map_parts = real


def embed_fully(
    store: Any, corpus: Any, encoder: Any, whole: bool, say: Callable[[str], None]
) -> tuple[Any, float, int]:
    """The embeddings of the corpus, the CPU-seconds that embedding it takes, and how many passages that was measured on."""
    import numpy as np

    from retort.indexing.embed import EmbedConfig, embed
    from retort.indexing.embedder import open_embedder
    from retort.resources import Resources, threads_of

    # Another seed, which no vector depends on, gives what is partly made up a key of its own.
    config = EmbedConfig(store=store.uri, corpus=corpus.uri, encoder=encoder.uri, seed=13 if whole else 14)
    inputs = {"corpus": corpus, "encoder": encoder}
    draft = store.draft("embeddings", f"{corpus.name}-{encoder.name}", step="embed", inputs=inputs, config=config.identity())  # fmt: skip
    parts = corpus.parts()
    chosen = parts if whole or len(parts) < 4 else [parts[0], parts[-2]]
    record = f"cpu-{draft.key[:16]}.json"
    spent: dict[str, float] = json.loads(store.area.read(record)) if store.area.exists(record) else {}
    missing = [part for part in chosen if part not in spent or not draft.has(part)]
    if missing:
        with threads_of(Resources()):
            embedder, how = open_embedder(draft, inputs, config.precision, "auto", None, None)
            for part in missing:
                began, wall = time.process_time(), time.monotonic()
                numbers = embedder(part)
                spent[part] = time.process_time() - began
                store.area.write_bytes(record, json.dumps(spent).encode())
                say(f"  {part}: {numbers['passages'] / (time.monotonic() - wall):.0f} passages/s, {how}")
    real = draft.read_table(chosen[0], columns=["vector"]).column("vector").combine_chunks()
    pool = real.flatten().to_numpy(zero_copy_only=False).reshape(len(real), -1).astype(np.float32)
    for number, part in enumerate(parts):
        if not draft.has(part):
            _make_up(draft, corpus, part, pool, number)
    began = time.process_time()
    made = embed(config)  # every part is there: only the manifest is written
    finishing = time.process_time() - began
    characters = {part: _characters(corpus, part) for part in parts}
    per_character = sum(spent[part] for part in chosen) / sum(characters[part] for part in chosen)
    measured = sum(corpus.part(part, ["passage_id"]).num_rows for part in chosen)
    return made, per_character * sum(characters.values()) + finishing, measured


def _characters(corpus: Any, part: str) -> int:
    import pyarrow.compute as pc

    table = corpus.part(part, columns=["title", "text"])
    return int(sum(pc.sum(pc.utf8_length(table.column(name))).as_py() for name in ("title", "text")))


def _make_up(draft: Any, corpus: Any, part: str, pool: Any, number: int) -> None:
    """A part of vectors between two real ones with some noise, for passages that were not embedded."""
    import numpy as np
    import pyarrow as pa

    from retort.store.schemas import embedding_schema

    table = corpus.part(part, columns=["passage_id", "content_hash"])
    generator = np.random.default_rng(number)
    one, other = (pool[generator.integers(0, len(pool), table.num_rows)] for _ in range(2))
    vectors = one + other + 0.02 * generator.standard_normal(one.shape)
    half = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), half.shape[1])
    columns = [table.column("passage_id"), column, table.column("content_hash")]
    draft.write_table(part, pa.Table.from_arrays(columns, schema=embedding_schema(half.shape[1])))


def partial_reindex_cost(
    store_uri: str, quick: bool, say: Callable[[str], None] = print, whole: bool = False
) -> tuple[Row, dict[str, Any]]:
    """The row and what is behind it: {full: CPU-seconds by stage, partial: by run}."""
    from retort.indexing.build import IndexConfig, index
    from retort.models.imports import encoder_artefact
    from retort.releases.compose import next_release
    from retort.releases.promote import check_whole, promote
    from retort.releases.reindex import ReindexConfig, reindex
    from retort.releases.validation import index_recall
    from retort.store import open_store

    store = open_store(store_uri)
    passages = real_passages(QUICK_PASSAGES if quick else PASSAGES)
    assert len({text for _, _, text in passages}) == len(passages)
    corpus = publish_corpus(store, passages, f"reindex-{len(passages)}")
    encoder = encoder_artefact("minilm", store)
    with in_this_process():
        embeddings, embed_cpu, measured = embed_fully(store, corpus, encoder, whole, say)
        run = uuid.uuid4().int % 10**9  # another key every time: the build and the changes are never found made already
        clock = _Clock()
        made = index(
            IndexConfig(store=store.uri, embeddings=embeddings.uri, kind="auto", seed=run, name="reindex-base")
        )
        clock.lap("build")
        release = next_release(store, f"bench-{run}", index=made)
        check_whole(store, release)
        recall = index_recall(made, 200, 13)
        promote(store, release, ())
        clock.lap("checks and promotion")
    full = {"embed": embed_cpu, **clock.laps}
    say(f"full: {_told(full)} CPU-seconds, {made.metrics['kind']}, recall@10 {recall:.3f}")
    runs = []
    for repeat in range(REPEATS):
        name = f"bench-{run}-{repeat}"
        promote(store, release.model_copy(update={"name": name}), ())
        newer = publish_corpus(store, changed(passages, SHARE, run + repeat), f"reindex-{len(passages)}-{repeat}")
        wall, cpu = time.monotonic(), time.process_time()
        outcome = reindex(ReindexConfig(store=store.uri, release=name, corpus=newer.uri))
        spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall}
        assert outcome["index"].manifest.step == "delta", outcome["index"].manifest.step
        runs.append({**spent, "encoded": outcome["embeddings"].metrics["encoded"]})
        say(
            f"partial: {spent['cpu_s']:.1f} CPU-seconds, {spent['wall_s']:.1f} s, {runs[-1]['encoded']} passages encoded"
        )
    total = sum(full.values())
    costs = [entry["cpu_s"] / total for entry in runs]
    row = Row(
        "partial_reindex_cost",
        "CPU-seconds of a 1 % partial re-index / of a full one",
        statistics.median(costs),
        low=min(costs),
        high=max(costs),
        target=f"<= {TARGET:g}",
        met=None if quick else statistics.median(costs) <= TARGET,
        note=f"{len(passages):,} passages, MiniLM; full {total:.0f} CPU-s ({_told(full)}), embedding measured on {measured:,} of them; one process, its start excluded",
    )
    return row, {
        "passages": len(passages),
        "embedding_measured_on": measured,
        "full_cpu_s": full,
        "partial": runs,
        "index": made.metrics["kind"],
    }


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.laps[name] = now - self._last
        self._last = now


def _told(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in parts.items())


def main() -> None:
    """Run it alone."""
    options = arguments(
        __doc__ or "",
        lambda parser: parser.add_argument("--whole", action="store_true", help="embed all of the corpus"),
    )
    report = Report("quick" if options.quick else "full")
    row, details = partial_reindex_cost(options.store, options.quick, whole=options.whole)
    report.add(row)
    report.details["partial_reindex"] = details
    report.finish(options.json)


if __name__ == "__main__":
    main()
