"""Parquet tables with stable bytes: the same rows give the same file on every machine of one pyarrow version.

Parquet's bytes depend on how writes are chunked, so all go through `write`, in row groups of 10,000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROW_GROUP = 10_000


def build(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.Table:
    """Return a table of exactly this schema from arrays, numpy arrays or lists, one per field."""
    missing = set(schema.names) ^ set(columns)
    if missing:
        raise KeyError(f"columns {sorted(missing)} do not match the schema {schema.names}")
    return pa.table([_array(columns[f.name], f.type) for f in schema], schema=schema)


def _array(values: Any, kind: pa.DataType) -> pa.Array[Any] | pa.ChunkedArray[Any]:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values if values.type == kind else values.cast(kind)
    return pa.array(values, type=kind)


def write(sink: IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write the tables as one parquet file of row groups of 10,000, however they are cut; return the rows."""
    rows = 0
    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": True,
        "write_page_checksum": True,
    }
    with pq.ParquetWriter(sink, schema, store_schema=False, **options) as writer:
        for group in regroup(tables):
            writer.write_table(group, row_group_size=ROW_GROUP)
            rows += group.num_rows
    return rows


def regroup(tables: Iterable[pa.Table], rows: int = ROW_GROUP) -> Iterator[pa.Table]:
    """Cut a stream of tables into pieces of exactly `rows` rows, the last one shorter."""
    pending: list[pa.Table] = []
    count = 0
    for table in tables:
        start = 0
        while start < table.num_rows:
            piece = table.slice(start, rows - count)
            pending.append(piece)
            start += piece.num_rows
            count += piece.num_rows
            if count == rows:
                yield pa.concat_tables(pending).combine_chunks()
                pending, count = [], 0
    if pending:
        yield pa.concat_tables(pending).combine_chunks()


def opened(source: IO[bytes]) -> pq.ParquetFile:
    """Open a table that only the calling thread reads; a page whose checksum is wrong raises OSError.

    Read with `use_threads=False`. Arrow's own threads, which `pre_buffer` wakes even so, let go of a Python file some
    time after the read has returned: an interpreter that ends in that instant aborts with "terminate called without an
    active exception", exit code -6 (github.com/apache/arrow/issues/34314); seen once in some ten thousand commands.
    """
    return pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False)


def read(source: IO[bytes], columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole table, or some of its columns, from an open file; a page whose checksum is wrong raises OSError."""
    names = list(columns) if columns is not None else None
    # pq.read_table would import pyarrow.dataset, a third of a second in every command.
    return opened(source).read(names, use_threads=False)


def find(source: IO[bytes], column: str, values: pa.Array) -> pa.Table:
    """Read the rows whose column is one of the values, one row group at a time, however large the table is."""
    file = opened(source)
    chosen = [i for i in range(file.num_row_groups) if _may_hold(file.metadata.row_group(i), column, values)]
    groups = (file.read_row_group(i, use_threads=False) for i in chosen)
    found = [group.filter(pc.is_in(group[column], value_set=values)) for group in groups]
    return pa.concat_tables([file.schema_arrow.empty_table(), *found])


def _may_hold(group: pq.RowGroupMetaData, column: str, values: pa.Array) -> bool:
    """Return whether a row group can hold one of the values, judged by its smallest and largest."""
    if not len(values):
        return False
    found = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == column)
    if found.statistics is None or not found.statistics.has_min_max:
        return True
    bounds = pc.min_max(values).as_py()
    return bool(found.statistics.min <= bounds["max"] and bounds["min"] <= found.statistics.max)
