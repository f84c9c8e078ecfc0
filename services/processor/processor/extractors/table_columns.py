"""Names and types of a table's columns."""

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MAX_COLUMNS = 5000
MAX_NAME = 200
# At the root of a document these mean something already.
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

_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"[+-]?(\d{1,15}\.\d{0,17}|\.\d{1,17}|\d{1,15}(\.\d{0,17})?[eE][+-]?\d{1,3})")
_DECIMAL_COMMA = re.compile(r"[-+]?\d[\d.' ]*,\d+")
_MOMENT = re.compile(r"(1[89]|2[01])\d\d(-\d\d(-\d\d([T ]\d\d:\d\d.*)?)?)?")
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a file. ``rows`` is read once; ``columns`` maps names to types, as far as they are
    known.
    """

    columns: Mapping[str, str]
    rows: Iterator[dict[str, object]]
    sheet: str | None = None


def column_names(header: Sequence[object]) -> list[str]:
    """Names that a document may have, one a cell, all different.

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
    """Spreadsheets have no days, only moments."""
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time.min:
        cell = cell.date()
    return "" if cell is None else str(cell).strip()


def safe_name(name: str) -> str:
    """``name`` without what the root of a document cannot have; may be empty."""
    clean = name.encode("utf-8", "replace").decode("utf-8").replace("\0", "").replace(".", "_").strip()
    return clean.lstrip("$_ ")[:MAX_NAME]


def is_header(first: Sequence[object], below: Sequence[Sequence[object]]) -> bool:
    """Whether a first row looks like names: text, no numbers.

    Years and dates are names behind one that is text (``country,2019,2020``), where all are different and there is
    more than years and dates below. All different and none empty, they count as names even above nothing but text,
    where it cannot be told: nearly every file has a header. With empty or equal ones among them there must be a column
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
    return any(cell and _is_typed(below, place) for place, cell in enumerate(cells))


def _is_number(cell: str) -> bool:
    return kind_of(cell) != "string" or _DECIMAL_COMMA.fullmatch(cell) is not None


def _is_typed(rows: Sequence[Sequence[object]], place: int) -> bool:
    """Whether a column holds something, and nothing that is merely text."""
    values = _column(rows, place)
    return bool(values) and not any(isinstance(value, str) and kind_of(value.strip()) == "string" for value in values)


def _is_of_moments(rows: Sequence[Sequence[object]], place: int) -> bool:
    values = _column(rows, place)
    return bool(values) and all(_MOMENT.fullmatch(_shown(value)) for value in values)


def _column(rows: Sequence[Sequence[object]], place: int) -> list[object]:
    return [row[place] for row in rows if place < len(row) and row[place] not in (None, "")]


def kind_of(text: str) -> str:
    """``integer``, ``float``, ``boolean``, else ``string``. Numbers with leading zeros are codes and those with a plus
    are for telephones, hence text.
    """
    if _INTEGER.fullmatch(text):
        return "integer"
    if _FLOAT.fullmatch(text):
        return "float"
    return "boolean" if text.lower() in _BOOLEANS else "string"


def column_kind(texts: Iterator[str]) -> str:
    """The type that holds every value; empty ones say nothing."""
    kinds = {kind_of(text) for text in texts if text}
    if kinds == {"integer", "float"}:
        return "float"
    return kinds.pop() if len(kinds) == 1 else "string"


def typed(text: str, kind: str) -> object:
    """``text`` as a value of its column's type; a stray value that is none stays text, an empty one is
    ``None``.
    """
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
    if kind == "float" and found in ("integer", "float"):
        return float(stripped)
    return text
