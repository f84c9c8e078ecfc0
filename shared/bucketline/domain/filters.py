"""The filter language of lists (contract, section 3): reading it from JSON.

::

    group      = {"AND": [entry…], "OR": [entry…], "NOT": [entry…], "case_sensitive": bool, "field.path": value …}
    condition  = {"field": path, "operator": name, "value": …, "case_sensitive": bool}
    entry      = group | condition

All parts of a group must hold: every entry of AND, one of OR, none of NOT, and the shorthand equalities. An empty
list, or null, asks for nothing. Text is compared without regard to case unless the condition, or a group around it,
has ``case_sensitive: true`` (a ``false`` inside takes nothing back: the official client writes it everywhere).

What a condition means, on a document (:func:`bucketline.domain.filter_match.matches`) and as a MongoDB query
(:func:`bucketline.domain.filter_to_mongo.to_mongo`), is the same, and is that of MongoDB: an array matches if one of
its
elements does, numbers match numbers and text matches text, null is also what an absent field is.

==============================  =============================================================================
``eq ne in nin``                a scalar, or a list of them
``gt gte lt lte``               numbers; text by code point, always with regard to case; dates
``contains``                    text within text; for an array also an element that equals a number or boolean
``starts_with ends_with text``  text; ``text`` is ``contains`` for text
``regex``                       the subset of :mod:`bucketline.domain.safe_regex`
``words phrase``                whole words: all of them anywhere, or in this order next to each other
``exists is_null``              true (the default) or false; null exists, and is null as an absent field is
==============================  =============================================================================

On a property that the schema declares as a date, the operators of the first two rows compare moments
(:mod:`bucketline.domain.moments`); all others look at the text.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from bucketline.domain.case_folding import words_of
from bucketline.domain.field_validation import shown
from bucketline.domain.moments import MOMENTS, Moments, moment_key
from bucketline.domain.safe_regex import UnsafePattern, translate
from bucketline.domain.schema import MAX_FAULTS, Location, is_date, is_datetime
from bucketline.domain.sorting import path_fault
from bucketline.errors import ValidationFailed, ValidationIssue

MAX_NESTING = 10
MAX_CONDITIONS = 200
MAX_VALUES = 1000
MAX_TEXT = 1024
"""As long as a key may be: what can be stored under ``key_prefix`` can be looked for."""
MAX_TOTAL_TEXT = 200_000
MAX_WORDS = 30

NO_MOMENTS = Moments({})

DATE_FIELDS = frozenset({"created_at", "updated_at"})
"""Fields of ours that hold dates; their conditions take ISO 8601 text."""

Operator = Literal[
    "eq", "ne", "gt", "lt", "gte", "lte", "in", "nin", "contains", "starts_with", "ends_with", "regex", "exists",
    "is_null", "text", "phrase", "words",
]  # fmt: skip
Scalar = str | int | float | bool | datetime | None

_OPERATORS: dict[str, Operator] = {
    "eq": "eq", "ne": "ne", "gt": "gt", "lt": "lt", "gte": "gte", "lte": "lte", "in": "in", "nin": "nin",
    "contains": "contains", "starts_with": "starts_with", "ends_with": "ends_with", "regex": "regex",
    "exists": "exists", "is_null": "is_null", "text": "text", "phrase": "phrase", "words": "words",
}  # fmt: skip
_PARTS = ("AND", "OR", "NOT")
_CONDITION_KEYS = frozenset({"field", "operator", "value", "case_sensitive"})
_COMPARED_WITH_DATES = frozenset({"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"})
_DATE_EXPECTED = "an ISO 8601 date, or date and time, is expected"
_EXPECTED: dict[str, str] = {
    "eq": "text, a number, true, false or null is expected (for several values: in)",
    "ne": "text, a number, true, false or null is expected (for several values: nin)",
    "contains": "text, a number, true or false is expected",
    "gt": "text or a number is expected",
    "gte": "text or a number is expected",
    "lt": "text or a number is expected",
    "lte": "text or a number is expected",
}


@dataclass(frozen=True)
class Condition:
    """One comparison. ``value`` is of the operator's type; of ``regex`` it is the pattern as translated."""

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


def parse(
    raw: object,
    *,
    location: Location = ("body", "filters"),
    dates: Collection[str] = DATE_FIELDS,
    exact: Collection[str] = (),
    moments: Moments = NO_MOMENTS,
) -> Filter:
    """The filter that ``raw`` (JSON) says; null and ``{}`` select everything.

    ``dates`` names fields that hold dates, ``exact`` text fields where case always counts, because they are ours and
    looked up by index (ids). ``moments`` are the dates of the producer's: a condition that compares one has the field
    of its moment. Raises :class:`ValidationFailed` with one row a fault.
    """
    reader = _Reader(frozenset(dates), frozenset(exact), moments)
    found = Group() if raw is None else reader.entry(raw, location, 1, False)
    if reader.faults:
        raise ValidationFailed(reader.faults[:MAX_FAULTS])
    return found


def fields_of(filter: Filter) -> Iterator[str]:  # noqa: A002  # the contract's word
    """The fields that a filter looks at."""
    if isinstance(filter, Condition):
        yield filter.field
    else:
        for inner in (*filter.every, *filter.some, *filter.none):
            yield from fields_of(inner)


class _Refused(Exception):
    """Carries the fault of a condition out of the reading of it."""

    def __init__(self, kind: str, location: Location, message: str) -> None:
        super().__init__(message)
        self.fault = ValidationIssue(kind, location, message)


class _Reader:
    """Collects faults, so that all of them are told at once. What is faulty is left out of the result."""

    def __init__(self, dates: frozenset[str], exact: frozenset[str], moments: Moments) -> None:
        self.faults: list[ValidationIssue] = []
        self._moments = moments
        self._dates = dates
        self._exact = exact
        self._conditions = 0
        self._groups = 0
        self._text = 0

    def entry(self, raw: object, location: Location, nesting: int, case_sensitive: bool) -> Filter:
        try:
            return self._entry(raw, location, nesting, case_sensitive)
        except _Refused as refused:
            self.faults.append(refused.fault)
            return Group()

    def _entry(self, raw: object, location: Location, nesting: int, case_sensitive: bool) -> Filter:
        if not isinstance(raw, Mapping):
            raise _Refused("dict_type", location, "a condition or a group is expected")
        flag = raw.get("case_sensitive")
        if not isinstance(flag, bool | None):
            raise _Refused("bool_type", (*location, "case_sensitive"), "true or false is expected")
        sensitive = case_sensitive or flag is True
        if "field" in raw and ("operator" in raw or "value" in raw or _CONDITION_KEYS.issuperset(raw)):
            return self._condition(raw, location, sensitive)
        return self._group(raw, location, nesting, sensitive)

    def _group(self, raw: Mapping[str, object], location: Location, nesting: int, sensitive: bool) -> Filter:
        self._groups += 1
        if nesting > MAX_NESTING:
            raise _Refused("too_deep", location, f"groups nest at most {MAX_NESTING} levels")
        if self._groups > MAX_CONDITIONS:
            raise _Refused("too_long", location, f"a filter has at most {MAX_CONDITIONS} groups")
        every, some, none = (self._entries(raw, part, location, nesting, sensitive) for part in _PARTS)
        for key, value in raw.items():
            if key not in _PARTS and key != "case_sensitive":
                at = (*location, shown(key))
                try:
                    every.append(self._comparison(key, "eq", value, at, at, sensitive))
                except _Refused as refused:
                    self.faults.append(refused.fault)
        return Group(tuple(every), tuple(some), tuple(none))

    def _entries(
        self, raw: Mapping[str, object], part: str, location: Location, nesting: int, sensitive: bool
    ) -> list[Filter]:
        given, at = raw.get(part), (*location, part)
        if given is None:
            return []
        if not isinstance(given, list):
            raise _Refused("list_type", at, "a list of conditions or groups is expected")
        if len(given) > MAX_CONDITIONS:
            raise _Refused("too_long", at, f"a filter has at most {MAX_CONDITIONS} conditions")
        return [self.entry(entry, (*at, index), nesting + 1, sensitive) for index, entry in enumerate(given)]

    def _condition(self, raw: Mapping[str, object], location: Location, sensitive: bool) -> Condition:
        for key, value in raw.items():
            # the official client may write the parts of a group as null
            if key not in _CONDITION_KEYS and not (key in _PARTS and value is None):
                raise _Refused("extra_forbidden", (*location, shown(key)), "a condition has no such key")
        field, name = raw["field"], raw.get("operator")
        if not isinstance(field, str):
            raise _Refused("string_type", (*location, "field"), "a field path is expected")
        operator = "eq" if name is None else _OPERATORS.get(name) if isinstance(name, str) else None
        if operator is None:
            known = ", ".join(_OPERATORS)
            raise _Refused("enum", (*location, "operator"), f"not one of the operators: {known}")
        if "value" not in raw and operator not in ("exists", "is_null"):
            raise _Refused("missing", (*location, "value"), "Field required")
        return self._comparison(
            field, operator, raw.get("value"), (*location, "field"), (*location, "value"), sensitive
        )

    def _comparison(
        self, field: str, operator: Operator, value: object, field_at: Location, at: Location, sensitive: bool
    ) -> Condition:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise _Refused("too_long", at, f"a filter has at most {MAX_CONDITIONS} conditions")
        if (reason := path_fault(field)) is not None:
            raise _Refused("field_path", field_at, reason)
        moment = self._moments.path(field) if operator in _COMPARED_WITH_DATES else None
        condition = Condition(moment or field, operator, None, sensitive or field in self._exact)
        match operator:
            case "exists" | "is_null":
                if not isinstance(value, bool | None):
                    raise _Refused("bool_type", at, "true or false is expected")
                return replace(condition, value=value is not False)
            case "in" | "nin":
                return replace(condition, value=self._one_of(condition, value, at))
            case "eq" | "ne":
                fits = isinstance(value, str | int | float | None)
            case "contains":
                fits = isinstance(value, str | int | float)
            case "gt" | "gte" | "lt" | "lte":
                fits = isinstance(value, str | int | float) and not isinstance(value, bool)
            case _:
                fits = isinstance(value, str)
        if not fits:
            raise _Refused("value_type", at, _EXPECTED.get(operator, "text is expected"))
        return _prepared(replace(condition, value=self._scalar(condition, value, at)), at)

    def _one_of(self, condition: Condition, value: object, at: Location) -> tuple[Scalar, ...]:
        if not isinstance(value, list):
            raise _Refused("list_type", at, "a list of values is expected")
        if len(value) > MAX_VALUES:
            raise _Refused("too_long", at, f"at most {MAX_VALUES} values")
        scalars = []
        for index, item in enumerate(value):
            try:
                scalars.append(self._scalar(condition, item, (*at, index)))
            except _Refused as refused:
                self.faults.append(refused.fault)
        return tuple(scalars)

    def _scalar(self, condition: Condition, value: object, at: Location) -> Scalar:
        """``value`` as it is compared with stored ones."""
        if isinstance(value, str):
            if len(value) > MAX_TEXT:
                raise _Refused("string_too_long", at, f"text has at most {MAX_TEXT} characters")
            self._text += len(value)
            if self._text > MAX_TOTAL_TEXT:
                raise _Refused("string_too_long", at, f"all text of a filter has at most {MAX_TOTAL_TEXT} characters")
            if any("\ud800" <= c <= "\udfff" for c in value):
                raise _Refused("string_unicode", at, "not valid Unicode")
            if condition.field.startswith(f"{MOMENTS}.") and condition.operator in _COMPARED_WITH_DATES:
                return _moment(value, at)
            dated = condition.field in self._dates and condition.operator in _COMPARED_WITH_DATES
            return _date(value, at) if dated else value
        if isinstance(value, float) and not math.isfinite(value):
            raise _Refused("finite_number", at, "a number must be finite")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _Refused("int_size", at, "a whole number has at most 64 bits")
        if isinstance(value, int | float | None):
            return value
        raise _Refused("value_type", at, "text, a number, true, false or null is expected")


def _moment(value: str, at: Location) -> str:
    if (key := moment_key(value)) is None:
        raise _Refused("datetime_type", at, _DATE_EXPECTED)
    return key


def _date(value: str, at: Location) -> datetime:
    """As precise as the database; text without a zone is UTC."""
    refused = _Refused("datetime_type", at, _DATE_EXPECTED)
    if not (is_date(value) or is_datetime(value)):
        raise refused
    moment = datetime.fromisoformat(value.upper())
    try:
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise refused from None
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _prepared(condition: Condition, at: Location) -> Condition:
    """With the pattern translated, or the text parted into words."""
    value = condition.value
    if not isinstance(value, str):
        return condition
    if condition.operator == "regex":
        try:
            return replace(condition, value=translate(value, case_sensitive=condition.case_sensitive))
        except UnsafePattern as error:
            raise _Refused("regex", at, error.reason) from error
    if condition.operator in ("words", "phrase"):
        words = words_of(value)
        if not words:
            raise _Refused("string_too_short", at, "at least one word is expected")
        if len(words) > MAX_WORDS:
            raise _Refused("string_too_long", at, f"at most {MAX_WORDS} words")
        return replace(condition, value=tuple(words))
    return condition
