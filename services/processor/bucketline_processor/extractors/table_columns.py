"""Names and types of the columns of a table."""

import datetime
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from bucketline_processor.extractors.values import INT64_MAX, INT64_MIN

MAX_COLUMNS = 5000
MAX_NAME = 200
# These names have a meaning at the root of a document.
RESERVED = {
    "table",
    "document_id",
    "document_blobs",
    "collection_id",
    "object_id",
    "bucket_id",
    "namespace_id",
    "root_object_id",
    "root_bucket_id",
}

MAX_PREAMBLE = 20
MAX_PREAMBLE_CHARS = 500
MAX_NUMBER_CHARS = 400
DIGITS_OF_A_DOUBLE = 15
"""Every number of so many significant digits survives the way into a double and back."""

_INTEGER = re.compile(r"-?(0|[1-9]\d{0,18})", re.ASCII)
FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d{1,3})", re.ASCII)
_CODE = re.compile(r"\d+[eE]\d+", re.ASCII)
_VERSION = re.compile(r"\d{1,3}\.\d{1,3}", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[-+]?\d[\d.' ]*,\d+")
_MOMENT = re.compile(r"(1[89]|2[01])\d\d(-\d\d(-\d\d([T ]\d\d:\d\d.*)?)?)?")
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a file. ``rows`` is read once; ``columns`` maps names to types, if known."""

    columns: Mapping[str, str]
    rows: Iterator[dict[str, object]]
    sheet: str | None = None
    preamble: Sequence[str] = ()
    """Titles, metadata and comments that stand above the header."""
    uncalculated: Sequence[str] = ()
    """Cells (``B2``) whose formula has no saved value."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The first row of a table, whether it names the columns, and the lines above it."""

    start: int
    named: bool
    preamble: Sequence[str] = ()


def column_names(header: Sequence[object]) -> list[str]:
    """Return one valid, unique field name per cell.

    Dots become ``_``; leading ``$`` and ``_`` go; an empty name is ``column_<n>``; a name that is taken, or
    that documents use themselves, gets ``_2``, ``_3`` and so on.
    """
    taken = set(RESERVED)
    names = []
    for number, cell in enumerate(header, start=1):
        base = safe_name(_shown(cell)) or f"column_{number}"
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        names.append(name)
    return names


def _shown(cell: object) -> str:
    """Return a cell as text; dates of spreadsheets are moments, so midnight is shown as a day."""
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time.min:
        cell = cell.date()
    return "" if cell is None else str(cell).strip()


def safe_name(name: str) -> str:
    """Return ``name`` without characters that a field cannot have; may be empty."""
    clean = name.encode("utf-8", "replace").decode("utf-8").replace("\0", "").replace(".", "_").strip()
    return clean.lstrip("$_ ")[:MAX_NAME]


def find_layout(rows: Sequence[Sequence[object]], header: str) -> Layout:
    """Find the header among the first rows of a file, in which ``[]`` is an empty row and at least one is not.

    With ``header`` other than ``auto`` the table begins with the first row that is not empty. Otherwise titles and
    metadata are left out: up to 20 rows of other widths than the table, above a row that looks like a header. Besides,
    two of three must hold: they are narrower, an empty row follows them, numbers or dates stand below a name.
    """
    filled = [number for number, row in enumerate(rows) if row]
    first = filled[0]
    if header != "auto":
        return Layout(first, header == "yes")
    widths = [_width(rows[number]) for number in filled]
    usual = Counter(_without_lone_cells(widths)).most_common(1)[0][0]
    for place in range(1, min(len(filled), MAX_PREAMBLE + 1)):
        if usual in widths[:place]:
            break  # the table has begun
        start, below = filled[place], [rows[number] for number in filled[place + 1 :]]
        if widths[place] < usual or not is_header(rows[start], below):
            continue
        separate, narrower = start > filled[place - 1] + 1, max(widths[:place]) < widths[place]
        typed_below = _names_a_typed_column(rows[start], below)
        if (separate and typed_below) or (narrower and (separate or typed_below)):
            above = (rows[number] for number in filled[:place])
            return Layout(start, True, [" ".join(filter(None, map(_shown, row)))[:MAX_PREAMBLE_CHARS] for row in above])
    return Layout(first, is_header(rows[first], [rows[number] for number in filled[1:]]))


def _width(row: Sequence[object]) -> int:
    return max((place for place, cell in enumerate(row, start=1) if cell not in (None, "")), default=0)


def _without_lone_cells(widths: Sequence[int]) -> Sequence[int]:
    """Leave out rows of one cell at the beginning, as titles are; keep all when there is nothing else."""
    beginning = next((place for place, width in enumerate(widths) if width > 1), 0)
    return widths[beginning:] if beginning <= MAX_PREAMBLE else widths


def is_header(first: Sequence[object], below: Sequence[Sequence[object]]) -> bool:
    """Return whether a first row looks like names: text, no numbers.

    Years and dates are names behind one that is text (``country,2019,2020``), where all are different and there is
    more than years and dates below. All different and none empty, they count as names even above nothing but text,
    because nearly every file has a header. With empty or equal ones among them there must be a column
    of numbers or dates below a name.
    """
    cells = [_shown(cell) for cell in first]
    moments = {place for place, cell in enumerate(cells) if _MOMENT.fullmatch(cell)}
    if any(_is_number(cell) for place, cell in enumerate(cells) if place not in moments) or not any(cells):
        return False
    different = all(cells) and len(set(cells)) == len(cells)
    if moments:
        return different and 0 not in moments and bool(below) and not any(_is_of_moments(below, at) for at in moments)
    if different:
        return len(cells) > 1 or bool(below)
    return _names_a_typed_column(first, below)


def _names_a_typed_column(first: Sequence[object], below: Sequence[Sequence[object]]) -> bool:
    return any(_shown(cell) and _is_typed(below, place) for place, cell in enumerate(first))


def _is_number(cell: str) -> bool:
    return kind_of(cell) != "string" or _DECIMAL_COMMA.fullmatch(cell) is not None


def _is_typed(rows: Sequence[Sequence[object]], place: int) -> bool:
    """Return whether a column has values and none of them is plain text."""
    values = _column(rows, place)
    return bool(values) and not any(isinstance(value, str) and kind_of(value.strip()) == "string" for value in values)


def _is_of_moments(rows: Sequence[Sequence[object]], place: int) -> bool:
    values = _column(rows, place)
    return bool(values) and all(_MOMENT.fullmatch(_shown(value)) for value in values)


def _column(rows: Sequence[Sequence[object]], place: int) -> list[object]:
    return [row[place] for row in rows if place < len(row) and row[place] not in (None, "")]


def kind_of(text: str) -> str:
    """Return ``integer``, ``float``, ``boolean`` or ``string``.

    Numbers with leading zeros are codes and those with a plus are telephone numbers, hence text; so are numbers whose
    digits 64 bits or a double cannot represent.
    """
    if _INTEGER.fullmatch(text):
        return "integer" if INT64_MIN <= int(text) <= INT64_MAX else "string"
    if FLOAT.fullmatch(text):
        return "string" if exact_float(text) is None else "float"
    return "boolean" if text.lower() in _BOOLEANS else "string"


def exact_float(text: str) -> float | None:
    """Return the number in ``text``, or None if a double cannot represent it exactly.

    The digits of a double that were written out to the last (``0.1000000000000000055``) count as its own.
    """
    value = float(text)
    if len(text) <= DIGITS_OF_A_DOUBLE and "e" not in text.lower():
        return value
    if len(text) > MAX_NUMBER_CHARS or math.isinf(value):
        return None
    if value == 0:
        return None if re.search("[1-9]", re.split("[eE]", text)[0]) else value
    number = Decimal(text)
    digits = len(number.as_tuple().digits)
    return value if number in (Decimal(repr(value)), Decimal(f"{value:.{digits - 1}e}")) else None


def column_kind(texts: Iterator[str]) -> str:
    """Return the type that fits every value; empty values are ignored.

    ``float`` needs a column that is written as numbers are: codes like ``1E5`` stay text unless some number has a
    decimal point or a signed exponent, and so do versions like ``1.9`` and ``1.10``, where trailing zeros differ.
    """
    values = [text for text in texts if text]
    kinds = {kind_of(text) for text in values}
    if "float" in kinds and kinds <= {"integer", "float"}:
        return "string" if _are_codes(values) or _are_versions(values) else "float"
    return kinds.pop() if len(kinds) == 1 else "string"


def _are_codes(values: Sequence[str]) -> bool:
    return all(_CODE.fullmatch(text) or _INTEGER.fullmatch(text) for text in values)


def _are_versions(values: Sequence[str]) -> bool:
    """Return whether the values are versions; measurements have equal decimals or no trailing zeros."""
    dotted = [text for text in values if not _INTEGER.fullmatch(text)]
    if any(text.startswith("-") for text in values) or not all(map(_VERSION.fullmatch, dotted)):
        return False
    decimals = [text.partition(".")[2] for text in dotted]
    return len(set(map(len, decimals))) > 1 and any(len(each) > 1 and each.endswith("0") for each in decimals)


def typed(text: str, kind: str) -> object:
    """Return ``text`` as a value of the type of its column; text that does not fit stays text, empty text is None."""
    stripped = text.strip()
    if not stripped:
        return None
    if kind == "string":
        return text
    found = kind_of(stripped)
    if kind == "boolean" and found == "boolean":
        return _BOOLEANS[stripped.lower()]
    if kind == "integer" and found == "integer":
        return int(stripped)
    if kind == "float" and found in ("integer", "float") and (value := exact_float(stripped)) is not None:
        return value
    return text
