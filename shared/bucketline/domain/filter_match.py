"""A filter on a document in memory: the meaning that the MongoDB query of the same filter has on the server.

Written from the meaning, not from the query, so that each can be tested against the other.
For values of ours: Python's engine has no budget, so a pattern on a hostile text of a thousand characters could take
minutes here, where the server gives up.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from bucketline.domain.bson_compare import MISSING, bracket_of, compare, reached
from bucketline.domain.case_folding import fold, words_of
from bucketline.domain.filters import Condition, Filter, Scalar


def matches(
    filter: Filter,  # noqa: A002  # the contract's word
    document: Mapping[str, object],
    field_path: Callable[[str], str] = str,
) -> bool:
    """Whether ``filter`` holds for ``document`` (as it is stored, where ``field_path`` leads)."""
    if isinstance(filter, Condition):
        return _holds(filter, document, field_path(filter.field))
    return (
        all(matches(inner, document, field_path) for inner in filter.every)
        and (not filter.some or any(matches(inner, document, field_path) for inner in filter.some))
        and not any(matches(inner, document, field_path) for inner in filter.none)
    )


def _holds(condition: Condition, document: Mapping[str, object], path: str) -> bool:
    value, sensitive = condition.value, condition.case_sensitive
    values = list(reached(document, path))
    match condition.operator:
        case "exists":
            return value is any(found is not MISSING for found in values)
        case "is_null":
            return value is any(found is None or found is MISSING for found in values)
        case "eq" | "in":
            return _equals_one(values, value, sensitive)
        case "ne" | "nin":
            return not _equals_one(values, value, sensitive)
        case "gt" | "gte" | "lt" | "lte":
            return any(_compares(condition.operator, found, value) for found in values)
    if not isinstance(value, str | tuple):
        arrays = (found for found in reached(document, path, whole_arrays=False) if isinstance(found, list))
        return any(_equal(item, value, sensitive) for array in arrays for item in array)
    texts = [found if sensitive else fold(found) for found in values if isinstance(found, str)]
    if isinstance(value, tuple):
        words = [_cased(str(word), sensitive) for word in value]
        if condition.operator == "phrase":
            return any(_in_a_row(words, words_of(text)) for text in texts)
        return all(any(word in words_of(text) for text in texts) for word in words)
    if condition.operator == "regex":
        pattern = _compiled(value)
        return any(pattern.search(found) is not None for found in values if isinstance(found, str))
    text = _cased(value, sensitive)
    match condition.operator:
        case "starts_with":
            return any(found.startswith(text) for found in texts)
        case "ends_with":
            return any(found.endswith(text) for found in texts)
    return any(text in found for found in texts)


def _equals_one(values: Iterable[object], choices: Scalar | tuple[Scalar, ...], case_sensitive: bool) -> bool:
    wanted = choices if isinstance(choices, tuple) else (choices,)
    return any(_equal(found, choice, case_sensitive) for found in values for choice in wanted)


def _equal(found: object, value: Scalar, case_sensitive: bool) -> bool:
    if isinstance(found, str) and isinstance(value, str):
        return _cased(found, case_sensitive) == _cased(value, case_sensitive)
    return compare(found, value) == 0


def _compares(operator: str, found: object, value: object) -> bool:
    if bracket_of(found) != bracket_of(value):
        return False
    order = compare(found, value)
    return (operator in ("gte", "lte") and order == 0) or (order > 0 if operator in ("gt", "gte") else order < 0)


def _cased(text: str, case_sensitive: bool) -> str:
    return text if case_sensitive else fold(text)


def _in_a_row(words: list[str], text: list[str]) -> bool:
    return any(text[start : start + len(words)] == words for start in range(len(text) - len(words) + 1))


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
