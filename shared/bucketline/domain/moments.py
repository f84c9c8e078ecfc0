"""Comparison of dates: they are stored as the text that was sent, and compared and sorted as points in time.

``2026-03-01T10:00:00+05:30``, ``2026-03-01T04:30Z`` and ``2026-03-01 04:30:00.000`` are the same moment, although the
texts differ. Filters and sorts on a property that the schema declares as ``date`` or ``datetime`` therefore use its
*moment key*: UTC with nine digits of a second, which sorts as text in the order of time. A date means its midnight, and
text without a time zone is UTC.

The keys are not stored. MongoDB computes them for the properties in a query, under :data:`MOMENTS`, from the stored
text, so responses always contain what was sent. Text that is not a date has no moment, as if it were absent. Moments
outside the years 1 to 9999 in UTC count as the first or last second of that range.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from bucketline.domain.schema import Field, Schema, is_date, is_datetime, item_field, properties

MOMENTS = "_moments"
"""Path of the keys in conditions and rows. Fields of producers never begin with an underscore."""

Expression = dict[str, object]

_DATE_TYPES = frozenset({"date", "datetime"})
_PARTS = re.compile(
    r"(?P<day>(?!0000)\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](?P<minute>\d\d:\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<zone>[Zz]|[+-](?:[01]\d|2[0-3]):?[0-5]\d)?)?",
    re.ASCII,
)
_SERVER_PATTERN = r"\A" + re.sub(r"\?P<\w+>", "", _PARTS.pattern) + r"\z"
_NO_FRACTION = "000000000"
_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def moment_key(value: str) -> str | None:
    """Return the key of a date or of a date and time as a schema accepts them; None for any other text."""
    parts = _PARTS.fullmatch(value)
    if parts is None or not (is_date(value) or is_datetime(value)):
        return None
    zone = (parts["zone"] or "Z").upper()
    text = f"{parts['day']}T{parts['minute'] or '00:00'}:{parts['second'] or '00'}{zone}"
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:
        moment = _FIRST if zone.startswith("+") else _LAST
    fraction = (parts["fraction"] or "").ljust(len(_NO_FRACTION), "0")
    return f"{moment.replace(tzinfo=None).isoformat(' ')}.{fraction}"


@dataclass(frozen=True)
class Moments:
    """The dates that a schema declares, including those inside objects and arrays."""

    schema: Schema

    def path(self, field: str) -> str | None:
        """Return the path of the moment of a wire field, None if it holds no dates. Array indexes are allowed."""
        if field in self._paths:
            return f"{MOMENTS}.{field}"
        declared = ".".join(part for part in field.split(".") if not part.isdigit())
        return f"{MOMENTS}.{field}" if declared in self._paths else None

    def computed(self, fields: Iterable[str], *, under: str) -> Expression:
        """Return the ``$set`` stage that computes the moments of these fields; often empty.

        ``fields`` may contain paths from :meth:`path`; ``under`` is the path of the custom fields.
        """
        parts = (field.split(".") for field in fields if field.startswith(f"{MOMENTS}."))
        found: Expression = {}
        for root in dict.fromkeys(part[1] for part in parts):
            declared = properties(self.schema).get(root)
            expression = None if declared is None else _expression(declared, f"${under}.{root}", 0)
            if expression is not None:
                found[root] = expression
        return {MOMENTS: found} if found else {}

    @cached_property
    def _paths(self) -> frozenset[str]:
        return frozenset(_paths(properties(self.schema)))


def _paths(declared: Mapping[str, Field]) -> Iterator[str]:
    for name, field in declared.items():
        held = field
        while held.get("type") == "array" and (items := item_field(held)) is not None:
            held = items
        if held.get("type") in _DATE_TYPES:
            yield name
        elif held.get("type") == "object":
            yield from (f"{name}.{inner}" for inner in _paths(properties(held)))


def _expression(field: Field, value: str, depth: int) -> Expression | None:
    """Return the expression of the moments in ``value``, in the same shape; None if it cannot contain any."""
    if field.get("type") in _DATE_TYPES:
        return _key_of(value)
    if field.get("type") == "array" and (items := item_field(field)) is not None:
        item = _expression(items, f"$$item{depth}", depth + 1)
        if item is None:
            return None
        mapped = {"$map": {"input": value, "as": f"item{depth}", "in": item}}
        return {"$cond": [{"$isArray": [value]}, mapped, "$$REMOVE"]}
    inner = ((name, _expression(held, f"{value}.{name}", depth)) for name, held in properties(field).items())
    return {name: expression for name, expression in inner if expression is not None} or None


def _key_of(value: str) -> Expression:
    """Return the expression that computes :func:`moment_key` in MongoDB."""

    def part(index: int, default: str) -> Expression:
        return {"$ifNull": [{"$arrayElemAt": ["$$parts.captures", index]}, default]}

    text = {"$concat": [part(0, ""), "T", part(1, "00:00"), ":", part(2, "00"), {"$toUpper": part(4, "Z")}]}
    moment = {"$dateFromString": {"dateString": text, "onError": None}}
    within = {"$min": [_LAST, {"$max": [_FIRST, "$$moment"]}]}
    fraction = {"$substrBytes": [{"$concat": [part(3, ""), _NO_FRACTION]}, 0, len(_NO_FRACTION)]}
    key = {"$concat": [{"$dateToString": {"date": within, "format": "%Y-%m-%d %H:%M:%S"}}, ".", fraction]}
    return {
        "$let": {
            "vars": {
                "parts": {
                    "$regexFind": {
                        "input": {"$cond": [{"$eq": [{"$type": value}, "string"]}, value, ""]},
                        "regex": _SERVER_PATTERN,
                    }
                }
            },
            "in": {
                "$let": {
                    "vars": {"moment": {"$cond": [{"$eq": ["$$parts", None]}, None, moment]}},
                    "in": {"$cond": [{"$eq": ["$$moment", None]}, "$$REMOVE", key]},
                }
            },
        }
    }
