"""Converts Python values to JSON that MongoDB and every client can represent."""

import base64
import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MAX_DEPTH = 90
"""MongoDB takes a hundred levels, and some stand above an extractor's."""


def json_value(value: object, depth: int = 0) -> object:
    """Return ``value`` in JSON types.

    Dates become ISO 8601 text, durations seconds, bytes base64, integers beyond 64 bits and decimals that a
    float cannot hold text, NaN and infinities ``None``. Nesting beyond 90 levels becomes its ``str``, where it has
    one. Names lose a leading ``$``, since the database would read ``{"$ref": …, "$id": …}`` back as something that is
    no JSON, and NUL; where the rest is taken, ``_2``, ``_3`` and so on follow.
    """
    match value:
        case None | bool():
            return value
        case str():
            return _text(value)
        case int():
            return int(value) if INT64_MIN <= value <= INT64_MAX else str(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case Decimal():
            return _decimal(value)
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode("ascii")
        case Mapping() if depth < MAX_DEPTH:
            return {name: json_value(item, depth + 1) for name, item in zip(_names(value), value.values(), strict=True)}
        case list() | tuple() | set() | frozenset() if depth < MAX_DEPTH:
            return [json_value(item, depth + 1) for item in value]
        case _:
            return _text(_shown(value))


def _shown(value: object) -> str:
    try:
        return str(value)
    except RecursionError:  # JSON may be nested deeper than repr supports
        return "…"


def _names(keys: Iterable[object]) -> Sequence[str]:
    names = [_text(str(key)) for key in keys]
    if not any(name.startswith("$") or "\0" in name for name in names):
        return names
    bare = [name.replace("\0", "").lstrip("$") or "_" for name in names]
    taken = {name for name, rest in zip(names, bare, strict=True) if name == rest}
    for place, name in enumerate(names):
        base, count = bare[place], 1
        while bare[place] != name and bare[place] in taken:
            count += 1
            bare[place] = f"{base}_{count}"
        taken.add(bare[place])
    return bare


def _text(value: str) -> str:
    """Replace unpaired surrogates, which UTF-8 cannot encode, by question marks."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _decimal(value: Decimal) -> object:
    if not value.is_finite():
        return None
    if value == value.to_integral_value() and INT64_MIN <= value <= INT64_MAX:
        return int(value)
    number = float(value)
    return number if math.isfinite(number) and Decimal(repr(number)) == value else str(value)
