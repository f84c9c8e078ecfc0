"""Reads what python-calamine does not report from the files of a workbook, in one streaming pass.

calamine holds a sheet as a dense grid: a file that claims a cell in row 2,147,483,647 would take all memory. It also
turns long integers into doubles, and drops the text of error values and of formulas that no program has calculated.
"""

import io
import math
import mmap
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.parsers import expat

from bucketline.extractors import PermanentError, ResourceError
from bucketline_processor.extractors.archive import check_archive
from bucketline_processor.extractors.table_columns import DIGITS_OF_A_DOUBLE, FLOAT, exact_float

MAX_CELLS = 10_000_000
"""Cells of one sheet's grid, empty ones included: about 700 MB in calamine."""

MAX_ROWS, MAX_PLACES = 1_048_576, 16_384
MAX_NOTED = 500_000
OLE_SIGNATURE = b"\xd0\xcf\x11\xe0"
MAX_LISTED = 100
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_DIGITS = 300
"""Integers with more digits are beyond the range of a double."""

MAX_REFERENCE_DIGITS = 10

_LETTERS = re.compile("[A-Za-z]{1,3}")
_XLS_BEGIN, _XLS_ENCRYPTED = b"\x09\x08\x10\x00\x00\x06\x05\x00", b"\x2f\x00"
_XLSB_ROW, _XLSB_CELLS = 0, range(2, 12)


@dataclass(slots=True)
class SheetNotes:
    """Corrections for one sheet.

    ``cells`` are values by row and column, both counted from 0, that replace those of calamine. ``uncalculated`` names
    the first 100 cells whose formula has no saved value.
    """

    cells: dict[int, dict[int, object]] = field(default_factory=dict)
    uncalculated: list[str] = field(default_factory=list)


def scan_workbook(path: Path, label: str) -> dict[str, SheetNotes]:
    """Return the notes of each sheet of an .xlsx file; of other kinds check the size only.

    Raises ``PermanentError`` for a damaged archive, XML that is not well-formed and a cell outside of a sheet's limits,
    ``ResourceError`` for a grid of more than 10 million cells.
    """
    with path.open("rb") as file:
        if file.read(4) == OLE_SIGNATURE:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _check_ole(content, label)
            return {}  # Cells of .xls files have 16 bits for their row.
    check_archive(path, label, ("xl/", "content.xml"), "spreadsheet")
    notes: dict[str, SheetNotes] = {}
    with zipfile.ZipFile(path) as archive, _damage_reported(label):
        sheets = _sheet_names(archive)
        for name in archive.namelist():
            if name == "META-INF/manifest.xml" and b"encryption-data" in archive.open(name).read(MAX_MANIFEST_BYTES):
                raise PermanentError(f"{label} is password-protected; save it without a password")
            if name == "content.xml":
                _parse(archive, name, OpenDocumentScan(label).start)
            elif name.startswith("xl/worksheets/") and name.endswith(".bin"):
                with archive.open(name) as file:
                    _scan_xlsb(file, Extent(label))
            elif name in sheets or name.lower().startswith("xl/worksheets/sheet"):
                scan = SheetScan(label)
                _parse(archive, name, scan.start, scan.data)
                scan.end_cell()
                notes[sheets.get(name, "")] = scan.notes
    return notes


def _check_ole(content: mmap.mmap, label: str) -> None:
    """Name what calamine only fails to detect: other files of old Office programs, and encrypted ones."""
    bof = content.find(_XLS_BEGIN)
    record = bof + 4 + int.from_bytes(content[bof + 2 : bof + 4], "little")
    if content.find(_stream("EncryptedPackage")) >= 0 or (bof >= 0 and content[record : record + 2] == _XLS_ENCRYPTED):
        raise PermanentError(f"{label} is password-protected; save it without a password")
    for name, kind in (("WordDocument", "Word"), ("PowerPoint Document", "PowerPoint")):
        if content.find(_stream(name)) >= 0:
            raise PermanentError(f"{label} is no spreadsheet file; it is an old {kind} file")


def _stream(name: str) -> bytes:
    return name.encode("utf-16-le")


@contextmanager
def _damage_reported(label: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise PermanentError(f"{label} is damaged: it is not a complete spreadsheet file") from error
    except expat.ExpatError as error:
        raise PermanentError(
            f"{label} cannot be read as a spreadsheet: its XML is not well-formed ({error})"
        ) from error
    except (NotImplementedError, RuntimeError) as error:  # a ZIP method that is not known, or a password
        raise PermanentError(f"{label} is compressed or encrypted in a way that is not supported: {error}") from error


def _sheet_names(archive: zipfile.ZipFile) -> dict[str, str]:
    """Map the archive's files to the names of their sheets, both kinds of Open XML (Transitional and Strict) alike."""
    files = set(archive.namelist())
    book, links = "xl/workbook.xml", "xl/_rels/workbook.xml.rels"
    if book not in files or links not in files:
        return {}
    targets: dict[str, str] = {}
    names: dict[str, str] = {}

    def start(name: str, attributes: dict[str, str]) -> None:
        name = _local(name)
        if name == "Relationship":
            targets[attributes.get("Id", "")] = attributes.get("Target", "")
        elif name == "sheet":
            link = next((value for key, value in attributes.items() if key.endswith(":id")), "")
            part = posixpath.normpath(posixpath.join("/xl", targets.get(link, ""))).lstrip("/")
            names[part] = attributes.get("name", "")

    _parse(archive, links, start)
    _parse(archive, book, start)
    return names


def _parse(
    archive: zipfile.ZipFile,
    part: str,
    start: Callable[[str, dict[str, str]], None],
    data: Callable[[str], None] | None = None,
) -> None:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.CharacterDataHandler = data
    with archive.open(part) as file:
        parser.ParseFile(file)


def _local(name: str) -> str:
    return name.rpartition(":")[2] if ":" in name else name


class Extent:
    """The used area of a sheet; refuses one that is too large for memory."""

    def __init__(self, label: str) -> None:
        self._label = label
        self.rows = self.places = 0

    def add(self, row: int, place: int) -> None:
        """Include a cell; raise ``PermanentError`` or ``ResourceError`` if it is out of bounds."""
        if row < self.rows and place < self.places:
            return
        if row >= MAX_ROWS or place >= MAX_PLACES:
            limits = f"{MAX_ROWS:,} rows and {MAX_PLACES:,} columns are possible"
            raise PermanentError(f"{self._label} names a cell in row {row + 1}, column {place + 1}; {limits}")
        self.rows, self.places = max(self.rows, row + 1), max(self.places, place + 1)
        if self.rows * self.places > MAX_CELLS:
            size = f"{self.rows:,} rows x {self.places:,} columns"
            raise ResourceError(f"{self._label} has a sheet of {size}; {MAX_CELLS:,} cells are allowed, save it as CSV")


class SheetScan:
    """Handlers for the XML of a sheet of an .xlsx file. They run for every cell, so they avoid calls and objects."""

    def __init__(self, label: str) -> None:
        self.notes = SheetNotes()
        self._label = label
        self._extent = Extent(label)
        self._columns: dict[str, int] = {}
        self._noted = 0
        self._row = self._place = -1
        self._kind = "n"
        self._value = ""
        self._formula: str | None = None
        self._within = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Handle an opening tag."""
        name = _local(name)
        if name == "c":
            self.end_cell()
            self._kind = attributes.get("t", "n")
            if (reference := attributes.get("r")) is None:
                self._place += 1
            else:
                self._move(reference)
        elif name in ("v", "f", "is"):
            self._extent.add(self._row, self._place)
            if name == "f":
                self._formula = ""
        elif name == "row":
            self.end_cell()
            number = attributes.get("r", "")
            self._row, self._place = _row_number(number) - 1 if number.isdecimal() else self._row + 1, -1
            if self._row >= MAX_ROWS:
                self._extent.add(self._row, 0)
        self._within = name

    def data(self, text: str) -> None:
        """Handle text between two tags."""
        if self._within == "v":
            self._value += text
        elif self._within == "f" and self._formula is not None:
            self._formula += text

    def end_cell(self) -> None:
        """Record what calamine does not report about the cell that ends here; call it again after the last cell."""
        value, formula, kind = self._value.strip(), self._formula, self._kind
        self._value, self._formula = "", None
        if formula is not None and not value and kind not in ("str", "inlineStr"):
            self._keep(f"={formula.strip()}" if formula.strip() else None)
            if len(self.notes.uncalculated) < MAX_LISTED:
                letters = next(name for name, place in self._columns.items() if place == self._place)
                self.notes.uncalculated.append(f"{letters}{self._row + 1}")
        elif kind == "e" and value:
            self._keep(value)
        elif kind == "n" and (len(value) > DIGITS_OF_A_DOUBLE or "E" in value or "e" in value):
            self._note_number(value)

    def _move(self, reference: str) -> None:
        letters = reference.rstrip("0123456789")
        place, row = self._columns.get(letters), _row_number(reference[len(letters) :])
        if place is None:
            place = _place(letters)
            self._columns[letters] = place
        if row < 1 or place < 0:
            raise PermanentError(f"{self._label} names a cell {reference[:40]!r}, which no sheet can have")
        self._row, self._place = row - 1, place

    def _note_number(self, text: str) -> None:
        """Keep integers with all their digits, which programs other than Excel write; fractions stay doubles."""
        digits = text.removeprefix("-")
        if digits.isdecimal():
            if len(digits) > MAX_DIGITS:
                self._keep(text)
            elif int(float(digits)) != int(digits):
                self._keep(int(text))
        elif FLOAT.fullmatch(text) and (math.isinf(float(text)) or (float(text) == 0 and exact_float(text) is None)):
            self._keep(text)

    def _keep(self, value: object) -> None:
        self._noted += 1
        if self._noted > MAX_NOTED:
            what = "errors, long numbers and uncalculated formulas"
            raise ResourceError(f"{self._label} has more than {MAX_NOTED:,} {what} in a sheet")
        self.notes.cells.setdefault(self._row, {})[self._place] = value


def _row_number(digits: str) -> int:
    """Return the row, counted from 1, or 0 when there is none. One of many digits is only known to be too large."""
    return int(digits or 0) if len(digits) <= MAX_REFERENCE_DIGITS else MAX_ROWS + 1


def _place(letters: str) -> int:
    """Return the column that the letters name, counted from 0, or -1."""
    if not _LETTERS.fullmatch(letters):
        return -1
    place = 0
    for letter in letters.upper():
        place = 26 * place + ord(letter) - ord("A") + 1
    return place - 1


class OpenDocumentScan:
    """Handler for the content of an .ods file, where a row or a cell may say how often it repeats."""

    def __init__(self, label: str) -> None:
        self._label = label
        self.start_table()

    def start_table(self) -> None:
        """Begin a sheet."""
        self._extent = Extent(self._label)
        self._row = self._rows = self._place = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Handle an opening tag."""
        name = _local(name)
        if name == "table":
            self.start_table()
        elif name == "table-row":
            self._row, self._place = self._row + self._rows, 0
            self._rows = _repeats(attributes, "table:number-rows-repeated")
        elif name in ("table-cell", "covered-table-cell"):
            self._place += _repeats(attributes, "table:number-columns-repeated")
            if "office:value-type" in attributes or "table:formula" in attributes:
                self._extent.add(self._row + self._rows - 1, self._place - 1)
        elif name == "p" and self._place:
            self._extent.add(self._row + self._rows - 1, self._place - 1)


def _repeats(attributes: dict[str, str], name: str) -> int:
    text = attributes.get(name, "1")
    return int(text) if text.isdecimal() and len(text) < 20 else 1


def _scan_xlsb(file: IO[bytes], extent: Extent) -> None:
    """Walk the records of a binary sheet: a kind and a size, each a number of seven bits per byte, then the content."""
    row = 0
    while (kind := _number(file, 2)) is not None and (size := _number(file, 4)) is not None:
        content = file.read(min(size, 4))
        file.seek(size - len(content), io.SEEK_CUR)
        if kind == _XLSB_ROW:
            row = int.from_bytes(content, "little")
        elif kind in _XLSB_CELLS:
            extent.add(row, int.from_bytes(content, "little"))


def _number(file: IO[bytes], most: int) -> int | None:
    value = 0
    for place in range(most):
        if not (byte := file.read(1)):
            return None
        value |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            break
    return value
