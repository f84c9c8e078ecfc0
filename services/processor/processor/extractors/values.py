"""Any Python value as JSON that MongoDB and every client can hold."""

import base64
import datetime
import math
from collections.abc import Mapping
from decimal import Decimal

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MAX_DEPTH = 50


def json_value(value: object, depth: int = 0) -> object:
    """``value`` in JSON types.

    Dates become ISO 8601 text, durations seconds, bytes base64, integers beyond 64 bits and decimals that a
    float cannot hold text, NaN and infinities ``None``. Nesting beyond 50 levels becomes its ``str``.
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
            return {_text(str(name)): json_value(item, depth + 1) for name, item in value.items()}
        case list() | tuple() | set() | frozenset() if depth < MAX_DEPTH:
            return [json_value(item, depth + 1) for item in value]
        case _:
            return _text(str(value))


def _text(value: str) -> str:
    """Lone surrogates, which UTF-8 cannot hold, become question marks."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _decimal(value: Decimal) -> object:
    if not value.is_finite():
        return None
    if value == value.to_integral_value() and INT64_MIN <= value <= INT64_MAX:
        return int(value)
    number = float(value)
    return number if math.isfinite(number) and Decimal(repr(number)) == value else str(value)
