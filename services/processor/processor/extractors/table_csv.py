"""CSV and its relatives, streamed, with the dialect found from the first rows."""

import csv
import io
import re
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

DELIMITERS = "\t;|,"
"""Of equals the first: a comma also stands in numbers and in prose."""

RIVAL = 0.8
PENALTY = 0.2
_NOT_A_DELIMITER = re.compile(r"[-+]?\d[\d.' ]*,\d+ ?%?|([^,]|, )*")
"""A cell whose commas are in a number, or in prose."""

SNIFF_CHARS = 64 * 1024
SEPARATOR_CHARS = 16
SAMPLE_ROWS = 1000
MAX_FIELD_CHARS = 1024 * 1024

Row = list[str]


def csv_tables(
    path: Path, label: str, header: str, delimiter: str | None, *, infer: bool, charset: str | None = None
) -> Iterator[Table]:
    """The file's one table; none when it is empty.

    Types come from the first 1,000 rows. A row with more cells than the header gets ``column_<n>`` for the
    rest. A first line ``sep=;`` names the delimiter, as spreadsheet programs understand it. Raises
    ``PermanentError`` for a file that is no text, a quote that is never closed, a cell of more than a million
    characters, or more than 5,000 columns.
    """
    encoding = detect_encoding(path, label, charset)
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
    """The candidate that cuts the first rows into the same number of cells, more than one; else a comma.

    One whose cells still hold another that does so, too, falls behind it.
    """
    start = file.tell()
    sample = file.read(SNIFF_CHARS)
    file.seek(start)
    if len(sample) == SNIFF_CHARS:
        sample = sample[: sample.rfind("\n") + 1] or sample
    cuts = {candidate: _cut(sample, candidate) for candidate in DELIMITERS}
    shares = {candidate: _agreeing(cut) for candidate, cut in cuts.items()}
    rivals = [each for each, cut in cuts.items() if shares[each] >= RIVAL and len(cut[0]) == _usual_width(cut)]
    best, best_score = ",", 0.0
    for candidate, cut in cuts.items():
        held = any(_hold(cut, rival) for rival in rivals if rival != candidate)
        score = shares[candidate] - (PENALTY if held else 0.0)
        if score > best_score:
            best, best_score = candidate, score
    return best


def _cut(sample: str, delimiter: str) -> list[Row]:
    """The sample's rows; none where they cannot be cut that way."""
    try:
        return [row for row in csv.reader(io.StringIO(sample), delimiter=delimiter) if row]
    except csv.Error:
        return []


def _usual_width(rows: Sequence[Row]) -> int:
    return Counter(map(len, rows)).most_common(1)[0][0] if rows else 0


def _agreeing(rows: Sequence[Row]) -> float:
    """The share of rows that have the usual number of cells; 0 if that is one."""
    width = _usual_width(rows)
    return sum(len(row) == width for row in rows) / len(rows) if width > 1 else 0.0


def _hold(rows: Sequence[Row], delimiter: str) -> bool:
    """Whether half of the rows have it in their cells, as a delimiter."""

    def holds(cell: str) -> bool:
        return delimiter in cell and not (delimiter == "," and _NOT_A_DELIMITER.fullmatch(cell.strip()))

    return 2 * sum(any(map(holds, row)) for row in rows) >= len(rows)
