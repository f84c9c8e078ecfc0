"""Parquet, by pyarrow, one row group after the other."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bucketline.extraction import PermanentError
from processor.extractors.table_columns import MAX_COLUMNS, Table, column_names
from processor.extractors.values import json_value

if TYPE_CHECKING:
    from pyarrow import DataType
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 1024


def parquet_tables(path: Path, label: str) -> Iterator[Table]:
    """The file's one table, with the types that its schema declares.

    Raises ``PermanentError`` for a damaged file, also when the damage shows only in a later row group.
    """
    from pyarrow import parquet

    with ExitStack() as stack:
        with _damage_reported(label):
            file = stack.enter_context(parquet.ParquetFile(path, memory_map=True))
            schema = file.schema_arrow
        if len(schema) > MAX_COLUMNS:
            raise PermanentError(f"{label} has {len(schema)} columns; {MAX_COLUMNS} are allowed")
        names = column_names(schema.names)
        columns = {name: _kind(field.type) for name, field in zip(names, schema, strict=True)}
        yield Table(columns, _rows(file, names, label))


@contextmanager
def _damage_reported(label: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except MemoryError:
        raise  # pyarrow's own is a MemoryError too, and says nothing about the file
    except (pa.ArrowException, OSError) as error:
        raise PermanentError(f"{label} is damaged: it is not a complete Parquet file") from error


def _rows(file: "ParquetFile", names: list[str], label: str) -> Iterator[dict[str, object]]:
    with _damage_reported(label):
        for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
            columns = [column.to_pylist() for column in batch.columns]
            for values in zip(*columns, strict=True):
                yield {name: json_value(value) for name, value in zip(names, values, strict=True)}


def _kind(kind: "DataType") -> str:
    from pyarrow import types

    tests = (
        (types.is_boolean, "boolean"),
        (types.is_integer, "integer"),
        (types.is_floating, "float"),
        (types.is_decimal, "float"),
        (types.is_timestamp, "datetime"),
        (types.is_date, "date"),
        (types.is_list, "array"),
        (types.is_large_list, "array"),
        (types.is_struct, "object"),
        (types.is_map, "array"),
    )
    return next((name for test, name in tests if test(kind)), "string")
