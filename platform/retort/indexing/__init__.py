"""Vectors that are stored: made, indexed, searched, and (later) replaced while queries flow.

embed.py           the step `embed`: a corpus and an encoder -> embeddings; embedder.py does one part, reuse.py takes over
                   vectors of unchanged texts
vectors.py         reading embeddings: checked, as float32, or memory-mapped
build.py           the step `index`: embeddings -> shards; kinds.py chooses the kind, shards.py builds one shard
search.py          ShardedIndex: all shards as one; opening.py verifies and maps a shard, passing.py searches only
                   what may be found (filters, deletions), refine.py scores exactly what codes proposed, merge.py joins hits
tune.py            how far to look for a recall that is asked for
changes.py         what differs between two corpora; delta.py extends an index by it
exact.py           ExactIndex: the same search over embeddings without an index; brute.py scores rows one by one
stages.py          the part workers on Ray Data
faiss_library.py   the one import of FAISS
"""
