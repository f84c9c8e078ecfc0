"""A small evaluator of MongoDB conditions, to test without a server what we send to one.

It knows the operators that filters and cursors are translated to and nothing else: another one is an error. The
integration suite holds it against the real server.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from bucketline.domain.bson_compare import MISSING, Bracket, bracket_of, compare, reached

_TYPES = {
    "number": Bracket.NUMBER,
    "string": Bracket.STRING,
    "object": Bracket.OBJECT,
    "array": Bracket.ARRAY,
    "bool": Bracket.BOOLEAN,
    "date": Bracket.DATE,
}


def selects(condition: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether ``find(condition)`` would return ``document``."""
    return all(_holds(key, value, document) for key, value in condition.items())


def _holds(key: str, value: Any, document: Mapping[str, Any]) -> bool:
    match key:
        case "$and":
            return all(selects(inner, document) for inner in value)
        case "$or":
            return any(selects(inner, document) for inner in value)
        case "$nor":
            return not any(selects(inner, document) for inner in value)
    assert not key.startswith("$")
    return all(
        _operator(operator, operand, document, key) for operator, operand in value.items() if operator != "$options"
    )


def _operator(operator: str, operand: Any, document: Mapping[str, Any], path: str) -> bool:
    if operator == "$ne":
        return not _operator("$eq", operand, document, path)
    if operator == "$nin":
        return not _operator("$in", operand, document, path)
    if operator == "$size":
        return any(
            isinstance(value, list) and len(value) == operand for value in reached(document, path, whole_arrays=False)
        )
    if operator == "$elemMatch":
        return any(
            isinstance(value, list) and any(all(_test(o, v)(item) for o, v in operand.items()) for item in value)
            for value in reached(document, path, whole_arrays=False)
        )
    if operator == "$exists":
        return operand is any(value is not MISSING for value in reached(document, path))
    return any(map(_test(operator, operand), reached(document, path)))


def _test(operator: str, operand: Any) -> Callable[[Any], bool]:
    match operator:
        case "$eq":
            return lambda value: compare(value, operand) == 0
        case "$in":
            return lambda value: any(compare(value, choice) == 0 for choice in operand)
        case "$gt" | "$gte" | "$lt" | "$lte":
            return lambda value: (
                bracket_of(value) == bracket_of(operand)
                and {
                    "$gt": compare(value, operand) > 0,
                    "$gte": compare(value, operand) >= 0,
                    "$lt": compare(value, operand) < 0,
                    "$lte": compare(value, operand) <= 0,
                }[operator]
            )
        case "$not":
            inner = [_test(name, wanted) for name, wanted in operand.items()]
            return lambda value: not all(test(value) for test in inner)
        case "$type":
            return lambda value: value is not MISSING and bracket_of(value) == _TYPES[operand]
        case "$regex":
            pattern = re.compile(operand.replace(r"\z", r"\Z"))
            return lambda value: isinstance(value, str) and pattern.search(value) is not None
    raise AssertionError(f"{operator} is not known here")
