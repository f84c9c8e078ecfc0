"""Excel workbooks, by openpyxl in its streaming mode."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from bucketline.extraction import PermanentError
from processor.extractors.archive import check_archive
from processor.extractors.table_columns import MAX_COLUMNS, Table, column_names, is_header
from processor.extractors.values import json_value

SAMPLE_ROWS = 100

Row = tuple[object, ...]


def excel_tables(path: Path, label: str, header: str, sheets: Sequence[object] | None) -> Iterator[Table]:
    """One table a sheet that is not empty; formulas give the value that Excel saved.

    A cell far out (Excel has 16,384 columns) is one more column, without all the empty ones before it. Raises
    ``PermanentError`` for a damaged file, for a sheet in ``sheets`` that it does not have, and for one with more than
    5,000 columns.
    """
    from openpyxl import load_workbook

    check_archive(path, label, "xl/", "Excel (.xlsx)")
    with path.open("rb") as file:
        with _damage_reported(label):
            book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
        for name in book.sheetnames if sheets is None else map(str, sheets):
            if name not in book.sheetnames:
                raise PermanentError(f"{label} has no sheet '{name}'")
            sheet = book[name]
            if not hasattr(sheet, "iter_rows"):
                continue  # a chart sheet
            sheet.reset_dimensions()  # the file's own claim is often wrong
            table = _table(_rows(sheet.iter_rows(values_only=True), label), header, name, label)
            if table is not None:
                yield table
        book.close()


@contextmanager
def _damage_reported(label: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise  # says nothing about the file
    except Exception as error:  # openpyxl raises almost anything on damaged content
        raise PermanentError(f"{label} is damaged: it is not a complete Excel (.xlsx) file") from error


def _rows(cells: Iterator[Row], label: str) -> Iterator[Row]:
    """Every row that is not empty. Sheets are parsed while they are read, so this is where damage shows."""
    with _damage_reported(label):
        yield from (row for row in map(_trimmed, cells) if row)


def _table(rows: Iterator[Row], header: str, sheet: str, label: str) -> Table | None:
    sample = list(islice(rows, SAMPLE_ROWS))
    if not sample:
        return None
    places = _places(sample)
    if len(places) > MAX_COLUMNS:
        raise PermanentError(f"the sheet '{sheet}' of {label} has {len(places)} columns; {MAX_COLUMNS} are allowed")
    seen = [[row[place] for place in places if place < len(row)] for row in sample]
    named = header == "yes" or (header == "auto" and is_header(seen[0], seen[1:]))
    first: Row = sample.pop(0) if named else ()
    everywhere = column_names([*first, *[None] * (places[-1] + 1 - len(first))])
    names = {place: everywhere[place] for place in places}
    columns = {name: _kind(row[place] for row in sample if place < len(row)) for place, name in names.items()}
    return Table(columns, (_record(names, row) for row in chain(sample, rows)), sheet)


def _places(sample: Sequence[Row]) -> Sequence[int]:
    """Where the columns stand: side by side, but of a sheet with a cell far out only those in which there is one."""
    width = max(map(len, sample))
    if width <= MAX_COLUMNS:
        return range(width)
    return sorted({place for row in sample for place, cell in enumerate(row) if cell is not None and cell != ""})


def _trimmed(row: Row) -> Row:
    """Without the empty cells at the end; empty for an empty row."""
    end = len(row)
    while end and (row[end - 1] is None or row[end - 1] == ""):
        end -= 1
    return row[:end]


def _record(names: Mapping[int, str], row: Row) -> dict[str, object]:
    record = {name: json_value(row[place]) if place < len(row) else None for place, name in names.items()}
    for place, cell in enumerate(row):
        if place not in names and cell is not None and cell != "":
            record[f"column_{place + 1}"] = json_value(cell)
    return record


def _kind(values: Iterator[object]) -> str:
    kinds = set()
    for value in values:
        shown = json_value(value)
        if isinstance(shown, bool):
            kinds.add("boolean")
        elif isinstance(shown, int | float):
            kinds.add("integer" if isinstance(shown, int) else "float")
        elif shown is not None:
            kinds.add("datetime" if hasattr(value, "isoformat") else "string")
    if kinds == {"integer", "float"}:
        return "float"
    return kinds.pop() if len(kinds) == 1 else "string"
