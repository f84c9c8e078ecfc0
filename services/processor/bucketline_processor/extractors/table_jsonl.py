"""JSON Lines, one JSON value per line; or a whole file that is an array of objects."""

import datetime
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from itertools import chain, islice
from pathlib import Path

import orjson

from bucketline.extractors import PermanentError
from bucketline_processor.extractors.decoding import unicode_of
from bucketline_processor.extractors.table_columns import RESERVED, Table, exact_float, safe_name
from bucketline_processor.extractors.values import INT64_MAX, INT64_MIN, MAX_DEPTH, json_value

MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_WHOLE_BYTES = 32 * 1024 * 1024
SAMPLE_ROWS = 100
MARK = b"\xef\xbb\xbf"
MAX_INTEGER_CHARS = 20
_INEXACT = re.compile(rb"[\d.]{16}|\d[eE][+-]?\d{3}")
"""Matches a line that may contain a number that a double cannot represent."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_KINDS = {str: "string", bool: "boolean", int: "integer", float: "float", list: "array", dict: "object"}


def looks_like_jsonl(head: bytes) -> bool:
    """Return whether the first line is a JSON object; False if it is longer than ``head``."""
    line = head.removeprefix(MARK).lstrip().split(b"\n", 1)[0]
    if not line.startswith(b"{"):
        return False
    try:
        _parse(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(line: bytes) -> object:
    """Return the JSON value, with the numbers that 64 bits or a double cannot keep as text.

    ``NaN`` and infinities, which JSON does not have but Python writes, are None.
    """
    try:
        if not _INEXACT.search(line):
            return orjson.loads(line)
    except orjson.JSONDecodeError:
        if b"NaN" not in line and b"Infinity" not in line:
            raise
    return json.loads(line.decode(), parse_int=_integer, parse_float=_float, parse_constant=lambda _: None)


def _integer(text: str) -> object:
    return int(text) if len(text) <= MAX_INTEGER_CHARS and INT64_MIN <= int(text) <= INT64_MAX else text


def _float(text: str) -> object:
    value = exact_float(text)
    return text if value is None else value


def jsonl_tables(path: Path, label: str) -> Iterator[Table]:
    """Yield the table of the file; its columns are those of the first 100 rows.

    A value that is no object becomes ``{"value": …}``. A file of at most 32 MiB that is one array of objects, or one
    object, is read as its rows. What mongoexport wraps (``{"$oid": …}``) is its plain value; a number that 64 bits or a
    double cannot keep is text, NaN and infinities are None. Raises ``PermanentError``
    naming the line that is not JSON.
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
    values = _values(path, label)
    try:
        beginning = list(islice(values, 2))
    except PermanentError:
        # Not JSON Lines: pretty-printed, or one line that is too long to be one of many.
        if (whole := _whole(path)) is None:
            raise
        beginning, values = [whole], iter(())
    if len(beginning) == 1 and (rows := _objects(beginning[0])) is not None:
        yield from map(_record, rows)
    else:
        yield from map(_record, chain(beginning, values))


def _values(path: Path, label: str) -> Iterator[object]:
    for number, line in enumerate(_lines(path), start=1):
        if len(line) > MAX_LINE_BYTES:
            raise PermanentError(f"line {number} of {label} is longer than {MAX_LINE_BYTES} bytes")
        text = line.strip()
        if not text:
            continue
        try:
            yield _parse(text)
        except (ValueError, RecursionError) as error:
            raise PermanentError(f"line {number} of {label} is not JSON: {error}") from error


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines in UTF-8, each truncated when it is too long."""
    encoding = unicode_of(path)
    if encoding is None:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                yield line
    else:
        with path.open(encoding=encoding, errors="replace", newline="\n") as text:
            while part := text.readline(MAX_LINE_BYTES + 1):
                yield part.encode("utf-8", "replace")


def _whole(path: Path) -> object:
    """Return the objects if the file is one array of objects or one object; otherwise None."""
    if path.stat().st_size > MAX_WHOLE_BYTES:
        return None
    try:
        value = _parse(path.read_bytes().decode(unicode_of(path) or "utf-8").encode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) or _objects(value) is not None else None


def _objects(value: object) -> list[object] | None:
    """Return the entries if it is an array of objects, otherwise None."""
    return value if isinstance(value, list) and value and all(isinstance(row, dict) for row in value) else None


def _record(value: object) -> dict[str, object]:
    value = _unwrap_extended_json(value)
    if not isinstance(value, dict):
        return {"value": json_value(value)}
    record: dict[str, object] = {}
    for place, (name, item) in enumerate(value.items(), start=1):
        clean = safe_name(name) or f"column_{place}"
        while clean in record or clean in RESERVED:
            clean += "_2"
        record[clean] = json_value(item)
    return record


def _unwrap_extended_json(value: object, depth: int = 0) -> object:
    """Replace the type wrappers of MongoDB's Extended JSON, which mongoexport writes, by the plain values.

    ``{"$oid": "5f…"}`` becomes ``"5f…"`` and ``{"$numberLong": "7"}`` becomes 7, at every depth that a document may
    have, in the canonical and the relaxed form. A value that only resembles a wrapper stays as it is.
    """
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, list):
        return [_unwrap_extended_json(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(name, wrapped)] = value.items()
        if name in _READERS:
            try:
                return _READERS[name](wrapped)
            except (ValueError, TypeError, KeyError, OverflowError, InvalidOperation):
                return value
    return {name: _unwrap_extended_json(item, depth + 1) for name, item in value.items()}


def _text(wrapped: object) -> str:
    if not isinstance(wrapped, str):
        raise TypeError
    return wrapped


def _time(wrapped: object) -> object:
    """Return the time: text as it is, numbers as milliseconds since 1970, which may be negative."""
    if isinstance(wrapped, str):
        return wrapped
    return _EPOCH + datetime.timedelta(milliseconds=int(str(_unwrap_extended_json(wrapped))))


def _base64(wrapped: object) -> object:
    return _text(wrapped["base64"] if isinstance(wrapped, dict) else wrapped)


_READERS: dict[str, Callable[[object], object]] = {
    "$oid": _text,
    "$uuid": _text,
    "$symbol": _text,
    "$date": _time,
    "$binary": _base64,
    "$numberInt": lambda wrapped: int(_text(wrapped)),
    "$numberLong": lambda wrapped: int(_text(wrapped)),
    "$numberDouble": lambda wrapped: float(_text(wrapped)),
    "$numberDecimal": lambda wrapped: Decimal(_text(wrapped)),
    "$undefined": lambda _: None,
}
