"""From what users have to passages and queries: reading, checking, cutting, and looking up.

ingest.py     the step: a corpus and its train, dev and test queries; survey.py its first pass
readers/      BEIR, MS MARCO, JSONL, CSV, Parquet, text files
labels.py     the user's queries and qrels, divided into splits; made.py queries made from passages
passages.py   the text of a passage, splitting long documents; words.py what a word is; languages.py which language
lookup.py     passages by id, memory-mapped; queries.py a split of queries
sample.py     the built-in sample: docstrings of installed packages (docstrings.py reads one)
"""
