"""Dates of the producer's: kept as the text that was sent, compared and sorted as the moments that they name.

``2026-03-01T10:00:00+05:30``, ``2026-03-01T04:30Z`` and ``2026-03-01 04:30:00.000`` are one moment, though no two of
them are the same text. So a condition or an order on a property that the schema declares as ``date`` or ``datetime``
looks at its *moment key*: UTC with nine digits of a second, whose order as text is that of time. A date is its
midnight, and text without a zone is UTC.

Nothing of this is stored. MongoDB computes the keys of the properties that a query names, under :data:`MOMENTS`, from
the text in the objects: those that were stored by an earlier release, or before the schema declared the property, are
compared in the same way, and an answer is always what was sent. Text that is no date has no moment, as if it were
absent. Moments before the year 1 or after 9999 in UTC count as the first and last second of that range.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from bucketline.domain.schema import Field, Schema, is_date, is_datetime, item_field, properties

MOMENTS = "_moments"
"""Where the keys are found, in conditions and in rows. No field of a producer's begins with an underscore."""

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
    """The key of a date, or of a date and time, as a schema accepts them; None for any other text."""
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
    """The dates that a schema declares, also those within objects and arrays."""

    schema: Schema

    def path(self, field: str) -> str | None:
        """Where the moment of a wire field is found; None for a field that holds no dates. Positions are allowed."""
        if field in self._paths:
            return f"{MOMENTS}.{field}"
        declared = ".".join(part for part in field.split(".") if not part.isdigit())
        return f"{MOMENTS}.{field}" if declared in self._paths else None

    def computed(self, fields: Iterable[str], *, under: str) -> Expression:
        """What MongoDB has to add to rows, as ``$set`` takes it, before it can look at these fields; often nothing.

        ``fields`` are names as :meth:`path` gives them among others, ``under`` is where custom fields are stored.
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
    """The moments within ``value`` (a path of the server's) in the shape that ``value`` has; None where none can be."""
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
    """:func:`moment_key`, computed by the server."""

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
