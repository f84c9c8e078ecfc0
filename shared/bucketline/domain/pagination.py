"""Which page of a list a request asks for, and the ``pagination`` block of the response (contract, section 3).

The two official clients send the same numbers in different places: the query string and the JSON body. The body wins,
separately for the size, the position and ``include_total``. ``limit`` beats ``page_size``; a cursor beats ``offset``,
which beats ``page``. Null, and an empty cursor, count as absent.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from bucketline.domain.keyset import Cursor, FieldPath, Partition, Sort, invalid_cursor, position_of
from bucketline.errors import ValidationFailed, ValidationIssue

PAGING_FIELDS = frozenset({"limit", "page_size", "offset", "page", "cursor", "next_cursor", "after", "include_total"})

_CURSORS = ("cursor", "next_cursor", "after")
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_BOOLEANS = dict.fromkeys(("true", "1", "yes", "on", "t", "y"), True) | dict.fromkeys(
    ("false", "0", "no", "off", "f", "n"), False
)


@dataclass(frozen=True)
class Bounds:
    """The page sizes of one kind of list, and the largest offset that it accepts."""

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
        """The number of rows before this page."""
        return self.offset if self.cursor is None else self.cursor.count

    @property
    def number(self) -> int:
        """The page's number, from 1; an estimate where ``before`` is not a multiple of the size."""
        return self.before // self.size + 1

    @property
    def skip(self) -> int:
        """The number of rows to skip; none after a cursor with a position."""
        if self.cursor is None:
            return self.offset
        return self.cursor.count if self.cursor.position is None else 0

    def sorts(self, named: Sequence[Sort] | None, default: Sequence[Sort]) -> tuple[Sort, ...]:
        """Return the order of the list: the one that the request names, else the cursor's, else the default.

        Raises :class:`BadRequest` when the cursor belongs to another order.
        """
        if self.cursor is None:
            return tuple(named if named is not None else default)
        if named is not None and self.cursor.sorts != tuple(named):
            raise invalid_cursor(
                "the cursor belongs to another sort: repeat the sort of the first page, or start again without the "
                "cursor"
            )
        return self.cursor.sorts

    def partition(self, named: Partition | None) -> Partition | None:
        """Return the partition to read: the one that the request names, else the cursor's; None for the whole list.

        Raises :class:`BadRequest` when the cursor belongs to another partition.
        """
        if self.cursor is None:
            return named
        if named is not None and self.cursor.partition != named:
            raise invalid_cursor(
                "the cursor belongs to another partition: send the cursor alone, or start again without it"
            )
        return self.cursor.partition


def resolve_page(query: Mapping[str, str], body: Mapping[str, object] | None, bounds: Bounds) -> PageRequest:
    """Return the page that a request asks for.

    Raises :class:`ValidationFailed` for a value of the wrong type or out of range, and :class:`BadRequest` for an
    invalid cursor.
    """
    sources = [_Source("body", body or {}), _Source("query", query)]
    issues: list[ValidationIssue] = []
    size = _resolve_size(sources, bounds, issues)
    offset, cursor = _resolve_start(sources, size, bounds, issues)
    include_total = _resolve_include_total(sources, issues)
    if issues:
        raise ValidationFailed(issues)
    return PageRequest(
        size, offset, None if cursor is None else Cursor.decode(cursor), include_total, bounds.max_offset
    )


def split_page(
    rows: Sequence[Mapping[str, object]],
    request: PageRequest,
    sorts: Sequence[Sort],
    field_path: FieldPath,
    partition: Partition | None = None,
) -> tuple[int, str | None]:
    """Return how many of the rows belong to the page, and the cursor of the next page (None at the end).

    ``rows`` are stored rows in the list's order, from a query for ``request.size + 1`` of them: an extra row means that
    there is a next page.
    """
    if len(rows) <= request.size:
        return len(rows), None
    last = rows[request.size - 1]
    cursor = Cursor(tuple(sorts), request.before + request.size, position_of(last, sorts, field_path), partition)
    return request.size, cursor.encode()


def build_pagination(
    request: PageRequest, next_cursor: str | None, *, path: str, query: Mapping[str, str], total: int | None = None
) -> dict[str, object]:
    """Return the ``pagination`` block. Give ``total`` if and only if the request asked for it.

    ``path`` and ``query`` are those of the request: links keep its other parameters. Links of POST lists only carry the
    position; the client sends the body again, without its own paging fields.
    """
    block: dict[str, object] = {"page": request.number, "page_size": request.size}
    if total is not None:
        block |= {"total": total, "total_pages": -(-total // request.size)}
    parameters = {name: value for name, value in query.items() if name not in PAGING_FIELDS}
    parameters["limit"] = str(request.size)
    if request.include_total:
        parameters["include_total"] = "true"
    next_page = previous_page = None
    if next_cursor is not None:
        if request.cursor is None and request.offset + request.size <= request.max_offset:
            next_page = _link(path, parameters, request.offset + request.size, request.size)
        else:
            next_page = f"{path}?{urlencode({**parameters, 'cursor': next_cursor})}"
    if request.cursor is None and request.offset > 0:  # a cursor only leads forward
        previous_page = _link(path, parameters, max(0, request.offset - request.size), request.size)
    return {**block, "next_page": next_page, "previous_page": previous_page, "next_cursor": next_cursor}


def _link(path: str, parameters: Mapping[str, str], offset: int, size: int) -> str:
    start = {"offset": str(offset)} if offset % size else {"page": str(offset // size + 1)}
    return f"{path}?{urlencode({**parameters, **start})}"


@dataclass(frozen=True)
class _Source:
    """The query string or the body."""

    name: str
    values: Mapping[str, object]

    def first(self, names: Iterable[str]) -> str | None:
        """Return the first of ``names`` that has a value here."""
        for name in names:
            value = self.values.get(name)
            if value is not None and not (value == "" and name in _CURSORS):
                return name
        return None

    def integer(self, name: str, low: int, high: int, issues: list[ValidationIssue]) -> int | None:
        """Return the value if it is an integer from ``low`` to ``high``, else add an issue and return None."""
        value, at = self.values[name], (self.name, name)
        if isinstance(value, str) and self.name == "query" and _INTEGER.fullmatch(value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            issues.append(ValidationIssue("int_type", at, "an integer is expected"))
        elif not low <= value <= high:
            issues.append(ValidationIssue("out_of_range", at, f"must be from {low} to {high}"))
        else:
            return value
        return None


def _resolve_size(sources: Sequence[_Source], bounds: Bounds, issues: list[ValidationIssue]) -> int:
    for source in sources:
        if name := source.first(("limit", "page_size")):
            return source.integer(name, 1, bounds.max_size, issues) or bounds.default_size
    return bounds.default_size


def _resolve_start(
    sources: Sequence[_Source], size: int, bounds: Bounds, issues: list[ValidationIssue]
) -> tuple[int, str | None]:
    """Return the offset, and the cursor if there is one."""
    for source in sources:
        name = source.first((*_CURSORS, "offset", "page"))
        if name in _CURSORS:
            cursor = source.values[name]
            if isinstance(cursor, str):
                return 0, cursor
            issues.append(ValidationIssue("string_type", (source.name, name), "a string is expected"))
            return 0, None
        if name == "offset":
            return source.integer(name, 0, bounds.max_offset, issues) or 0, None
        if name == "page":
            page = source.integer(name, 1, bounds.max_offset // size + 1, issues)
            return ((page or 1) - 1) * size, None
    return 0, None


def _resolve_include_total(sources: Sequence[_Source], issues: list[ValidationIssue]) -> bool:
    for source in sources:
        if source.first(("include_total",)):
            value = source.values["include_total"]
            if isinstance(value, str) and source.name == "query":
                value = _BOOLEANS.get(value.strip().lower())
            if isinstance(value, bool):
                return value
            issues.append(ValidationIssue("bool_type", (source.name, "include_total"), "true or false is expected"))
            return False
    return False
