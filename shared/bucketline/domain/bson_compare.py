"""The order in which MongoDB sorts values, and which values a dotted path reaches in a document.

Both are needed outside the database: a cursor must say where in the order a row stands, and filters must mean the same
in memory as on the server. Only what JSON and dates can express is covered; that is all we store.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from functools import cmp_to_key
from typing import Final


class Bracket(IntEnum):
    """Kinds of values, in their order. Comparing operators never match across brackets, sorting does."""

    EMPTY = 0
    """The sort key of an empty array."""
    NULL = 1
    """Also the sort key of an absent field."""
    NUMBER = 2
    STRING = 3
    OBJECT = 4
    ARRAY = 5
    BOOLEAN = 6
    DATE = 7


class Missing:
    """The type of :data:`MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
"""Where a path leads nowhere."""

EMPTY: Final = Missing()
"""The sort key of an empty array."""


def bracket_of(value: object) -> Bracket:
    """The bracket of a stored value."""
    if value is EMPTY:
        return Bracket.EMPTY
    if value is None or value is MISSING:
        return Bracket.NULL
    if isinstance(value, bool):
        return Bracket.BOOLEAN
    if isinstance(value, int | float):
        return Bracket.NUMBER
    if isinstance(value, str):
        return Bracket.STRING
    if isinstance(value, datetime):
        return Bracket.DATE
    if isinstance(value, Mapping):
        return Bracket.OBJECT
    if isinstance(value, list | tuple):
        return Bracket.ARRAY
    raise TypeError(f"{type(value).__name__} is not a stored type")


def compare(left: object, right: object) -> int:
    """Negative, 0 or positive, as MongoDB orders two values: by bracket, then within it."""
    bracket, other = bracket_of(left), bracket_of(right)
    if bracket != other:
        return bracket - other
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return _compare_objects(left, right)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return _compare_arrays(left, right)
    if bracket in (Bracket.NULL, Bracket.EMPTY):
        return 0
    # of one bracket, so they can be compared; strings by code point, which is the order of their UTF-8 bytes
    return int(left > right) - int(left < right)  # type: ignore[operator]


def sort_key(document: Mapping[str, object], path: str, *, descending: bool) -> object:
    """The value by which MongoDB sorts ``document``: of an array the least element, or the greatest.

    No part of ``path`` is a position.
    """
    found: list[object] = []
    for value in _sorted_by(document, path.split(".")):
        if isinstance(value, list | tuple):
            found += value or [EMPTY]
        else:
            found.append(value)
    if not found:
        return None
    return (max if descending else min)(found, key=cmp_to_key(compare))


def reached(document: Mapping[str, object], path: str, *, whole_arrays: bool = True) -> Iterator[object]:
    """What ``path`` reaches, as the server's conditions see it; :data:`MISSING` where it leads nowhere.

    Arrays on the way are entered: every object in them is looked at, and a number in the path is also a position.
    An array at the end gives each of its elements and then itself; without ``whole_arrays`` only itself.
    """
    return _reach(document, path.split("."), whole_arrays)


def _sorted_by(value: object, path: Sequence[str]) -> Iterator[object]:
    """Unlike conditions, sorting takes what is no object in an array on the way for null."""
    for index, name in enumerate(path):
        if isinstance(value, list | tuple):
            for item in value:
                yield from _sorted_by(item if isinstance(item, Mapping) else None, path[index:])
            return
        value = value.get(name) if isinstance(value, Mapping) else None
    yield value


def _reach(document: Mapping[str, object], path: Sequence[str], whole: bool) -> Iterator[object]:
    value: object = document
    for index, name in enumerate(path):
        if isinstance(value, Mapping):
            value = value.get(name, MISSING)
        elif isinstance(value, list | tuple):
            yield from _enter(value, path[index:], whole)
            return
        else:
            yield MISSING
            return
    if whole and isinstance(value, list | tuple):
        yield from value
    yield value


def _enter(array: Sequence[object], rest: Sequence[str], whole: bool) -> Iterator[object]:
    position = int(rest[0]) if _is_position(rest[0]) else None
    for index, item in enumerate(array):
        if isinstance(item, Mapping):
            yield from _reach(item, rest, whole)
        if index != position:
            continue
        if len(rest) == 1:
            yield item
        elif isinstance(item, Mapping):
            yield from _reach(item, rest[1:], whole)
        elif isinstance(item, list | tuple):
            yield from _enter(item, rest[1:], whole)


def _is_position(name: str) -> bool:
    return name.isascii() and name.isdigit() and (name == "0" or name[0] != "0") and len(name) < 10


def _compare_objects(left: Mapping[str, object], right: Mapping[str, object]) -> int:
    for (name, value), (other_name, other) in zip(left.items(), right.items(), strict=False):
        if result := bracket_of(value) - bracket_of(other):
            return result
        if name != other_name:
            return 1 if name > other_name else -1
        if result := compare(value, other):
            return result
    return len(left) - len(right)


def _compare_arrays(left: Sequence[object], right: Sequence[object]) -> int:
    for value, other in zip(left, right, strict=False):
        if result := compare(value, other):
            return result
    return len(left) - len(right)
