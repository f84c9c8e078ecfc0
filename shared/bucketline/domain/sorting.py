"""The order of a list: what a request may ask for, always made total by the id at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bucketline.domain.schema import Location
from bucketline.errors import ValidationFailed, ValidationIssue

MAX_SORTS = 4
MAX_TIES = 2
MAX_PATH = 256
MAX_SEGMENTS = 16

_DIRECTIONS = {"asc": False, "desc": True}


@dataclass(frozen=True)
class Sort:
    """One field to sort by, under its name on the wire."""

    field: str
    descending: bool = False


def resolve_sorts(sort: object, sorts: object = None) -> tuple[Sort, ...] | None:
    """The order that a request names: ``sort`` (one, or a list of them) or else ``sorts``; None when it names none.

    Raises :class:`ValidationFailed` with one row a fault.
    """
    given, at = (sort, ("body", "sort")) if sort is not None else (sorts, ("body", "sorts"))
    if given is None:
        return None
    entries = given if isinstance(given, list) else [given]
    faults = []
    if len(entries) > MAX_SORTS:
        faults.append(ValidationIssue("too_long", at, f"at most {MAX_SORTS} fields to sort by"))
    resolved: list[Sort] = []
    for index, entry in enumerate(entries[:MAX_SORTS]):
        found = _sort(entry, (*at, index) if isinstance(given, list) else at)
        if isinstance(found, ValidationIssue):
            faults.append(found)
        elif found.field not in [sort.field for sort in resolved]:
            resolved.append(found)
    if faults:
        raise ValidationFailed(faults)
    return tuple(resolved) or None


def with_ties(sorts: Sequence[Sort], ties: Sequence[str]) -> tuple[Sort, ...]:
    """``sorts``, and then the fields (at most :data:`MAX_TIES`) that decide where those leave rows equal.

    They have the direction of the last one: a list that is turned round is turned round as a whole.
    """
    named = {sort.field for sort in sorts}
    descending = sorts[-1].descending if sorts else False
    return (*sorts, *(Sort(field, descending) for field in ties if field not in named))


def path_fault(path: str) -> str | None:
    """Why a dotted path cannot name a field: it must never reach the database as an operator or variable."""
    if len(path) > MAX_PATH:
        return f"a field path has at most {MAX_PATH} characters"
    segments = path.split(".")
    if len(segments) > MAX_SEGMENTS:
        return f"a field path has at most {MAX_SEGMENTS} parts"
    if not all(segments):
        return "a field path has no empty part"
    if any(segment.startswith("$") for segment in segments):
        return "no part of a field path starts with $"
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in path):
        return "a field path is valid Unicode without NUL"
    return None


def _sort(entry: object, location: Location) -> Sort | ValidationIssue:
    if not isinstance(entry, Mapping):
        return ValidationIssue("dict_type", location, "an object with field and direction is expected")
    field = entry.get("field")
    if not isinstance(field, str):
        return ValidationIssue(
            "missing" if field is None else "string_type", (*location, "field"), "a field name is expected"
        )
    if (reason := path_fault(field)) is not None:
        return ValidationIssue("field_path", (*location, "field"), reason)
    if any(part.isdigit() for part in field.split(".")):
        return ValidationIssue("field_path", (*location, "field"), "a position in an array cannot be sorted by")
    direction = entry.get("direction")
    if direction is None:
        return Sort(field)
    if not isinstance(direction, str) or direction not in _DIRECTIONS:
        return ValidationIssue("enum", (*location, "direction"), "asc or desc is expected")
    return Sort(field, _DIRECTIONS[direction])
