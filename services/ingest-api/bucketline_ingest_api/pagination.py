"""The one way a list is answered: scope, filters, search, order and page, in one query that an index bounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from bucketline.db.mongo import Collection, ResultTooLarge
from bucketline.domain.filters import DATE_FIELDS, NO_MOMENTS, fields_of, literal_pattern, parse_filter, to_mongo
from bucketline.domain.keyset import FieldPath, Partition, Sort, mongo_sort, resolve_sorts, rows_after, with_ties
from bucketline.domain.moments import Moments
from bucketline.domain.pagination import Bounds, build_pagination, resolve_page, split_page
from bucketline.domain.schema import Location
from bucketline.errors import BadRequest
from bucketline_ingest_api.schemas import ListBody, ListQuery, Pagination
from bucketline_ingest_api.search_timeout import search_timeout

D = TypeVar("D", bound=Mapping[str, Any])

NEWEST_FIRST = (Sort("created_at", descending=True),)
OLDEST_FIRST = (Sort("created_at"),)

MAX_BYTES = 64 * 1024 * 1024
"""Of the rows of a page as they are stored."""


@dataclass(frozen=True)
class ListSpec:
    """How one noun is listed.

    ``field_path`` turns a name on the wire into a stored path. ``searched`` are the stored paths that ``search`` looks
    at. ``counted``: the total is told even where nobody asked for it, as the contract wants for short lists.
    ``dates`` and ``exact`` are wire names of our own dates, and of ids. ``simple`` are stored paths where every row has
    one value of one kind: an index can be entered there. ``ties`` are wire names; they order what the list's own fields
    leave equal, in the direction of the last of those. ``search`` replaces looking at ``searched``; it is given the
    pattern. ``moments`` are the dates of the producer's, whose text is stored below ``under``. ``partitioned`` is the
    condition of a partition, where lists of this noun are read in parts. ``fields`` are the stored ones that are read;
    None: all but those in ``without``.
    """

    bounds: Bounds
    field_path: FieldPath
    searched: tuple[str, ...]
    order: tuple[Sort, ...] = NEWEST_FIRST
    ties: tuple[str, ...] = ()
    counted: bool = True
    dates: frozenset[str] = DATE_FIELDS
    exact: frozenset[str] = frozenset()
    simple: tuple[str, ...] = ("_id", "created_at")
    search: Callable[[str], Mapping[str, object]] | None = None
    moments: Moments = NO_MOMENTS
    under: str = ""
    partitioned: Callable[[Partition], Mapping[str, object]] | None = None
    fields: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Which rows: a condition, and what the server has to compute before it can be asked."""

    where: Mapping[str, object]
    computed: Mapping[str, object]


@dataclass(frozen=True)
class Page(Generic[D]):
    """One page. ``total`` where it was counted."""

    rows: list[D]
    pagination: Pagination
    total: int


def field_mapper(renamed: Mapping[str, str], *, unchanged: Sequence[str] = (), under: str = "unknown") -> FieldPath:
    """Return the mapping from wire names to stored paths, decided by the first part of a name.

    Names that are neither ``renamed`` nor ``unchanged`` are looked up below ``under``.
    """
    names = {**dict(zip(unchanged, unchanged, strict=True)), **renamed}

    def path(name: str) -> str:
        root, dot, rest = name.partition(".")
        stored = names.get(root)
        return f"{under}.{name}" if stored is None else f"{stored}{dot}{rest}"

    return path


async def list_rows(
    collection: Collection[D],
    scope: Mapping[str, object],
    kind: ListSpec,
    asked: ListQuery,
    body: ListBody | None,
    partition: Partition | None = None,
) -> Page[D]:
    """The page of the rows within ``scope`` that the request wants; of the ``partition`` only, where it names one."""
    given = body.model_dump(exclude_none=True) if body else {}
    page = resolve_page(asked.query, given, kind.bounds)
    named = resolve_sorts(given.get("sort"), given.get("sorts"))
    named = named and tuple(replace(sort, field=kind.moments.path(sort.field) or sort.field) for sort in named)
    sorts = page.sorts(named and with_ties(named, kind.ties), with_ties(kind.order, kind.ties))
    selected = build_query(scope, kind, asked, given, order=[sort.field for sort in sorts])
    where = selected.where
    part = page.partition(partition)
    if part is not None and kind.partitioned is not None:
        where = {"$and": [where, kind.partitioned(part)]}
    following = where
    if page.cursor is not None and page.cursor.position is not None:
        after = rows_after(page.cursor.position, sorts, kind.field_path, simple=kind.simple)
        following = {"$and": [where, after]}
    with search_timeout():
        try:
            fetched = await collection.find(
                following,
                sort=mongo_sort(sorts, kind.field_path),
                skip=page.skip,
                limit=page.size + 1,
                fields=kind.fields,
                without=kind.without,
                most_bytes=MAX_BYTES,
                computed=selected.computed,
            )
        except ResultTooLarge as error:
            raise _too_large(page.size) from error
        total = await collection.count(where, computed=selected.computed) if kind.counted or page.include_total else 0
    count, next_cursor = split_page(fetched, page, sorts, kind.field_path, part)
    shown = build_pagination(
        page, next_cursor, path=asked.path, query=asked.query, total=total if page.include_total else None
    )
    return Page(fetched[:count], Pagination.model_validate(shown), total)


def build_query(
    scope: Mapping[str, object],
    kind: ListSpec,
    asked: ListQuery,
    given: Mapping[str, Any],
    *,
    order: Sequence[str] = (),
) -> Selection:
    """The rows of the whole list: its scope, what is searched for, what is filtered by. ``order`` is sorted by."""
    filters = given.get("filters")
    tree = {**filters, "case_sensitive": True} if filters and given.get("case_sensitive") else filters
    selected = selection(scope, kind, tree, order=order)
    search = given.get("search") or asked.query.get("search")
    if not search:
        return selected
    pattern = literal_pattern(search, case_sensitive=bool(given.get("case_sensitive")))
    found = kind.search(pattern) if kind.search else search_condition(pattern, kind.searched)
    return replace(selected, where={"$and": [selected.where, found]})


def selection(
    scope: Mapping[str, object],
    kind: ListSpec,
    filters: object,
    *,
    order: Sequence[str] = (),
    location: Location = ("body", "filters"),
) -> Selection:
    """The rows within ``scope`` that ``filters`` (JSON) hold for; raises ``ValidationFailed`` for what are none."""
    wanted = parse_filter(filters, location=location, dates=kind.dates, exact=kind.exact, moments=kind.moments)
    condition = to_mongo(wanted, kind.field_path)
    computed = kind.moments.computed([*fields_of(wanted), *order], under=kind.under)
    return Selection({"$and": [scope, condition]} if condition else scope, computed)


def _too_large(size: int) -> BadRequest:
    return BadRequest(
        f"the rows of this page have more than {MAX_BYTES} bytes together: ask for fewer with limit",
        code="page_too_large",
        details={"limit_bytes": MAX_BYTES, "page_size": size},
    )


def search_condition(pattern: str, paths: Sequence[str]) -> Mapping[str, object]:
    """Rows that hold the pattern in one of these stored paths."""
    return {"$or": [{path: {"$regex": pattern}} for path in paths]}
