"""Reading what users have: BEIR and MS MARCO folders, JSONL, CSV, Parquet, text files; local or on s3:// and gs://.

detect.py     which format a path holds: open_source(uri)
rows.py       what readers yield (Document, QueryRow, QrelRow), and the protocol of a source
files.py      listing, hashing, lines with every check
roles.py      which file is corpus, queries, qrels; labelled.py a folder of such files
columns.py    which column is what, by known names or by the config
jsonl.py, delimited.py, parquet.py, qrels.py    tables row by row
textfiles.py  text files by sections; markup.py Markdown, reStructuredText, HTML
builtin.py    the built-in sample as a source
"""

from retort.corpus.readers.detect import Format, open_source
from retort.corpus.readers.rows import Document, Place, QrelRow, QueryRow, Reading, Source

__all__ = ["Document", "Format", "Place", "QrelRow", "QueryRow", "Reading", "Source", "open_source"]
