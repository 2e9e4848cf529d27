"""Vectors that are stored: made, indexed, searched, and (later) replaced while queries flow.

embed.py           the step `embed`: a corpus and an encoder -> embeddings; embedder.py does one part
vectors.py         reading embeddings: checked, as float32, or memory-mapped
build.py           the step `index`: embeddings -> shards; kinds.py chooses the kind, shards.py builds one shard
search.py          ShardedIndex: all shards as one; opening.py verifies and maps a shard, passing.py searches only
                   what may be found (filters, deletions), merge.py joins their hits
exact.py           ExactIndex: the same search over embeddings without an index
stages.py          the part workers on Ray Data
faiss_library.py   the one import of FAISS
"""
