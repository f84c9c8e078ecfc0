"""Lists, their totals and time limits: every list is one query over scope, filters, search, order and page."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from cachetools import TTLCache

from bucketline.db.mongo import QueryTimeout, ResultTooLarge, query_timeout
from bucketline.db.repository import Repository
from bucketline.domain.filters import DATE_FIELDS, NO_MOMENTS, fields_of, literal_pattern, parse_filter, to_mongo
from bucketline.domain.keyset import FieldPath, Partition, Sort, mongo_sort, resolve_sorts, rows_after, with_ties
from bucketline.domain.moments import Moments
from bucketline.domain.pagination import Bounds, build_pagination, resolve_page, split_page
from bucketline.domain.schema import Location
from bucketline.errors import BadRequest, SearchTooSlow
from bucketline_ingest_api.schemas import ListBody, ListQuery, Pagination

D = TypeVar("D", bound=Mapping[str, Any])

NEWEST_FIRST = (Sort("created_at", descending=True),)
OLDEST_FIRST = (Sort("created_at"),)

MAX_PAGE_BYTES = 64 * 1024 * 1024
"""Limit on the size of a page's rows as they are stored."""

MAX_SEARCH_SECONDS = 10.0

MAX_EXACT_COUNT = 20_000
COUNT_CACHE_SECONDS = 10.0


@dataclass(frozen=True)
class ListSpec:
    """Defines how a resource is listed.

    - ``bounds`` limit the page size and the offset.
    - ``field_path`` maps wire names to stored paths.
    - ``searched`` are the stored paths that ``search`` looks at; a function builds the condition from the pattern.
    - ``order`` is the default order; ``ties`` are wire names that order rows which the other sort fields leave equal.
    - ``counted``: count all rows even if the request does not ask for the total.
    - ``dates`` and ``exact`` are wire names of dates, and of ids that are compared exactly.
    - ``simple`` are stored paths that hold one value of one type in every row, so that an index bounds a page.
    - ``moments`` are the dates in the producer's fields, which are stored as text below ``under``.
    - ``partitioned`` builds the condition of a partition, for lists that can be read in parallel.
    - ``fields`` are the stored fields to read; None reads all but those in ``without``.
    """

    bounds: Bounds
    field_path: FieldPath
    searched: tuple[str, ...] | Callable[[str], Mapping[str, object]]
    order: tuple[Sort, ...] = NEWEST_FIRST
    ties: tuple[str, ...] = ()
    counted: bool = True
    dates: frozenset[str] = DATE_FIELDS
    exact: frozenset[str] = frozenset()
    simple: tuple[str, ...] = ("_id", "created_at")
    moments: Moments = NO_MOMENTS
    under: str = ""
    partitioned: Callable[[Partition], Mapping[str, object]] | None = None
    fields: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Selects rows by a condition, with the fields that the server has to compute first."""

    where: Mapping[str, object]
    computed: Mapping[str, object]


@dataclass(frozen=True)
class Page(Generic[D]):
    """One page of rows. ``total`` is 0 where it was not counted."""

    rows: list[D]
    pagination: Pagination
    total: int


def field_mapper(renamed: Mapping[str, str], *, unchanged: Collection[str] = (), under: str = "unknown") -> FieldPath:
    """Return the mapping from wire names to stored paths, decided by the first part of a name.

    Names that are neither ``renamed`` nor ``unchanged`` are looked up below ``under``.
    """

    def path(name: str) -> str:
        root, dot, rest = name.partition(".")
        stored = renamed.get(root, root if root in unchanged else None)
        return f"{under}.{name}" if stored is None else f"{stored}{dot}{rest}"

    return path


async def list_rows(
    repository: Repository[D],
    scope: Mapping[str, object],
    spec: ListSpec,
    list_query: ListQuery,
    body: ListBody | None,
    partition: Partition | None = None,
) -> Page[D]:
    """Return the requested page of the rows within ``scope``, and within the ``partition`` if one is given."""
    given = body.model_dump(exclude_none=True) if body else {}
    page = resolve_page(list_query.query, given, spec.bounds)
    requested = resolve_sorts(given.get("sort"), given.get("sorts"))
    requested = requested and tuple(
        replace(sort, field=spec.moments.path(sort.field) or sort.field) for sort in requested
    )
    sorts = page.sorts(requested and with_ties(requested, spec.ties), with_ties(spec.order, spec.ties))
    selected = _select_requested(scope, spec, list_query, given, order=[sort.field for sort in sorts])
    where = selected.where
    part = page.partition(partition)
    if part is not None and spec.partitioned is not None:
        where = {"$and": [where, spec.partitioned(part)]}
    remaining = where
    if page.cursor is not None and page.cursor.position is not None:
        after = rows_after(page.cursor.position, sorts, spec.field_path, simple=spec.simple)
        remaining = {"$and": [where, after]}
    with search_timeout():
        try:
            rows = await repository.search(
                remaining,
                sort=mongo_sort(sorts, spec.field_path),
                skip=page.skip,
                limit=page.size + 1,
                fields=spec.fields,
                without=spec.without,
                most_bytes=MAX_PAGE_BYTES,
                computed=selected.computed,
            )
        except ResultTooLarge as error:
            raise BadRequest(
                f"the rows of this page have more than {MAX_PAGE_BYTES} bytes: ask for fewer with limit",
                code="page_too_large",
                details={"limit_bytes": MAX_PAGE_BYTES, "page_size": page.size},
            ) from error
        total = (
            await repository.count_matching(where, computed=selected.computed)
            if spec.counted or page.include_total
            else 0
        )
    count, next_cursor = split_page(rows, page, sorts, spec.field_path, part)
    shown = build_pagination(
        page,
        next_cursor,
        path=list_query.path,
        query=list_query.query,
        total=total if page.include_total else None,
    )
    return Page(rows[:count], Pagination.model_validate(shown), total)


def select_rows(
    scope: Mapping[str, object],
    spec: ListSpec,
    filters: object,
    *,
    order: Sequence[str] = (),
    location: Location = ("body", "filters"),
) -> Selection:
    """Return the selection of the rows within ``scope`` that match ``filters`` (JSON), to be ordered by ``order``.

    Raises :class:`~bucketline.errors.ValidationFailed` for invalid filters.
    """
    parsed = parse_filter(filters, location=location, dates=spec.dates, exact=spec.exact, moments=spec.moments)
    condition = to_mongo(parsed, spec.field_path)
    computed = spec.moments.computed([*fields_of(parsed), *order], under=spec.under)
    return Selection({"$and": [scope, condition]} if condition else scope, computed)


def search_condition(pattern: str, paths: Sequence[str]) -> Mapping[str, object]:
    """Return the condition for rows that match the pattern in one of the stored paths."""
    return {"$or": [{path: {"$regex": pattern}} for path in paths]}


@contextmanager
def search_timeout() -> Iterator[None]:
    """Limit the queries of one search to :data:`MAX_SEARCH_SECONDS` together. Raises :class:`SearchTooSlow`."""
    try:
        with query_timeout(MAX_SEARCH_SECONDS):
            yield
    except QueryTimeout as error:
        raise SearchTooSlow(MAX_SEARCH_SECONDS) from error


class CappedCounter:
    """Counts rows along an index: exactly up to :data:`MAX_EXACT_COUNT`; larger counts are cached for some seconds."""

    def __init__(self) -> None:
        self._large: TTLCache[str, int] = TTLCache(10_000, COUNT_CACHE_SECONDS)

    async def count(self, repository: Repository[Any], where: Mapping[str, object], *, key: str) -> int:
        """Count the rows; ``key`` identifies the count in the cache."""
        count = await repository.count_matching(where, limit=MAX_EXACT_COUNT + 1)
        if count <= MAX_EXACT_COUNT:
            return count
        cached = self._large.get(key)
        if cached is None:
            cached = self._large[key] = await repository.count_matching(where)
        return cached


def _select_requested(
    scope: Mapping[str, object],
    spec: ListSpec,
    list_query: ListQuery,
    given: Mapping[str, Any],
    *,
    order: Sequence[str],
) -> Selection:
    """Return the selection of all rows of a list, by its scope, its filters and its search text."""
    filters = given.get("filters")
    if filters and given.get("case_sensitive"):
        filters = {**filters, "case_sensitive": True}
    selected = select_rows(scope, spec, filters, order=order)
    search = given.get("search") or list_query.query.get("search")
    if not search:
        return selected
    pattern = literal_pattern(search, case_sensitive=bool(given.get("case_sensitive")))
    match = spec.searched(pattern) if callable(spec.searched) else search_condition(pattern, spec.searched)
    return replace(selected, where={"$and": [selected.where, match]})
