"""MongoDB's Extended JSON, in which mongoexport writes what JSON has no type for, as the plain value."""

import datetime
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from bucketline_processor.extractors.values import MAX_DEPTH

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def without_wrappers(value: object, depth: int = 0) -> object:
    """``{"$oid": "5f…"}`` becomes ``"5f…"``, ``{"$numberLong": "7"}`` 7, ``{"$date": …}`` its time, and so on at every
    depth that a document may have, in the canonical and the relaxed form. What only looks like such a wrapper stays as
    it is.
    """
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, list):
        return [without_wrappers(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(name, wrapped)] = value.items()
        if name in _READERS:
            try:
                return _READERS[name](wrapped)
            except (ValueError, TypeError, KeyError, OverflowError, InvalidOperation):
                return value
    return {name: without_wrappers(item, depth + 1) for name, item in value.items()}


def _text(wrapped: object) -> str:
    if not isinstance(wrapped, str):
        raise TypeError
    return wrapped


def _time(wrapped: object) -> object:
    """Text is a time already; a number counts milliseconds, also before 1970."""
    if isinstance(wrapped, str):
        return wrapped
    return _EPOCH + datetime.timedelta(milliseconds=int(str(without_wrappers(wrapped))))


def _base64(wrapped: object) -> object:
    return _text(wrapped["base64"] if isinstance(wrapped, dict) else wrapped)


_READERS: dict[str, Callable[[object], object]] = {
    "$oid": _text,
    "$uuid": _text,
    "$symbol": _text,
    "$date": _time,
    "$binary": _base64,
    "$numberInt": lambda wrapped: int(_text(wrapped)),
    "$numberLong": lambda wrapped: int(_text(wrapped)),
    "$numberDouble": lambda wrapped: float(_text(wrapped)),
    "$numberDecimal": lambda wrapped: Decimal(_text(wrapped)),
    "$undefined": lambda _: None,
}
