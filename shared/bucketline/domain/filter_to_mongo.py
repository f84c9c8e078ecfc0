"""A filter as a MongoDB query.

Nothing that a producer sends can become an operator: paths were checked when the filter was read, and every value
stands behind an operator of ours as a plain scalar.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from bucketline.domain.case_folding import END, START, has_case, literal, phrase
from bucketline.domain.filters import Condition, Filter, Scalar

Query = dict[str, object]

MAX_ALTERNATION = 500
"""Characters of values in one pattern; longer lists are spread over several."""


def to_mongo(filter: Filter, field_path: Callable[[str], str]) -> Query:  # noqa: A002  # the contract's word
    """The query for the documents that ``filter`` holds for, ``{}`` for all.

    ``field_path`` gives the stored path of a wire field (``object_id`` → ``_id``, ``sku`` → ``custom.sku``). Join the
    result to the list's own scope with ``$and``, never by merging keys.
    """
    if isinstance(filter, Condition):
        return _condition(filter, field_path(filter.field))
    parts = [query for inner in filter.every if (query := to_mongo(inner, field_path))]
    if filter.some:
        parts.append({"$or": [to_mongo(inner, field_path) for inner in filter.some]})
    if filter.none:
        parts.append({"$nor": [to_mongo(inner, field_path) for inner in filter.none]})
    return _every(parts)


def _condition(condition: Condition, path: str) -> Query:
    value = condition.value
    match condition.operator:
        case "exists":
            return {path: {"$exists": value}}
        case "is_null":
            return {path: {"$eq" if value else "$ne": None}}
        case "gt" | "gte" | "lt" | "lte":
            return {path: {f"${condition.operator}": value}}
        case "eq":
            return _equals_one(path, _scalars(value), condition.case_sensitive)
        case "ne":
            return _not(path, _scalars(value), condition.case_sensitive)
        case "in":
            return _equals_one(path, _scalars(value), condition.case_sensitive)
        case "nin":
            return _not(path, _scalars(value), condition.case_sensitive)
    if not isinstance(value, str | tuple):
        # contains, for a number or a boolean
        return {path: {"$elemMatch": {"$eq": value}}}
    return _every([{path: {"$regex": pattern}} for pattern in text_patterns(condition)])


def text_patterns(condition: Condition) -> list[str]:
    """The patterns of a condition on text; some value has to match each."""
    value, sensitive = condition.value, condition.case_sensitive
    if isinstance(value, tuple):
        words = [word for word in value if isinstance(word, str)]
        if condition.operator == "phrase":
            return [phrase(words, case_sensitive=sensitive)]
        return [phrase([word], case_sensitive=sensitive) for word in dict.fromkeys(words)]
    text = str(value)
    match condition.operator:
        case "regex":
            return [text]
        case "starts_with":
            return [START + literal(text, case_sensitive=sensitive)]
        case "ends_with":
            return [literal(text, case_sensitive=sensitive) + END]
    return [literal(text, case_sensitive=sensitive)]


def _scalars(value: Scalar | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    return value if isinstance(value, tuple) else (value,)


def _equals_one(path: str, values: Sequence[Scalar], case_sensitive: bool) -> Query:
    """Values without another case are compared as they are: an index finds those."""
    plain, patterns = _parted(values, case_sensitive)
    queries: list[Query] = [{path: {"$regex": pattern}} for pattern in patterns]
    if plain or not queries:
        queries.insert(0, {path: {"$eq": plain[0]} if len(plain) == 1 else {"$in": plain}})
    return queries[0] if len(queries) == 1 else {"$or": queries}


def _not(path: str, values: Sequence[Scalar], case_sensitive: bool) -> Query:
    plain, patterns = _parted(values, case_sensitive)
    if not patterns:
        return {path: {"$ne": plain[0]} if len(plain) == 1 else {"$nin": plain}}
    return {"$nor": [_equals_one(path, values, case_sensitive)]}


def _parted(values: Iterable[Scalar], case_sensitive: bool) -> tuple[list[Scalar], list[str]]:
    plain: list[Scalar] = []
    cased: list[str] = []
    for value in values:
        if isinstance(value, str) and not case_sensitive and has_case(value):
            cased.append(value)
        else:
            plain.append(value)
    return plain, [_whole(chunk) for chunk in _chunks(cased)]


def _whole(texts: Sequence[str]) -> str:
    choices = "|".join(literal(text, case_sensitive=False) for text in texts)
    return f"{START}(?:{choices}){END}" if len(texts) > 1 else f"{START}{choices}{END}"


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        if chunk and size + len(text) > MAX_ALTERNATION:
            yield chunk
            chunk, size = [], 0
        chunk.append(text)
        size += len(text)
    if chunk:
        yield chunk


def _every(queries: Sequence[Query]) -> Query:
    if not queries:
        return {}
    return queries[0] if len(queries) == 1 else {"$and": list(queries)}
