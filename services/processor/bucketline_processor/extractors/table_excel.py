"""Spreadsheets, read by python-calamine: .xlsx (also Strict Open XML), .xlsm, .xlsb, .xls and .ods."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from bucketline.extractors import PermanentError
from bucketline_processor.extractors.table_columns import MAX_COLUMNS, Table, column_names, find_layout
from bucketline_processor.extractors.table_excel_scan import SheetNotes, scan_workbook
from bucketline_processor.extractors.values import json_value

if TYPE_CHECKING:
    from python_calamine import CalamineSheet

SAMPLE_ROWS = 100
EXACT_INTEGERS = 2**53
"""Every integer up to this one is exact in the double that a spreadsheet stores."""

Row = list[object]


def excel_tables(path: Path, label: str, header: str, sheets: Sequence[object] | None) -> Iterator[Table]:
    """Yield one table per sheet that is not empty. Formulas give the value that the spreadsheet program saved.

    A formula without a saved value gives its text (``=A1+1``); ``Table.uncalculated`` lists such cells. Columns that
    are empty in the first rows are left out, so a cell far out is one more column. Raises ``PermanentError`` for a
    damaged or password-protected file, a sheet in ``sheets`` that does not exist, and more than 5,000 columns;
    ``ResourceError`` for a sheet that is too large to be held in memory.
    """
    notes = scan_workbook(path, label)
    with _errors_reported(label):
        from python_calamine import SheetTypeEnum, load_workbook

        book = load_workbook(path)
    with book:
        readable = [sheet.name for sheet in book.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]
        for name in book.sheet_names if sheets is None else map(str, sheets):
            if name not in book.sheet_names:
                raise PermanentError(f"{label} has no sheet '{name}'")
            if name not in readable:
                continue  # a chart, a dialog or a macro sheet
            with _errors_reported(label):
                sheet = book.get_sheet_by_name(name)
            noted = notes.get(name, SheetNotes())
            if (table := _table(_rows(sheet, noted, label), header, name, label)) is not None:
                yield replace(table, uncalculated=noted.uncalculated)


@contextmanager
def _errors_reported(label: str) -> Iterator[None]:
    from python_calamine import CalamineError, PasswordError

    try:
        yield
    except PasswordError as error:
        raise PermanentError(f"{label} is password-protected; save it without a password") from error
    except (CalamineError, OSError) as error:
        raise PermanentError(f"{label} cannot be read as a spreadsheet: {str(error)[:200]}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of calamine's Rust code; it has no module to import it from
            raise
        raise PermanentError(f"{label} cannot be read as a spreadsheet: its content is not valid") from error


def _rows(sheet: "CalamineSheet", notes: SheetNotes, label: str) -> Iterator[Row]:
    """Yield every row from the first one on, empty ones as ``[]``."""
    before: Row = [None] * sheet.start[1] if sheet.start else []
    cells = iter(sheet.iter_rows())
    for number in count():
        with _errors_reported(label):
            values = next(cells, None)
        if values is None and not notes.cells:
            return
        row = [*before, *map(_cell, values)] if values else []
        if noted := notes.cells.pop(number, None):
            row += [None] * (max(noted) + 1 - len(row))
            for place, value in noted.items():
                row[place] = value
        yield _trimmed(row)


def _cell(value: object) -> object:
    """Return whole numbers as integers and days as midnight: a spreadsheet has neither type."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_INTEGERS:
        return int(value)
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return datetime.datetime.combine(value, datetime.time.min)
    return None if value == "" else value


def _table(rows: Iterator[Row], header: str, sheet: str, label: str) -> Table | None:
    sample = list(islice(rows, SAMPLE_ROWS))
    while sample and not any(sample):
        sample = list(islice(rows, SAMPLE_ROWS))
    if not sample:
        return None
    places = sorted({place for row in sample for place, cell in enumerate(row) if cell is not None})
    if len(places) > MAX_COLUMNS:
        raise PermanentError(f"the sheet '{sheet}' of {label} has {len(places)} columns; {MAX_COLUMNS} are allowed")
    layout = find_layout([_at(places, row) if row else [] for row in sample], header)
    first = sample[layout.start] if layout.named else []
    everywhere = column_names([*first, *[None] * (places[-1] + 1 - len(first))])
    names = {place: everywhere[place] for place in places}
    sample = sample[layout.start + layout.named :]
    columns = {name: _kind(row[place] for row in sample if place < len(row)) for place, name in names.items()}
    records = (_record(names, row) for row in chain(sample, rows) if row)
    return Table(columns, records, sheet, layout.preamble)


def _at(places: Sequence[int], row: Row) -> Row:
    return [row[place] for place in places if place < len(row)]


def _trimmed(row: Row) -> Row:
    end = len(row)
    while end and row[end - 1] is None:
        end -= 1
    return row[:end]


def _record(names: Mapping[int, str], row: Row) -> dict[str, object]:
    record = {name: json_value(row[place]) if place < len(row) else None for place, name in names.items()}
    for place, cell in enumerate(row):
        if place not in names and cell is not None:
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
