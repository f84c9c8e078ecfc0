"""Which page of a list a request wants, and the ``pagination`` block of the answer (contract, section 3).

The two kinds of clients send the same numbers in different places: the query string and the JSON body. What the body
says wins, separately for the size, the place and ``include_total``. ``limit`` beats ``page_size``; a cursor beats
``offset``, which beats ``page``. Null, and an empty cursor, mean "not given".
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from bucketline.domain.cursors import Cursor, Partition, check_partition, check_sorts, decode
from bucketline.domain.keyset import FieldPath, position_of
from bucketline.domain.sorting import Sort
from bucketline.errors import ValidationFailed, ValidationIssue

PAGING_FIELDS = frozenset({"limit", "page_size", "offset", "page", "cursor", "next_cursor", "after", "include_total"})

_CURSORS = ("cursor", "next_cursor", "after")
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})


@dataclass(frozen=True)
class Bounds:
    """The sizes of one kind of list, and how far into it counting may go."""

    default_size: int
    max_size: int
    max_offset: int = 100_000


OBJECTS = Bounds(10, 1000)
UPLOADS = Bounds(20, 100)
BATCHES = Bounds(100, 1000)
BUCKETS = NAMESPACES = COLLECTIONS = Bounds(10, 1000, max_offset=10_000)
DOCUMENTS = Bounds(10, 1000)
TASKS = Bounds(10, 1000)


@dataclass(frozen=True)
class PageRequest:
    """``size`` rows from ``offset``, or after ``cursor`` (then ``offset`` is 0)."""

    size: int
    offset: int = 0
    cursor: Cursor | None = None
    include_total: bool = False
    max_offset: int = 100_000

    @property
    def before(self) -> int:
        """How many rows came before this page."""
        return self.offset if self.cursor is None else self.cursor.count

    @property
    def number(self) -> int:
        """The page's number, from 1; an estimate where the place is not a multiple of the size."""
        return self.before // self.size + 1

    @property
    def skip(self) -> int:
        """How many rows to skip; a cursor that knows its position needs none."""
        if self.cursor is None:
            return self.offset
        return self.cursor.count if self.cursor.position is None else 0

    def sorts(self, named: Sequence[Sort] | None, default: Sequence[Sort]) -> tuple[Sort, ...]:
        """The order of the list: what the request names, else what its cursor carries, else the list's default.

        Raises :class:`BadRequest` when the cursor belongs to another order.
        """
        if self.cursor is None:
            return tuple(named if named is not None else default)
        if named is not None:
            check_sorts(self.cursor, named)
        return self.cursor.sorts

    def partition(self, named: Partition | None) -> Partition | None:
        """What part of the list is read: what the request names, else what its cursor carries, else all of it.

        Raises :class:`BadRequest` when the cursor belongs to another partition.
        """
        if self.cursor is None:
            return named
        if named is not None:
            check_partition(self.cursor, named)
        return self.cursor.partition


def resolve_page(query: Mapping[str, str], body: Mapping[str, object] | None, bounds: Bounds) -> PageRequest:
    """The page that a request wants.

    Raises :class:`ValidationFailed` for a number that is none or out of range, and :class:`BadRequest` for a cursor
    that is not ours.
    """
    sources: list[_Source] = [_Source("body", body or {}), _Source("query", query)]
    faults: list[ValidationIssue] = []
    size = _size(sources, bounds, faults)
    offset, cursor = _place(sources, size, bounds, faults)
    include_total = _include_total(sources, faults)
    if faults:
        raise ValidationFailed(faults)
    return PageRequest(size, offset, None if cursor is None else decode(cursor), include_total, bounds.max_offset)


def cut(
    fetched: Sequence[Mapping[str, object]],
    request: PageRequest,
    sorts: Sequence[Sort],
    field_path: FieldPath,
    partition: Partition | None = None,
) -> tuple[int, str | None]:
    """How many of the rows belong to the page, and the cursor of the next one (None at the end).

    ``fetched`` are stored rows in the list's order, from a query for ``request.size + 1``: the one too many is how we
    know that there is a next page.
    """
    if len(fetched) <= request.size:
        return len(fetched), None
    last = fetched[request.size - 1]
    cursor = Cursor(tuple(sorts), request.before + request.size, position_of(last, sorts, field_path), partition)
    return request.size, cursor.encode()


def pagination(
    request: PageRequest, next_cursor: str | None, *, path: str, query: Mapping[str, str], total: int | None = None
) -> dict[str, object]:
    """The ``pagination`` block. ``total`` is given if and only if the request asked for it.

    ``path`` and ``query`` are those of the request: links keep whatever else it asked for. Links of POST lists carry
    the place only; the body is to be sent again, without its own paging fields.
    """
    answer: dict[str, object] = {"page": request.number, "page_size": request.size}
    if total is not None:
        answer |= {"total": total, "total_pages": -(-total // request.size)}
    kept = {name: value for name, value in query.items() if name not in PAGING_FIELDS}
    kept["limit"] = str(request.size)
    if request.include_total:
        kept["include_total"] = "true"
    if next_cursor is None:
        answer["next_page"] = None
    elif request.cursor is None and request.offset + request.size <= request.max_offset:
        answer["next_page"] = _link(path, kept, request.offset + request.size, request.size)
    else:
        answer["next_page"] = f"{path}?{urlencode({**kept, 'cursor': next_cursor})}"
    # a cursor only leads forward
    previous = request.cursor is None and request.offset > 0
    answer["previous_page"] = (
        _link(path, kept, max(0, request.offset - request.size), request.size) if previous else None
    )
    answer["next_cursor"] = next_cursor
    return answer


def _link(path: str, kept: Mapping[str, str], offset: int, size: int) -> str:
    place = {"offset": str(offset)} if offset % size else {"page": str(offset // size + 1)}
    return f"{path}?{urlencode({**kept, **place})}"


@dataclass(frozen=True)
class _Source:
    """The query string or the body."""

    name: str
    values: Mapping[str, object]

    def first(self, names: Iterable[str]) -> str | None:
        """The first of ``names`` that is given here."""
        for name in names:
            value = self.values.get(name)
            if value is not None and not (value == "" and name in _CURSORS):
                return name
        return None

    def integer(self, name: str, low: int, high: int, faults: list[ValidationIssue]) -> int | None:
        """Within ``low`` and ``high``, or None with a fault."""
        value, at = self.values[name], (self.name, name)
        if isinstance(value, str) and self.name == "query" and _INTEGER.fullmatch(value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            faults.append(ValidationIssue("int_type", at, "a whole number is expected"))
        elif not low <= value <= high:
            faults.append(ValidationIssue("out_of_range", at, f"must be from {low} to {high}"))
        else:
            return value
        return None


def _size(sources: Sequence[_Source], bounds: Bounds, faults: list[ValidationIssue]) -> int:
    for source in sources:
        if name := source.first(("limit", "page_size")):
            return source.integer(name, 1, bounds.max_size, faults) or bounds.default_size
    return bounds.default_size


def _place(
    sources: Sequence[_Source], size: int, bounds: Bounds, faults: list[ValidationIssue]
) -> tuple[int, str | None]:
    for source in sources:
        name = source.first((*_CURSORS, "offset", "page"))
        if name in _CURSORS:
            cursor = source.values[name]
            if isinstance(cursor, str):
                return 0, cursor
            faults.append(ValidationIssue("string_type", (source.name, name), "a string is expected"))
            return 0, None
        if name == "offset":
            return source.integer(name, 0, bounds.max_offset, faults) or 0, None
        if name == "page":
            page = source.integer(name, 1, bounds.max_offset // size + 1, faults)
            return ((page or 1) - 1) * size, None
    return 0, None


def _include_total(sources: Sequence[_Source], faults: list[ValidationIssue]) -> bool:
    for source in sources:
        if source.first(("include_total",)):
            value = source.values["include_total"]
            if isinstance(value, bool):
                return value
            if isinstance(value, str) and source.name == "query" and value.strip().lower() in _TRUE | _FALSE:
                return value.strip().lower() in _TRUE
            faults.append(ValidationIssue("bool_type", (source.name, "include_total"), "true or false is expected"))
            return False
    return False
