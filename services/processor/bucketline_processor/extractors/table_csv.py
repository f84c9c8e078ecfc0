"""CSV and related formats, streamed, with the dialect detected from the first rows."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bucketline.extractors import PermanentError
from bucketline_processor.extractors.decoding import detect_encoding
from bucketline_processor.extractors.table_columns import (
    MAX_COLUMNS,
    MAX_PREAMBLE,
    MAX_PREAMBLE_CHARS,
    Table,
    column_kind,
    column_names,
    find_layout,
    is_header,
    typed,
)

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = "\t;|,"
"""Candidates in order of preference; the comma is last, because it also occurs in numbers and prose."""

RIVAL = 0.8
PENALTY = 0.2
_NOT_A_DELIMITER = re.compile(r"[-+]?\d[\d.' ]*,\d+ ?%?|([^,]|, )*")
"""A cell whose commas are in a number, or in prose."""

SNIFF_CHARS = 64 * 1024
SEPARATOR_CHARS = 16
SAMPLE_ROWS = 1000
MAX_FIELD_CHARS = 1024 * 1024
MAX_LINE_CHARS = 16 * 1024 * 1024
CTRL_Z = "\x1a"
_ESCAPE = re.compile(r'\\(["\\])')

Row = list[str]


@dataclass(frozen=True, slots=True)
class Quoting:
    """How the cells of a file are quoted."""

    quoted: bool = True
    padded: bool = False
    """Blanks stand before or after the quotes, as in ``1,   "a, b"``."""
    escaped: bool = False
    """A quote within a cell is ``\\"``, as MySQL writes it, instead of ``""``."""


def csv_tables(
    path: Path, label: str, header: str, delimiter: str | None, *, infer: bool, charset: str | None = None
) -> Iterator[Table]:
    """Yield the table of the file; none if it is empty.

    Types come from the first 1,000 rows. A row with more cells than the header gets ``column_<n>`` for the
    rest. A first line ``sep=;`` names the delimiter, as spreadsheet programs understand it. Comments (``#``) and lines
    above the header are not rows. Raises ``PermanentError`` for a file that is not text, a quote that is never closed,
    a cell of more than a million characters, a line of more than 16 million or more than 5,000 columns.
    """
    encoding = detect_encoding(path, label, charset)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        delimiter = delimiter or _named_delimiter(file)
        delimiter, width = _delimiter(file, DELIMITERS if delimiter is None else delimiter)
        comments = _leading_comments(file, delimiter, width)
        quoting = _quoting(file, label, delimiter)
        rows = _rows(file, label, delimiter, quoting, _CommentRule(width, bool(comments)))
        sample = list(islice(rows, SAMPLE_ROWS))
        if not any(sample):
            return
        layout = find_layout(sample, header)
        first = sample[layout.start] if layout.named else []
        if first and first[0].startswith("# "):  # the form that numpy writes
            first = [first[0].removeprefix("# "), *first[1:]]
        sample = [row for row in sample[layout.start + layout.named :] if row]
        width = max(map(len, [first, *sample]))
        if width > MAX_COLUMNS:
            raise PermanentError(f"{label} has {width} columns; {MAX_COLUMNS} are allowed")
        names = column_names([*first, *[""] * (width - len(first))])
        columns = {
            name: column_kind(row[place].strip() for row in sample if place < len(row)) if infer else "string"
            for place, name in enumerate(names)
        }
        records = _records(chain(sample, filter(None, rows)), columns, label)
        yield Table(columns, records, preamble=[*comments, *layout.preamble])


def _lines(file: TextIO, label: str, delimiter: str, quoting: Quoting) -> Iterator[str]:
    """Yield the lines with the quotes as the csv module reads them, and without the Ctrl-Z that ends a DOS file."""
    blanks = re.compile(rf'(?<!")" +(?=[{re.escape(delimiter)}\r\n])')
    while line := file.readline(MAX_LINE_CHARS + 1):
        if len(line) > MAX_LINE_CHARS:
            raise PermanentError(f"{label} has a line of more than {MAX_LINE_CHARS} characters")
        if line.endswith(CTRL_Z) and not (line := line.rstrip(CTRL_Z)):
            continue
        if quoting.escaped:
            line = _ESCAPE.sub(lambda found: '""' if found[1] == '"' else found[1], line)
        if quoting.padded:
            line = blanks.sub('"', line)
        yield line


def _reader(lines: Iterable[str], delimiter: str, quoting: Quoting, *, strict: bool = False) -> "Reader":
    csv.field_size_limit(MAX_FIELD_CHARS)
    return csv.reader(
        lines,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting.quoted else csv.QUOTE_NONE,
        skipinitialspace=quoting.padded,
        strict=strict,
    )


def _quoting(file: TextIO, label: str, delimiter: str) -> Quoting:
    """Return the first of the ways to quote by which the whole file is well-formed.

    When there is none, quotes in a tab-separated file are part of its text, since that format has no quoting of its
    own; other files are read as they are.
    """
    start = file.tell()

    def examine(quoting: Quoting) -> tuple[bool, bool]:
        """Return whether the file is well-formed, and whether cells begin with blanks and a quote."""
        file.seek(start)
        padded = False
        try:
            for row in _reader(_lines(file, label, delimiter, quoting), delimiter, quoting, strict=True):
                padded = padded or any(cell[:1] == " " and cell.lstrip(" ")[:1] == '"' for cell in row)
        except csv.Error:
            return False, padded
        return True, padded

    try:
        quotes = escapes = False
        for line in _lines(file, label, delimiter, Quoting()):
            quotes, escapes = quotes or '"' in line, escapes or '\\"' in line
        if not quotes:
            return Quoting()
        lenient = Quoting(quoted=delimiter != "\t")
        for escaped in (False, True) if escapes else (False,):
            well_formed, padded = examine(plain := Quoting(escaped=escaped))
            if well_formed and not padded:
                return plain
            if examine(spaced := Quoting(padded=True, escaped=escaped))[0]:
                return spaced
            if well_formed and not escaped:
                lenient = plain
        return lenient
    finally:
        file.seek(start)


def _rows(file: TextIO, label: str, delimiter: str, quoting: Quoting, comments: "_CommentRule") -> Iterator[Row]:
    """Yield every row, empty ones as ``[]``, without comments."""
    lines: list[str] = []  # of the row that is being read
    over = False

    def remembered() -> Iterator[str]:
        nonlocal over
        for line in _lines(file, label, delimiter, quoting):
            lines.append(line)
            yield line
        over = True

    reader = _reader(remembered(), delimiter, quoting)
    try:
        for row in reader:
            if over and len(lines) > 1 and quoting.quoted and _is_open(lines, delimiter, quoting):
                opened = reader.line_num - len(lines) + 1
                raise PermanentError(f"{label} is not valid CSV: a quote in line {opened} is never closed")
            comment = lines[0].startswith("#") and comments.applies(lines[0], row)
            lines.clear()
            if not comment:
                yield row if any(cell.strip() for cell in row) else []
    except csv.Error as error:
        raise PermanentError(f"{label} is not valid CSV at line {reader.line_num}: {error}") from error


def _is_open(lines: Sequence[str], delimiter: str, quoting: Quoting) -> bool:
    """Return whether the file ended inside a quoted cell."""
    try:
        list(_reader(lines, delimiter, quoting, strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


@dataclass(frozen=True, slots=True)
class _CommentRule:
    """Decides whether a line that begins with ``#`` is a comment.

    It is one if it has one cell in a table of several. In a file that begins with comments, a blank or another ``#``
    after the first is also enough. Other lines, such as ``#1,first``, are rows.
    """

    width: int
    confirmed: bool

    def applies(self, line: str, cells: Row) -> bool:
        spaced = line[1:2] in ("", " ", "#", "\r", "\n")
        return (len(cells) == 1 < self.width) or (spaced and self.confirmed)


def _leading_comments(file: TextIO, delimiter: str, width: int) -> list[str]:
    """Read the comments that the file begins with.

    The last is the header instead if it has as many cells as the table, and either no blank after its ``#`` or no other
    header below it (as numpy writes).
    """

    def cells_of(line: str) -> Row:
        return next(_reader([line], delimiter, Quoting(quoted=False)), [])

    rule = _CommentRule(width, confirmed=True)
    begin = file.tell()
    comments: list[tuple[int, str]] = []
    while (line := file.readline(MAX_LINE_CHARS)).startswith("#") and rule.applies(line, cells_of(line)):
        comments.append((begin, line))
        begin = file.tell()
    if not line:  # Nothing but comments: then they are the table.
        begin = comments[0][0] if comments else begin
        comments.clear()
    elif comments and len(cells_of(comments[-1][1])) == width > 1:
        below = cells_of(file.readline(MAX_LINE_CHARS))
        if not is_header(cells_of(line), [below] if below else []):
            begin, _ = comments.pop()
    file.seek(begin)
    return [line.lstrip("#").strip()[:MAX_PREAMBLE_CHARS] for _, line in comments[-MAX_PREAMBLE:]]


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
    """Return the delimiter of a first line such as ``sep=;``, which is then skipped."""
    start = file.tell()
    line = file.readline(SEPARATOR_CHARS).rstrip("\r\n").strip('"')
    if line.lower().startswith("sep=") and len(line) == 5:
        return line[-1]
    file.seek(start)
    return None


def _delimiter(file: TextIO, candidates: str) -> tuple[str, int]:
    """Return the candidate that cuts the first rows into the same number of cells, more than one, and that number.

    One whose cells still hold another that does so, too, falls behind it. Without any it is a comma, and 1.
    """
    start = file.tell()
    sample = file.read(SNIFF_CHARS)
    file.seek(start)
    if len(sample) == SNIFF_CHARS:
        sample = sample[: sample.rfind("\n") + 1] or sample
    cuts = {candidate: _cut(sample, candidate) for candidate in candidates}
    shares = {candidate: _agreeing(cut) for candidate, cut in cuts.items()}
    rivals = [each for each, cut in cuts.items() if shares[each] >= RIVAL and len(_table(cut)[0]) == _usual_width(cut)]
    best, best_score = candidates if len(candidates) == 1 else ",", 0.0
    for candidate, cut in cuts.items():
        held = any(_hold(cut, rival) for rival in rivals if rival != candidate)
        score = shares[candidate] - (PENALTY if held else 0.0)
        if score > best_score:
            best, best_score = candidate, score
    return best, max(1, _usual_width(cuts[best]))


def _cut(sample: str, delimiter: str) -> list[Row]:
    """Return the rows of the sample; none if they cannot be split that way."""
    try:
        return [row for row in csv.reader(io.StringIO(sample), delimiter=delimiter) if row]
    except csv.Error:
        return []


def _table(rows: Sequence[Row]) -> Sequence[Row]:
    """Leave out the lines of one cell at the beginning: titles, and comments."""
    beginning = next((place for place, row in enumerate(rows) if len(row) > 1), 0)
    return rows[beginning:] if beginning <= MAX_PREAMBLE else rows


def _usual_width(rows: Sequence[Row]) -> int:
    return Counter(map(len, _table(rows))).most_common(1)[0][0] if rows else 0


def _agreeing(rows: Sequence[Row]) -> float:
    """Return the share of rows with the most frequent number of cells; 0 if that number is one."""
    width = _usual_width(rows)
    return sum(len(row) == width for row in rows) / len(rows) if width > 1 else 0.0


def _hold(rows: Sequence[Row], delimiter: str) -> bool:
    """Return whether half of the rows contain it in their cells, as a delimiter."""

    def holds(cell: str) -> bool:
        return delimiter in cell and not (delimiter == "," and _NOT_A_DELIMITER.fullmatch(cell.strip()))

    return 2 * sum(any(map(holds, row)) for row in rows) >= len(rows)
