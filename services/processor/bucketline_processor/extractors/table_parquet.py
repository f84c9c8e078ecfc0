"""Parquet, by pyarrow, one row group after the other."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bucketline.extractors import PermanentError
from bucketline_processor.extractors.table_columns import MAX_COLUMNS, Table, column_names
from bucketline_processor.extractors.values import json_value

if TYPE_CHECKING:
    from pyarrow import Array, DataType, Scalar
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 1024
BATCH_BYTES = 16 * 1024 * 1024
_OFFSET = re.compile(r"([+-]\d\d)(\d\d)$")
SUBSECONDS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def parquet_tables(path: Path, label: str) -> Iterator[Table]:
    """Yield the table of the file with the types of its schema.

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
        raise  # the error of pyarrow is also a MemoryError and does not describe the file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"{label} is damaged: it is not a complete Parquet file") from error


def _rows(file: "ParquetFile", names: list[str], label: str) -> Iterator[dict[str, object]]:
    with _damage_reported(label):
        for group in range(file.num_row_groups):
            size = _batch_rows(file, group)
            for batch in file.iter_batches(batch_size=size, row_groups=[group], use_threads=False):
                columns = [_values(column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    yield {name: json_value(value) for name, value in zip(names, values, strict=True)}


def _batch_rows(file: "ParquetFile", group: int) -> int:
    """Return the number of rows that need about 16 MiB: a row may be a number or an image."""
    about = file.metadata.row_group(group)
    a_row: int = about.total_byte_size // max(1, about.num_rows)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, a_row)))


def _values(column: "Array") -> list[object]:
    """Return the values of the column; values that Python cannot represent (nanoseconds, the year 10000) as text.

    Invalid UTF-8 becomes replacement characters, as in CSV. Times in an unknown time zone are in UTC.
    """
    try:
        values: list[object] = column.to_pylist()
    except (ValueError, OverflowError):
        return [_value(scalar) for scalar in column]
    return values


def _value(scalar: "Scalar") -> object:
    import pyarrow as pa

    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.StructScalar):
        return {name: _value(inner) for name, inner in scalar.items()}
    if isinstance(scalar, pa.MapScalar):
        return [[_value(entry["key"]), _value(entry["value"])] for entry in scalar.values]
    if isinstance(scalar, pa.ListScalar):
        return [_value(inner) for inner in scalar.values]
    if isinstance(scalar, pa.DictionaryScalar):
        return _value(scalar.value)
    try:
        value: object = scalar.as_py()
    except (ValueError, OverflowError):
        if isinstance(scalar, pa.DurationScalar):
            return scalar.value / SUBSECONDS[scalar.type.unit]
        if isinstance(scalar, pa.StringScalar | pa.LargeStringScalar | pa.StringViewScalar):
            return scalar.as_buffer().to_pybytes().decode("utf-8", "replace")
        if isinstance(scalar, pa.TimestampScalar) and not _is_zone(scalar.type.tz):
            return _value(scalar.cast(pa.timestamp(scalar.type.unit, "+00:00")))
        text = str(scalar.cast(pa.string()).as_py())
        return str(scalar.value) if text.startswith("<") else _OFFSET.sub(r"\1:\2", text.replace(" ", "T", 1))
    return value


def _is_zone(name: str | None) -> bool:
    from pyarrow.lib import string_to_tzinfo

    try:
        return name is None or string_to_tzinfo(name) is not None
    except Exception:  # raised by pyarrow or by the time zone library
        return False


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
