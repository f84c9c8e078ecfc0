"""The filter language of lists (contract, section 3): parse it from JSON and translate it to a MongoDB query.

::

    group      = {"AND": [entry…], "OR": [entry…], "NOT": [entry…], "case_sensitive": bool, "field.path": value …}
    condition  = {"field": path, "operator": name, "value": …, "case_sensitive": bool}
    entry      = group | condition

All parts of a group must hold: every entry of AND, at least one of OR, none of NOT, and the shorthand equalities. An
empty list, and null, set no condition. Text is compared without regard to case unless the condition, or a group around
it, has ``case_sensitive: true``; a ``false`` inside does not revert that, because the official client sends it always.

Values are compared as MongoDB does it: an array matches if one of its elements matches, numbers match numbers and text
matches text, and an absent field equals null.

==============================  =====================================================================================
``eq ne in nin``                a scalar, or a list of scalars
``gt gte lt lte``               numbers; text by code point, always case-sensitive; dates
``contains``                    text within text; for an array also an element that equals a number or boolean
``starts_with ends_with text``  text; ``text`` means ``contains`` for text
``regex``                       a regular expression in the syntax that Python and PCRE share, without inline flags
``words phrase``                whole words: all of them anywhere, or next to each other in this order
``exists is_null``              true (the default) or false; null exists, and an absent field is null
==============================  =====================================================================================

On a property that the schema declares as a date, the operators of the first two rows compare moments
(:mod:`bucketline.domain.moments`); all others look at the text.

A filter cannot inject operators: field paths are checked here, and every value follows an operator that this module
chose, as a plain scalar.
"""

import math
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, get_args

from bucketline.domain.field_validation import shown
from bucketline.domain.keyset import path_fault
from bucketline.domain.moments import MOMENTS, Moments, moment_key
from bucketline.domain.regex_safety import backtracks_exponentially
from bucketline.domain.schema import MAX_FAULTS, Location, is_date, is_datetime
from bucketline.errors import ValidationFailed, ValidationIssue

MAX_NESTING = 10
MAX_CONDITIONS = 200
MAX_VALUES = 1000
MAX_TEXT = 1024
"""Characters of one text value: any ``key_prefix`` that can be stored can be searched for."""
MAX_TOTAL_TEXT = 200_000
MAX_WORDS = 30
MAX_PATTERN = 500
MAX_TOTAL_PATTERN = 1000
"""Characters of all regular expressions of a filter: the syntax check takes up to 0.3 s for 500 characters."""
MAX_SEARCHED = 1000
"""Characters of the longest text that a ``regex`` can match. See :func:`_user_pattern`."""
MAX_ALTERNATION = 4000
"""Characters of the values in one pattern; longer lists are split over several patterns."""

NO_MOMENTS = Moments({})

DATE_FIELDS = frozenset({"created_at", "updated_at"})
"""Fields that hold dates in every record; their conditions take ISO 8601 text."""

Operator = Literal[
    "eq", "ne", "gt", "lt", "gte", "lte", "in", "nin", "contains", "starts_with", "ends_with", "regex", "exists",
    "is_null", "text", "phrase", "words",
]  # fmt: skip
Scalar = str | int | float | bool | datetime | None
Query = dict[str, object]

_OPERATORS: Mapping[str, Operator] = {name: name for name in get_args(Operator)}
_PARTS = ("AND", "OR", "NOT")
_CONDITION_KEYS = frozenset({"field", "operator", "value", "case_sensitive"})
_DATE_OPERATORS = frozenset({"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"})
_EXPECTED: Mapping[str, str] = {
    "eq": "text, a number, true, false or null is expected (for several values use in)",
    "ne": "text, a number, true, false or null is expected (for several values use nin)",
    "contains": "text, a number, true or false is expected",
    **dict.fromkeys(("gt", "gte", "lt", "lte"), "text or a number is expected"),
}


@dataclass(frozen=True)
class Condition:
    """One comparison of a field, under its name on the wire, with a value of the operator's type."""

    field: str
    operator: Operator
    value: Scalar | tuple[Scalar, ...]
    case_sensitive: bool = False


@dataclass(frozen=True)
class Group:
    """Holds when all of ``every`` hold, one of ``some`` does (if there are any), and none of ``none``."""

    every: tuple["Filter", ...] = ()
    some: tuple["Filter", ...] = ()
    none: tuple["Filter", ...] = ()


Filter = Condition | Group


def parse_filter(
    raw: object,
    *,
    location: Location = ("body", "filters"),
    dates: Collection[str] = DATE_FIELDS,
    exact: Collection[str] = (),
    moments: Moments = NO_MOMENTS,
) -> Filter:
    """Parse ``raw`` (JSON) into a filter; null and ``{}`` select everything.

    ``dates`` names fields stored as dates, ``exact`` fields that are always compared case-sensitively because an index
    serves them (ids). ``moments`` are the dates that the schema declares; a condition that compares one has the path of
    its moment as its field. Raises :class:`ValidationFailed` with one row for each mistake.
    """
    parser = _Parser(frozenset(dates), frozenset(exact), moments)
    parsed = Group() if raw is None else parser.parse_entry(raw, location, 1, False)
    if parser.issues:
        raise ValidationFailed(parser.issues[:MAX_FAULTS])
    return parsed


def fields_of(filter: Filter) -> Iterator[str]:  # noqa: A002  # the contract's word
    """Yield the fields that a filter looks at."""
    if isinstance(filter, Condition):
        yield filter.field
    else:
        for inner in (*filter.every, *filter.some, *filter.none):
            yield from fields_of(inner)


def to_mongo(filter: Filter, field_path: Callable[[str], str]) -> Query:  # noqa: A002  # the contract's word
    """Return the MongoDB query for the documents that ``filter`` selects, ``{}`` for all.

    ``field_path`` maps a wire field to its stored path (``object_id`` → ``_id``, ``sku`` → ``custom.sku``). Join the
    result to the list's own scope with ``$and``, never by merging keys.
    """
    if isinstance(filter, Condition):
        return _condition_query(filter, field_path(filter.field))
    parts = [query for inner in filter.every if (query := to_mongo(inner, field_path))]
    if filter.some:
        parts.append({"$or": [to_mongo(inner, field_path) for inner in filter.some]})
    if filter.none:
        parts.append({"$nor": [to_mongo(inner, field_path) for inner in filter.none]})
    return _all_of(parts)


def literal_pattern(text: str, *, case_sensitive: bool) -> str:
    """Return a regular expression that finds ``text``, in any case unless ``case_sensitive``."""
    return _flags(case_sensitive) + _escape(text)


class _Invalid(Exception):
    """Carries the mistake in an entry out of its parsing."""

    def __init__(self, kind: str, location: Location, message: str) -> None:
        super().__init__(message)
        self.issue = ValidationIssue(kind, location, message)


class _Parser:
    """Collects all mistakes, so that the response lists them together. An invalid entry is left out of the result."""

    def __init__(self, dates: frozenset[str], exact: frozenset[str], moments: Moments) -> None:
        self.issues: list[ValidationIssue] = []
        self._moments = moments
        self._dates = dates
        self._exact = exact
        self._conditions = 0
        self._groups = 0
        self._text = 0
        self._pattern = 0

    def parse_entry(self, raw: object, location: Location, nesting: int, case_sensitive: bool) -> Filter:
        try:
            return self._entry(raw, location, nesting, case_sensitive)
        except _Invalid as invalid:
            self.issues.append(invalid.issue)
            return Group()

    def _entry(self, raw: object, location: Location, nesting: int, case_sensitive: bool) -> Filter:
        if not isinstance(raw, Mapping):
            raise _Invalid("dict_type", location, "a condition or a group is expected")
        flag = raw.get("case_sensitive")
        if not isinstance(flag, bool | None):
            raise _Invalid("bool_type", (*location, "case_sensitive"), "true or false is expected")
        case_sensitive = case_sensitive or flag is True
        if "field" in raw and ("operator" in raw or "value" in raw or _CONDITION_KEYS.issuperset(raw)):
            return self._condition(raw, location, case_sensitive)
        return self._group(raw, location, nesting, case_sensitive)

    def _group(self, raw: Mapping[str, object], location: Location, nesting: int, case_sensitive: bool) -> Filter:
        self._groups += 1
        if nesting > MAX_NESTING:
            raise _Invalid("too_deep", location, f"groups nest at most {MAX_NESTING} levels")
        if self._groups > MAX_CONDITIONS:
            raise _Invalid("too_long", location, f"a filter has at most {MAX_CONDITIONS} groups")
        every, some, none = (self._entries(raw, part, location, nesting, case_sensitive) for part in _PARTS)
        for key, value in raw.items():
            if key not in _PARTS and key != "case_sensitive":
                at = (*location, shown(key))
                try:
                    every.append(self._comparison(key, "eq", value, at, at, case_sensitive))
                except _Invalid as invalid:
                    self.issues.append(invalid.issue)
        return Group(tuple(every), tuple(some), tuple(none))

    def _entries(
        self, raw: Mapping[str, object], part: str, location: Location, nesting: int, case_sensitive: bool
    ) -> list[Filter]:
        entries, at = raw.get(part), (*location, part)
        if entries is None:
            return []
        if not isinstance(entries, list):
            raise _Invalid("list_type", at, "a list of conditions or groups is expected")
        if len(entries) > MAX_CONDITIONS:
            raise _Invalid("too_long", at, f"a filter has at most {MAX_CONDITIONS} conditions")
        return [
            self.parse_entry(entry, (*at, index), nesting + 1, case_sensitive) for index, entry in enumerate(entries)
        ]

    def _condition(self, raw: Mapping[str, object], location: Location, case_sensitive: bool) -> Condition:
        for key, value in raw.items():
            # The official client may send the parts of a group as null.
            if key not in _CONDITION_KEYS and not (key in _PARTS and value is None):
                raise _Invalid("extra_forbidden", (*location, shown(key)), "a condition has no such key")
        field, name = raw["field"], raw.get("operator")
        if not isinstance(field, str):
            raise _Invalid("string_type", (*location, "field"), "a field path is expected")
        operator = "eq" if name is None else _OPERATORS.get(name) if isinstance(name, str) else None
        if operator is None:
            raise _Invalid("enum", (*location, "operator"), f"not one of the operators: {', '.join(_OPERATORS)}")
        if "value" not in raw and operator not in ("exists", "is_null"):
            raise _Invalid("missing", (*location, "value"), "Field required")
        field_at, value_at = (*location, "field"), (*location, "value")
        return self._comparison(field, operator, raw.get("value"), field_at, value_at, case_sensitive)

    def _comparison(
        self, field: str, operator: Operator, value: object, field_at: Location, at: Location, case_sensitive: bool
    ) -> Condition:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise _Invalid("too_long", at, f"a filter has at most {MAX_CONDITIONS} conditions")
        if (reason := path_fault(field)) is not None:
            raise _Invalid("field_path", field_at, reason)
        moment = self._moments.path(field) if operator in _DATE_OPERATORS else None
        condition = Condition(moment or field, operator, None, case_sensitive or field in self._exact)
        match operator:
            case "exists" | "is_null":
                if not isinstance(value, bool | None):
                    raise _Invalid("bool_type", at, "true or false is expected")
                return replace(condition, value=value is not False)
            case "in" | "nin":
                return replace(condition, value=self._scalars(condition, value, at))
            case "eq" | "ne":
                valid = isinstance(value, str | int | float | None)
            case "contains":
                valid = isinstance(value, str | int | float)
            case "gt" | "gte" | "lt" | "lte":
                valid = isinstance(value, str | int | float) and not isinstance(value, bool)
            case _:
                valid = isinstance(value, str)
        if not valid:
            raise _Invalid("value_type", at, _EXPECTED.get(operator, "text is expected"))
        scalar = self._scalar(condition, value, at)
        if isinstance(scalar, str) and operator == "regex":
            self._pattern += len(scalar)
            if self._pattern > MAX_TOTAL_PATTERN:
                raise _Invalid(
                    "regex", at, f"all regular expressions of a filter have at most {MAX_TOTAL_PATTERN} characters"
                )
            _check_regex(scalar, condition.case_sensitive, at)
        if isinstance(scalar, str) and operator in ("words", "phrase"):
            return replace(condition, value=_split_words(scalar, at))
        return replace(condition, value=scalar)

    def _scalars(self, condition: Condition, value: object, at: Location) -> tuple[Scalar, ...]:
        if not isinstance(value, list):
            raise _Invalid("list_type", at, "a list of values is expected")
        if len(value) > MAX_VALUES:
            raise _Invalid("too_long", at, f"at most {MAX_VALUES} values are allowed")
        scalars = []
        for index, item in enumerate(value):
            try:
                scalars.append(self._scalar(condition, item, (*at, index)))
            except _Invalid as invalid:
                self.issues.append(invalid.issue)
        return tuple(scalars)

    def _scalar(self, condition: Condition, value: object, at: Location) -> Scalar:
        """Return ``value`` in the form in which it is compared with stored values."""
        if isinstance(value, str):
            if len(value) > MAX_TEXT:
                raise _Invalid("string_too_long", at, f"text has at most {MAX_TEXT} characters")
            self._text += len(value)
            if self._text > MAX_TOTAL_TEXT:
                raise _Invalid("string_too_long", at, f"all text of a filter has at most {MAX_TOTAL_TEXT} characters")
            if any("\ud800" <= c <= "\udfff" for c in value):
                raise _Invalid("string_unicode", at, "not valid Unicode")
            if condition.operator not in _DATE_OPERATORS:
                return value
            if condition.field.startswith(f"{MOMENTS}."):
                parsed: Scalar = moment_key(value)
            elif condition.field in self._dates:
                parsed = _parse_date(value)
            else:
                return value
            if parsed is None:
                raise _Invalid("datetime_type", at, "an ISO 8601 date, or date and time, is expected")
            return parsed
        if isinstance(value, float) and not math.isfinite(value):
            raise _Invalid("finite_number", at, "a number must be finite")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _Invalid("int_size", at, "an integer has at most 64 bits")
        if isinstance(value, int | float | None):
            return value
        raise _Invalid("value_type", at, "text, a number, true, false or null is expected")


def _parse_date(value: str) -> datetime | None:
    """Parse ISO 8601 text to the precision of the database; text without a zone is UTC."""
    if not (is_date(value) or is_datetime(value)):
        return None
    moment = datetime.fromisoformat(value.upper())
    try:
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        return None
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _check_regex(pattern: str, case_sensitive: bool, at: Location) -> None:
    """Refuse a pattern that is not valid in the syntax that Python and PCRE share, or may take exponential time.

    Inline flags are refused: ``case_sensitive`` decides about case, and flags triple the time of Python's syntax check
    (0.19 s instead of 0.06 s for 35 sets of all characters).
    """
    if len(pattern) > MAX_PATTERN:
        raise _Invalid("regex", at, f"a regular expression has at most {MAX_PATTERN} characters")
    if "\0" in pattern:
        raise _Invalid("regex", at, r"a regular expression cannot hold a NUL character: write \x00")
    if _INLINE_FLAGS.search(pattern):
        raise _Invalid("regex", at, "inline flags such as (?i) are not supported: use case_sensitive")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
        exponential = backtracks_exponentially(pattern, case_sensitive=case_sensitive)
    except (re.error, OverflowError) as error:
        raise _Invalid("regex", at, f"not a valid regular expression: {error}") from error
    except RecursionError as error:
        raise _Invalid("regex", at, "the regular expression is nested too deeply") from error
    if exponential:
        raise _Invalid(
            "regex",
            at,
            "the regular expression repeats a group that can match the same text in several ways, such as (a+)+ or "
            "(a|a)*, which may take exponential time: remove the inner or the outer repetition, or separate the "
            "repetitions by a character that the group cannot match",
        )


def _split_words(text: str, at: Location) -> tuple[str, ...]:
    words = _WORDS.findall(text)
    if not words:
        raise _Invalid("string_too_short", at, "at least one word is expected")
    if len(words) > MAX_WORDS:
        raise _Invalid("string_too_long", at, f"at most {MAX_WORDS} words are allowed")
    return tuple(words)


def _condition_query(condition: Condition, path: str) -> Query:
    value, case_sensitive = condition.value, condition.case_sensitive
    values = value if isinstance(value, tuple) else (value,)
    match condition.operator:
        case "exists":
            return {path: {"$exists": value}}
        case "is_null":
            return {path: {"$eq" if value else "$ne": None}}
        case "gt" | "gte" | "lt" | "lte":
            return {path: {f"${condition.operator}": value}}
        case "eq" | "in":
            return _equals_any(path, values, case_sensitive)
        case "ne" | "nin":
            return _equals_none(path, values, case_sensitive)
    if not isinstance(value, str | tuple):
        return {path: {"$elemMatch": {"$eq": value}}}  # contains, for a number or a boolean
    words = [word for word in values if isinstance(word, str)]
    match condition.operator:
        case "phrase":
            patterns = [_phrase_pattern(words, case_sensitive)]
        case "words":
            patterns = [_phrase_pattern([word], case_sensitive) for word in dict.fromkeys(words)]
        case "regex":
            patterns = [_user_pattern(words[0], case_sensitive)]
        case "starts_with":
            patterns = [_flags(case_sensitive) + r"\A" + _escape(words[0])]
        case "ends_with":
            patterns = [_flags(case_sensitive) + _escape(words[0]) + r"\z"]
        case _:
            patterns = [literal_pattern(words[0], case_sensitive=case_sensitive)]
    return _all_of([{path: {"$regex": pattern}} for pattern in patterns])


def _equals_any(path: str, values: Sequence[Scalar], case_sensitive: bool) -> Query:
    plain, patterns = _split_by_case(values, case_sensitive)
    queries: list[Query] = [{path: {"$regex": pattern}} for pattern in patterns]
    if plain or not queries:
        queries.insert(0, {path: {"$eq": plain[0]} if len(plain) == 1 else {"$in": plain}})
    return queries[0] if len(queries) == 1 else {"$or": queries}


def _equals_none(path: str, values: Sequence[Scalar], case_sensitive: bool) -> Query:
    plain, patterns = _split_by_case(values, case_sensitive)
    if patterns:
        return {"$nor": [_equals_any(path, values, case_sensitive)]}
    return {path: {"$ne": plain[0]} if len(plain) == 1 else {"$nin": plain}}


def _split_by_case(values: Iterable[Scalar], case_sensitive: bool) -> tuple[list[Scalar], list[str]]:
    """Return the values to compare as they are, which an index serves, and patterns for text that has other cases."""
    plain: list[Scalar] = []
    chunks: list[list[str]] = []
    size = MAX_ALTERNATION
    for value in values:
        if case_sensitive or not isinstance(value, str) or value.lower() == value == value.upper():
            plain.append(value)
            continue
        size += len(value)
        if size > MAX_ALTERNATION:
            chunks.append([])
            size = len(value)
        chunks[-1].append(_escape(value))
    return plain, [rf"(?i)\A(?:{'|'.join(chunk)})\z" for chunk in chunks]


def _user_pattern(pattern: str, case_sensitive: bool) -> str:
    r"""Return a pattern that searches for the user's pattern with a bounded number of steps.

    The server cannot interrupt its regular expression engine inside one text, so the time limit of a search does not
    protect it. The engine limits its steps, but counts them again from every start position. Therefore the pattern is
    anchored, and an outer ``[\s\S]*?`` moves it: one start position, one budget for each text. One run of each pattern
    with MongoDB 6.0.27, on text of 15 letters ``a`` and a ``b``, repeated:

    ======================  =================  =======================  ===========================
    pattern                 10,000 characters  100,000 characters       10,000 characters, anchored
    ======================  =================  =======================  ===========================
    ``(a+)+c``              2.9 s              > 20 s (client timeout)  6 ms
    ``(a|aa)+c``            0.3 s              8.5 s                    12 ms
    ``(?:a?){14}a{14}c``    5.0 s              > 20 s (client timeout)  3 ms
    ======================  =================  =======================  ===========================

    An operation whose client had given up after 20 s was still running on the server after 49 s. The anchored
    ``(a+)+c`` on 20,000 texts of 1,000 characters was stopped by the time limit of 10 s.

    A text on which MongoDB 6.0 gives up does not match, without an error; :mod:`bucketline.domain.regex_safety` refuses
    the patterns for which that is likely. Moving the pattern costs steps too, so texts
    above :data:`MAX_SEARCHED` characters are excluded. Of seven usual patterns, all found their text up to 4,000
    characters.
    """
    return rf"{_flags(case_sensitive)}\A(?![\s\S]{{{MAX_SEARCHED + 1}}})[\s\S]*?(?:{pattern})"


def _phrase_pattern(words: Sequence[str], case_sensitive: bool) -> str:
    inner = f"[{_NOT_IN_WORDS}]++".join(map(_escape, words))
    return f"{_flags(case_sensitive)}(?<![^{_NOT_IN_WORDS}]){inner}(?![^{_NOT_IN_WORDS}])"


def _flags(case_sensitive: bool) -> str:
    return "" if case_sensitive else "(?i)"


def _escape(text: str) -> str:
    return re.escape(text).replace("\0", r"\x00")


def _all_of(queries: Sequence[Query]) -> Query:
    if not queries:
        return {}
    return queries[0] if len(queries) == 1 else {"$and": list(queries)}


_INLINE_FLAGS = re.compile(r"\(\?[A-Za-z-]+[):]")
_NOT_IN_WORDS = (
    r"\x00-/:-@\[-\^`{-" + "\x7f\x80-\xa9\xab-\xb1\xb4\xb6-\xb8\xbb\xbf\xd7\xf7\u1680\u2000-\u206f\u2e00-\u2e7f"
    "\u3000-\u3004\u3008-\u3020\u3030\ufe30-\ufe4f\ufeff\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
r"""What separates words: spaces, punctuation and invisible characters. Listed because ``\w`` is ASCII for MongoDB."""
_WORDS = re.compile(f"[^{_NOT_IN_WORDS}]+")
