"""Sort orders and cursors: what a list may be sorted by, and how the next page continues where the last one ended.

A cursor holds the sort values and the ``_id`` of the last row of a page. :func:`rows_after` turns them into a MongoDB
condition, so reading a page costs the same however deep it is in the list. Pages that follow each other neither repeat
nor miss a row that keeps its values while the list is read, whatever is inserted or removed in between.

The order is MongoDB's: first by the kind of the value (:class:`Bracket`), then by the value; an array counts with its
least element in ascending order and its greatest in descending order. Ties are broken by ``_id``, in the direction of
the last field. A row whose sort value does not fit into a cursor (an object, an array in an array, a long string) has
no :class:`Position`; the list then continues by counting rows.
"""

import base64
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final

import bson
from bson.code import Code
from bson.codec_options import CodecOptions
from bson.errors import BSONError

from bucketline.domain.moments import MOMENTS
from bucketline.domain.schema import Location
from bucketline.errors import BadRequest, ValidationFailed, ValidationIssue

MAX_SORTS = 4
MAX_TIES = 2
MAX_PATH = 256
MAX_SEGMENTS = 16
MAX_KEY_STRING = 512
MAX_CURSOR = 8192
MAX_ID = 200
MAX_PARTITIONS = 256
CURSOR_VERSION = 2

EMPTY: Final = ()
"""The sort key of an empty array."""

Key = str | int | float | bool | datetime | tuple[()] | None
Query = dict[str, object]
FieldPath = Callable[[str], str]
"""Maps the name of a field on the wire to its stored path."""

_CHECKSUM_BYTES = 6
_DIRECTIONS = {"asc": False, "desc": True}
_CODEC: CodecOptions[Mapping[str, object]] = CodecOptions(tz_aware=True, tzinfo=UTC)


@dataclass(frozen=True)
class Sort:
    """One field to sort by, under its name on the wire."""

    field: str
    descending: bool = False


@dataclass(frozen=True)
class Position:
    """The sort values of a row, one for each sort field, and its ``_id``."""

    keys: tuple[Key, ...]
    id: str


@dataclass(frozen=True)
class Partition:
    """The rows with one ``index`` (from 0) of ``count``: every row is in exactly one partition."""

    index: int
    count: int


@dataclass(frozen=True)
class Cursor:
    """Where the next page begins: after ``position``, or after ``count`` rows if the position is not known.

    A cursor is opaque but not secret, and it grants nothing: every list applies its own scope and permissions. Its
    checksum turns a truncated or edited cursor into an error instead of another page.
    """

    sorts: tuple[Sort, ...]
    count: int
    position: Position | None
    partition: Partition | None = None

    def encode(self) -> str:
        """Return the cursor as URL-safe text."""
        payload: dict[str, object] = {
            "v": CURSOR_VERSION,
            "s": [[sort.field, sort.descending] for sort in self.sorts],
            "n": self.count,
        }
        if self.position is not None:
            payload |= {"k": list(self.position.keys), "i": self.position.id}
        if self.partition is not None:
            payload["p"] = [self.partition.index, self.partition.count]
        body = bson.encode(payload)
        return base64.urlsafe_b64encode(_checksum(body) + body).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Return the cursor that :meth:`encode` wrote. Raises :class:`BadRequest` for any other text."""
        try:
            if len(text) > MAX_CURSOR:
                raise ValueError("too long")
            raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
            checksum, body = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
            if checksum != _checksum(body):
                raise ValueError("wrong checksum")
            return _read_payload(bson.decode(body, _CODEC))
        except (BSONError, ValueError, OverflowError) as error:
            raise invalid_cursor("invalid cursor: start again without it") from error


def invalid_cursor(message: str) -> BadRequest:
    """Return the error for a cursor that cannot be used."""
    return BadRequest(message, code="invalid_cursor", details={"field": "cursor"})


def resolve_sorts(sort: object, sorts: object = None) -> tuple[Sort, ...] | None:
    """Return the order that a request names in ``sort`` (one or a list) or else in ``sorts``; None if in neither.

    Raises :class:`ValidationFailed` with one row for each mistake.
    """
    value, at = (sort, ("body", "sort")) if sort is not None else (sorts, ("body", "sorts"))
    if value is None:
        return None
    entries = value if isinstance(value, list) else [value]
    issues = []
    if len(entries) > MAX_SORTS:
        issues.append(ValidationIssue("too_long", at, f"at most {MAX_SORTS} fields to sort by"))
    resolved: list[Sort] = []
    for index, entry in enumerate(entries[:MAX_SORTS]):
        parsed = _parse_sort(entry, (*at, index) if isinstance(value, list) else at)
        if isinstance(parsed, ValidationIssue):
            issues.append(parsed)
        elif parsed.field not in [sort.field for sort in resolved]:
            resolved.append(parsed)
    if issues:
        raise ValidationFailed(issues)
    return tuple(resolved) or None


def with_ties(sorts: Sequence[Sort], ties: Sequence[str]) -> tuple[Sort, ...]:
    """Return ``sorts`` followed by the fields (at most :data:`MAX_TIES`) that order rows which are equal by them.

    These have the direction of the last sort, so that reversing a list reverses all of it.
    """
    named = {sort.field for sort in sorts}
    descending = sorts[-1].descending if sorts else False
    return (*sorts, *(Sort(field, descending) for field in ties if field not in named))


def path_fault(path: str) -> str | None:
    """Return why a dotted path cannot name a field, None if it can. No operator or variable may reach the database."""
    if len(path) > MAX_PATH:
        return f"a field path has at most {MAX_PATH} characters"
    segments = path.split(".")
    if len(segments) > MAX_SEGMENTS:
        return f"a field path has at most {MAX_SEGMENTS} parts"
    if not all(segments):
        return "a field path has no empty part"
    if any(segment.startswith("$") for segment in segments):
        return "no part of a field path starts with $"
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in path):
        return "a field path is valid Unicode without NUL"
    return None


def mongo_sort(sorts: Sequence[Sort], field_path: FieldPath) -> list[tuple[str, int]]:
    """Return the sort for MongoDB: the fields, then ``_id`` in the direction of the last field."""
    order: dict[str, int] = {}
    for sort in sorts:
        order.setdefault(field_path(sort.field), -1 if sort.descending else 1)
    order.setdefault("_id", -1 if sorts and sorts[-1].descending else 1)
    return list(order.items())


def position_of(row: Mapping[str, object], sorts: Sequence[Sort], field_path: FieldPath) -> Position | None:
    """Return the position of a stored row, None when it does not fit into a cursor."""
    keys: list[Key] = []
    for sort in sorts:
        key = _sort_key(row, field_path(sort.field), sort.descending)
        if isinstance(key, str) and len(key) > MAX_KEY_STRING:
            return None
        if key is not None and key != EMPTY and not isinstance(key, str | int | float | datetime):
            return None
        keys.append(key)
    return Position(tuple(keys), str(row["_id"]))


def rows_after(
    position: Position, sorts: Sequence[Sort], field_path: FieldPath, *, simple: Collection[str] = ("_id",)
) -> Query:
    """Return the condition for the rows after ``position``, to be joined to the list's own with ``$and``.

    ``simple`` names stored paths where every row has a value of one bracket and no arrays (``created_at``): their
    condition bounds the scan of an index.
    """
    fields: list[_SortField] = []
    for sort, key in zip(sorts, position.keys, strict=True):
        path = field_path(sort.field)
        fields.append(_SortField(path, key, sort.descending, path in simple))
        if path == "_id":
            break
    else:
        fields.append(_SortField("_id", position.id, fields[-1].descending if fields else False, True))
    branches = []
    for index, field in enumerate(fields):
        ties = [condition for tied in fields[:index] for condition in tied.equal_to_key()]
        branches.append(_all_of([*ties, field.after_key()]))
    condition: Query = {"$or": branches}
    if fields[0].simple and len(fields) > 1:
        # The planner bounds the index scan by this condition; it would not do so by the alternatives.
        return {"$and": [{fields[0].path: {fields[0].later + "e": fields[0].key}}, condition]}
    return branches[0] if len(branches) == 1 else condition


class Bracket(IntEnum):
    """The kinds of values in MongoDB's sort order; an absent field sorts as null."""

    EMPTY_ARRAY = 0
    NULL = 1
    NUMBER = 2
    STRING = 3
    OBJECT = 4
    ARRAY = 5
    BOOLEAN = 6
    DATE = 7


_TYPE_NAMES = {
    Bracket.NUMBER: "number",
    Bracket.STRING: "string",
    Bracket.OBJECT: "object",
    Bracket.BOOLEAN: "bool",
    Bracket.DATE: "date",
}


def _bracket_of(value: object) -> Bracket:
    match value:
        case None:
            return Bracket.NULL
        case bool():
            return Bracket.BOOLEAN
        case int() | float():
            return Bracket.NUMBER
        case str():
            return Bracket.STRING
        case datetime():
            return Bracket.DATE
        case Mapping():
            return Bracket.OBJECT
        case ():
            return Bracket.EMPTY_ARRAY
    return Bracket.ARRAY


def _sort_key(row: Mapping[str, object], path: str, descending: bool) -> object:
    """Return the value by which MongoDB sorts ``row``. Objects and arrays are only correct in their bracket."""
    values: list[object] = []
    for value in _values_at(row, path.split(".")):
        if isinstance(value, list):
            values += value or [EMPTY]
        else:
            values.append(value)

    def order(value: object) -> tuple[Bracket, object]:
        bracket = _bracket_of(value)
        comparable = bracket in (Bracket.NUMBER, Bracket.STRING, Bracket.BOOLEAN, Bracket.DATE)
        return bracket, value if comparable else 0

    return (max if descending else min)(values, key=order, default=None)


def _values_at(value: object, path: Sequence[str]) -> Iterator[object]:
    """Yield the values at ``path`` as sorting sees them: what is not an object in an array on the way is null."""
    for index, name in enumerate(path):
        if isinstance(value, list):
            for item in value:
                yield from _values_at(item if isinstance(item, Mapping) else None, path[index:])
            return
        value = value.get(name) if isinstance(value, Mapping) else None
    yield value


@dataclass(frozen=True)
class _SortField:
    """Conditions on one sort field, relative to the key of the position.

    An array is after the key when *none* of its elements is at or before it, so the conditions exclude values; for a
    single value that is equivalent.
    """

    path: str
    key: Key
    descending: bool
    simple: bool

    @property
    def later(self) -> str:
        return "$lt" if self.descending else "$gt"

    @property
    def earlier(self) -> str:
        return "$gt" if self.descending else "$lt"

    def after_key(self) -> Query:
        """Return the condition for rows strictly after the key."""
        if self.simple:
            return {self.path: {self.later: self.key}}
        return {"$nor": [*self._has_earlier_value(), self._has_key()]}

    def equal_to_key(self) -> list[Query]:
        """Return the conditions for rows that sort by the key itself."""
        if self.simple:
            return [{self.path: {"$eq": self.key}}]
        earlier = list(self._has_earlier_value())
        return [self._has_key(), {"$nor": earlier}] if earlier else [self._has_key()]

    def _has_key(self) -> Query:
        if self.key is None:
            return _has_bracket(self.path, Bracket.NULL)
        return {self.path: {"$size": 0} if self.key == EMPTY else {"$eq": self.key}}

    def _has_earlier_value(self) -> Iterator[Query]:
        own = _bracket_of(self.key)
        for bracket in Bracket:
            if (bracket > own) if self.descending else (bracket < own):
                yield _has_bracket(self.path, bracket)
        if own not in (Bracket.EMPTY_ARRAY, Bracket.NULL):
            yield {self.path: {self.earlier: self.key}}


def _has_bracket(path: str, bracket: Bracket) -> Query:
    """Return the condition for rows with some value of ``bracket`` at ``path``."""
    match bracket:
        case Bracket.EMPTY_ARRAY:
            return {path: {"$size": 0}}
        case Bracket.NULL:
            # A row also sorts as null where an array on the way is empty or holds something other than objects,
            # although it does not equal null.
            values = [_has_bracket(path, other) for other in Bracket if other is not Bracket.NULL]
            parts = path.split(".")
            others = [
                {".".join(parts[:depth]): {"$elemMatch": {"$not": {"$type": "object"}}}}
                for depth in range(1, len(parts))
            ]
            return {"$or": [{path: {"$eq": None}}, {"$nor": values}, *others]}
        case Bracket.ARRAY:
            return {path: {"$elemMatch": {"$type": "array"}}}
    return {path: {"$type": _TYPE_NAMES[bracket]}}


def _all_of(conditions: Sequence[Query]) -> Query:
    return conditions[0] if len(conditions) == 1 else {"$and": list(conditions)}


def _parse_sort(entry: object, location: Location) -> Sort | ValidationIssue:
    if not isinstance(entry, Mapping):
        return ValidationIssue("dict_type", location, "an object with field and direction is expected")
    field, at = entry.get("field"), (*location, "field")
    if not isinstance(field, str):
        return ValidationIssue("missing" if field is None else "string_type", at, "a field name is expected")
    if (reason := path_fault(field)) is not None:
        return ValidationIssue("field_path", at, reason)
    if any(part.isdigit() for part in field.split(".")):
        return ValidationIssue("field_path", at, "a position in an array cannot be sorted by")
    direction = entry.get("direction")
    if direction is None:
        return Sort(field)
    if not isinstance(direction, str) or direction not in _DIRECTIONS:
        return ValidationIssue("enum", (*location, "direction"), "asc or desc is expected")
    return Sort(field, _DIRECTIONS[direction])


def _read_payload(payload: Mapping[str, object]) -> Cursor:
    """Return the cursor of a decoded payload. Raises ``ValueError`` for anything but plain values within limits."""
    match payload:
        case {"v": version, "s": list(raw_sorts), "n": int(count)} if version == CURSOR_VERSION:
            sorts = tuple(_read_sort(entry) for entry in raw_sorts)
        case _:
            raise ValueError("not a cursor")
    if isinstance(count, bool) or not 0 <= count < 2**53 or len(sorts) > MAX_SORTS + MAX_TIES:
        raise ValueError("out of range")
    position = None
    if "i" in payload or "k" in payload:
        match payload:
            case {"k": list(raw_keys), "i": str(identifier)} if len(raw_keys) == len(sorts):
                position = Position(tuple(_read_key(key) for key in raw_keys), identifier)
            case _:
                raise ValueError("not a position")
        if len(position.id) > MAX_ID:
            raise ValueError("id too long")
    match payload.get("p"):
        case None:
            return Cursor(sorts, count, position)
        case [int(index), int(parts)] if 0 <= index < parts <= MAX_PARTITIONS:
            return Cursor(sorts, count, position, Partition(index, parts))
    raise ValueError("not a partition")


def _read_sort(entry: object) -> Sort:
    match entry:
        case [str(field), bool(descending)] if path_fault(field.removeprefix(f"{MOMENTS}.")) is None:
            return Sort(field, descending)
    raise ValueError("not a sort")


def _read_key(key: object) -> Key:
    if key == []:
        return EMPTY
    match key:
        case str() if isinstance(key, Code) or len(key) > MAX_KEY_STRING:
            pass
        case None | str() | int() | float() | datetime():
            return key
    raise ValueError("not a sort key")


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES, person=b"cursor").digest()
