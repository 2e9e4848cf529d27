"""Choosing and discarding passages for queries.

mine.py         the step `mine`: candidates from BM25, the current encoder, chance and the labels
candidates.py   the candidates of one part of the queries; stages.py runs it on Ray Data
bm25.py         BM25 over a corpus, memory-mapped, also a system of its own in reports
dense.py        texts -> passages by an encoder and an index (or its embeddings alone)
filtering.py    which negatives are false: the moving threshold on the teacher's scores; pure
"""
