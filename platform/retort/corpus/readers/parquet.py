"""Parquet tables, streamed batch by batch with pyarrow.dataset.

Columns that no filter or page can use (bytes, lists of numbers: someone's embeddings) are left out, and said.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds

from retort.corpus.readers.files import SourceFiles, reading
from retort.corpus.readers.jsonl import Records
from retort.corpus.readers.rows import Place
from retort.errors import InputError

_BATCH_ROWS = 4096


def read_parquet(files: SourceFiles, path: str) -> Records:
    """(place, column -> value) of each row; the place's line is the row's number from 1."""
    name = files.full(path)
    dataset = _open(files, path)
    columns = [field.name for field in dataset.schema if not _left_out(field.type)]
    row = 0
    with reading(name):
        # One batch ahead, one file at a time: the default readahead would hold many row groups of a large file.
        for batch in dataset.to_batches(
            columns=columns, batch_size=_BATCH_ROWS, batch_readahead=1, fragment_readahead=1
        ):
            try:
                records = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{name}: among rows {row + 1} to {row + batch.num_rows}, a string is not UTF-8: {error}. Write the file again."
                ) from None
            for record in records:
                row += 1
                yield Place(name, row), record


def left_out_columns(files: SourceFiles, path: str) -> list[str]:
    """Names of the columns that `read_parquet` leaves out."""
    return [field.name for field in _open(files, path).schema if _left_out(field.type)]


def _open(files: SourceFiles, path: str) -> ds.Dataset:
    target, filesystem = files.native(path)
    try:
        return ds.dataset(target, filesystem=filesystem, format="parquet")
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{files.full(path)} is not a Parquet file: {str(error).splitlines()[0]}. Write it again."
        ) from None


def _left_out(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and not (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type))
