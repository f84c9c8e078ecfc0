"""JSON Lines: one JSON value a line."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import orjson

from bucketline.extraction import PermanentError
from processor.extractors.table_columns import RESERVED, Table, safe_name
from processor.extractors.values import json_value

MAX_LINE_BYTES = 8 * 1024 * 1024
SAMPLE_ROWS = 100
MARK = b"\xef\xbb\xbf"

_KINDS = {str: "string", bool: "boolean", int: "integer", float: "float", list: "array", dict: "object"}


def looks_like_jsonl(head: bytes) -> bool:
    """Whether the first line is a JSON object. A line longer than ``head`` cannot be told."""
    line = head.removeprefix(MARK).lstrip().split(b"\n", 1)[0]
    if not line.startswith(b"{"):
        return False
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def jsonl_tables(path: Path, label: str) -> Iterator[Table]:
    """The file's one table; its columns are those of the first 100 rows.

    A value that is no object becomes ``{"value": …}``. Raises ``PermanentError`` naming the line that is not
    JSON.
    """
    rows = _rows(path, label)
    sample = list(islice(rows, SAMPLE_ROWS))
    columns: dict[str, str] = {}
    for name, value in chain.from_iterable(row.items() for row in sample):
        if value is not None:
            kind = _KINDS.get(type(value), "string")
            known = columns.setdefault(name, kind)
            if known != kind:
                columns[name] = "float" if {known, kind} == {"integer", "float"} else "string"
    yield Table(columns, chain(sample, rows))


def _rows(path: Path, label: str) -> Iterator[dict[str, object]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise PermanentError(f"line {number} of {label} is longer than {MAX_LINE_BYTES} bytes")
            text = line.removeprefix(MARK).strip() if number == 1 else line.strip()
            if not text:
                continue
            try:
                value = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise PermanentError(f"line {number} of {label} is not JSON: {error}") from error
            yield _record(value)


def _record(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        return {"value": json_value(value)}
    record: dict[str, object] = {}
    for place, (name, item) in enumerate(value.items(), start=1):
        clean = safe_name(name) or f"column_{place}"
        while clean in record or clean in RESERVED:
            clean += "_2"
        record[clean] = json_value(item)
    return record
