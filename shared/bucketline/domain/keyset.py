"""Where a row stands in a sorted list, and the MongoDB condition for the rows after it.

The order is that of MongoDB: first by the kind of the value (absent or null, number, string, boolean, date), then by
the value; an array counts with its least element ascending and its greatest descending. Ties are broken by ``_id``, in
the direction of the last field. Pages that follow each other this way neither repeat nor miss a row that keeps its
values while the list is read, whatever is inserted or removed meanwhile.

A row whose sort value cannot travel in a cursor (an object, an array in an array, a very long string) has no
:class:`Position`; the list then goes on by counting.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bucketline.domain.bson_compare import EMPTY, Bracket, Missing, bracket_of, sort_key
from bucketline.domain.sorting import Sort

MAX_KEY_STRING = 512

Key = str | int | float | bool | datetime | Missing | None
Condition = dict[str, object]
FieldPath = Callable[[str], str]


@dataclass(frozen=True)
class Position:
    """The sort values of a row, one for each field, and its ``_id``."""

    keys: tuple[Key, ...]
    id: str


def position_of(row: Mapping[str, object], sorts: Sequence[Sort], field_path: FieldPath) -> Position | None:
    """Where ``row``, as it is stored, stands; None when that cannot be told in a cursor."""
    keys: list[Key] = []
    for sort in sorts:
        key = sort_key(row, field_path(sort.field), descending=sort.descending)
        if isinstance(key, str) and len(key) > MAX_KEY_STRING:
            return None
        if key is not None and not isinstance(key, str | int | float | datetime | Missing):
            return None
        keys.append(key)
    return Position(tuple(keys), str(row["_id"]))


def mongo_sort(sorts: Sequence[Sort], field_path: FieldPath) -> list[tuple[str, int]]:
    """The sort to give MongoDB: the fields, then ``_id`` in the direction of the last."""
    order: dict[str, int] = {}
    for sort in sorts:
        order.setdefault(field_path(sort.field), -1 if sort.descending else 1)
    order.setdefault("_id", -1 if sorts and sorts[-1].descending else 1)
    return list(order.items())


def rows_after(
    position: Position, sorts: Sequence[Sort], field_path: FieldPath, *, simple: Collection[str] = ("_id",)
) -> Condition:
    """The condition for rows after ``position``, to be joined to the list's own with ``$and``.

    ``simple`` names stored paths where every row has a value of one bracket and no arrays (``created_at``): their
    condition bounds a scan of an index.
    """
    fields: list[_Field] = []
    for sort, key in zip(sorts, position.keys, strict=True):
        path = field_path(sort.field)
        fields.append(_Field(path, key, sort.descending, path in simple))
        if path == "_id":
            break
    else:
        fields.append(_Field("_id", position.id, fields[-1].descending if fields else False, True))
    branches = []
    for index, field in enumerate(fields):
        ties = [condition for tied in fields[:index] for condition in tied.tie()]
        branches.append(_all([*ties, *field.after()]))
    condition: Condition = {"$or": branches}
    if fields[0].simple and len(fields) > 1:
        # the planner bounds the index by this; it would not by the alternatives
        return {"$and": [{fields[0].path: {fields[0].beyond + "e": fields[0].key}}, condition]}
    return branches[0] if len(branches) == 1 else condition


@dataclass(frozen=True)
class _Field:
    """Conditions on one sort field, relative to the position's key.

    An array is after the key when *none* of its elements is at or before it, so everything is said by what must not
    be there; for a single value that comes to the same.
    """

    path: str
    key: Key
    descending: bool
    simple: bool

    @property
    def beyond(self) -> str:
        return "$lt" if self.descending else "$gt"

    @property
    def before(self) -> str:
        return "$gt" if self.descending else "$lt"

    def after(self) -> list[Condition]:
        """Rows strictly after the key."""
        if self.simple:
            return [{self.path: {self.beyond: self.key}}]
        return [{"$nor": [*self._earlier(), self._equal()]}]

    def tie(self) -> list[Condition]:
        """Rows with the key itself."""
        if self.simple:
            return [{self.path: {"$eq": self.key}}]
        earlier: Condition = {"$nor": list(self._earlier())}
        return [self._equal(), earlier] if earlier["$nor"] else [self._equal()]

    def _equal(self) -> Condition:
        if self.key is None:
            return _some(self.path, Bracket.NULL)
        return {self.path: {"$size": 0} if self.key is EMPTY else {"$eq": self.key}}

    def _earlier(self) -> Iterator[Condition]:
        """What a row has some value of when it comes before the key."""
        own = bracket_of(self.key)
        for bracket in Bracket:
            if (bracket > own) if self.descending else (bracket < own):
                yield _some(self.path, bracket)
        if own not in (Bracket.EMPTY, Bracket.NULL):
            yield {self.path: {self.before: self.key}}


def _some(path: str, bracket: Bracket) -> Condition:
    """Rows with some value of ``bracket`` at ``path``."""
    match bracket:
        case Bracket.EMPTY:
            return {path: {"$size": 0}}
        case Bracket.NULL:
            # where an array on the way is empty or holds something else than objects, a row sorts as null too,
            # though it does not equal null
            values = [_some(path, other) for other in Bracket if other is not Bracket.NULL]
            parts = path.split(".")
            others = [
                {".".join(parts[:depth]): {"$elemMatch": {"$not": {"$type": "object"}}}}
                for depth in range(1, len(parts))
            ]
            return {"$or": [{path: {"$eq": None}}, {"$nor": values}, *others]}
        case Bracket.ARRAY:
            return {path: {"$elemMatch": {"$type": "array"}}}
    return {path: {"$type": _TYPE_NAMES[bracket]}}


def _all(conditions: Sequence[Condition]) -> Condition:
    return conditions[0] if len(conditions) == 1 else {"$and": list(conditions)}


_TYPE_NAMES = {
    Bracket.NUMBER: "number",
    Bracket.STRING: "string",
    Bracket.OBJECT: "object",
    Bracket.BOOLEAN: "bool",
    Bracket.DATE: "date",
}
