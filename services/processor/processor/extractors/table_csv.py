"""CSV and its relatives, streamed, with the dialect found from the first rows."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TextIO

from bucketline.extraction import PermanentError
from processor.extractors.decoding import detect_encoding
from processor.extractors.table_columns import (
    MAX_COLUMNS,
    Table,
    column_kind,
    column_names,
    is_header,
    typed,
)

DELIMITERS = ",;\t|"
SNIFF_CHARS = 64 * 1024
SEPARATOR_CHARS = 16
SAMPLE_ROWS = 1000
MAX_FIELD_CHARS = 1024 * 1024

Row = list[str]


def csv_tables(path: Path, label: str, header: str, delimiter: str | None, *, infer: bool) -> Iterator[Table]:
    """The file's one table; none when it is empty.

    Types come from the first 1,000 rows. A row with more cells than the header gets ``column_<n>`` for the
    rest. A first line ``sep=;`` names the delimiter, as spreadsheet programs understand it. Raises
    ``PermanentError`` for a file that is no text, a quote that is never closed, a cell of more than a million
    characters, or more than 5,000 columns.
    """
    encoding = detect_encoding(path, label)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        named_delimiter = _named_delimiter(file)
        rows = _rows(file, label, delimiter or named_delimiter or _delimiter(file))
        sample = list(islice(rows, SAMPLE_ROWS))
        if not sample:
            return
        named = header == "yes" or (header == "auto" and is_header(sample[0], sample[1:]))
        width = max(len(row) for row in sample)
        if width > MAX_COLUMNS:
            raise PermanentError(f"{label} has {width} columns; {MAX_COLUMNS} are allowed")
        first = sample.pop(0) if named else []
        names = column_names([*first, *[""] * (width - len(first))])
        columns = {
            name: column_kind(row[place].strip() for row in sample if place < len(row)) if infer else "string"
            for place, name in enumerate(names)
        }
        yield Table(columns, _records(chain(sample, rows), columns, label))


def _rows(file: TextIO, label: str, delimiter: str) -> Iterator[Row]:
    """Every row that is not empty."""
    csv.field_size_limit(MAX_FIELD_CHARS)
    lines: list[str] = []  # of the row that is being read
    over = False

    def remembered() -> Iterator[str]:
        nonlocal over
        for line in file:
            lines.append(line)
            yield line
        over = True

    reader = csv.reader(remembered(), delimiter=delimiter)
    try:
        for row in reader:
            if over and len(lines) > 1 and _is_open(lines, delimiter):
                opened = reader.line_num - len(lines) + 1
                raise PermanentError(f"{label} is not valid CSV: a quote in line {opened} is never closed")
            lines.clear()
            if any(row):
                yield row
    except csv.Error as error:
        raise PermanentError(f"{label} is not valid CSV at line {reader.line_num}: {error}") from error


def _is_open(lines: Sequence[str], delimiter: str) -> bool:
    """Whether the end of the file came inside of a quoted cell, which then swallowed all that followed it."""
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


def _records(rows: Iterator[Row], columns: dict[str, str], label: str) -> Iterator[dict[str, object]]:
    kinds = list(columns.items())
    for row in rows:
        if len(row) > MAX_COLUMNS:
            raise PermanentError(f"{label} has a row of {len(row)} cells; {MAX_COLUMNS} are allowed")
        record: dict[str, object] = {}
        for place, (column, cell) in enumerate(zip_longest(kinds, row), start=1):
            name, kind = column or (f"column_{place}", "string")
            record[name] = typed(cell, kind) if cell is not None else None
        yield record


def _named_delimiter(file: TextIO) -> str | None:
    """What a first line like ``sep=;`` says, which is then passed over."""
    start = file.tell()
    line = file.readline(SEPARATOR_CHARS).rstrip("\r\n").strip('"')
    if line.lower().startswith("sep=") and len(line) == 5:
        return line[-1]
    file.seek(start)
    return None


def _delimiter(file: TextIO) -> str:
    """The candidate that cuts the first rows into the same number of cells, more than one; else a comma."""
    start = file.tell()
    sample = file.read(SNIFF_CHARS)
    file.seek(start)
    if len(sample) == SNIFF_CHARS:
        sample = sample[: sample.rfind("\n") + 1] or sample
    best, best_score = ",", 0.0
    for candidate in DELIMITERS:
        try:
            widths = Counter(len(row) for row in csv.reader(io.StringIO(sample), delimiter=candidate) if row)
        except csv.Error:
            continue
        if not widths:
            continue
        width, count = widths.most_common(1)[0]
        score = (count / widths.total()) * (1 if width > 1 else 0) + min(width, 100) / 10_000
        if width > 1 and score > best_score:
            best, best_score = candidate, score
    return best
