"""Registry of the installed extractors.

A package adds an extractor with an entry point in the group ``bucketline.extractors`` whose name is the id of the
extractor (``name_version``). Listing loads every entry point once; a broken one is reported and does not affect the
others. ``jsonschema`` is imported only where it is used, because it is slow to import.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from typing import cast

from bucketline.errors import ValidationFailed, ValidationIssue
from bucketline.extractors.api import Extractor, ExtractorInfo

GROUP = "bucketline.extractors"
OWN_DISTRIBUTION = "bucketline"
MAX_FAULTS = 20

log = logging.getLogger(__name__)


class UnknownExtractor(ValidationFailed):
    """No installed extractor has this name and version; the message lists those that exist."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        message = f"no extractor '{name}' is installed; there are: {', '.join(known) or 'none'}"
        super().__init__([ValidationIssue("unknown_extractor", ("body", "feature_extractor"), message)])
        self.message = message
        self.args = (message,)


@dataclass(frozen=True, slots=True)
class BrokenExtractor:
    """An entry point that cannot be used: its distribution and the reason."""

    entry_point: str
    distribution: str
    reason: str


def installed_entry_points() -> Iterable[EntryPoint]:
    """Return the entry points of the group on the current ``sys.path``."""
    return entry_points(group=GROUP)


class ExtractorRegistry:
    """The installed extractors, loaded on first use. Threads may share it.

    If two distributions claim the same id, the extractor of Bucketline wins, then the first by distribution name.
    """

    def __init__(self, source: Callable[[], Iterable[EntryPoint]] = installed_entry_points) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._found: dict[str, EntryPoint] | None = None
        self._loaded: dict[str, Extractor | None] = {}
        self._broken: list[BrokenExtractor] = []

    def infos(self) -> list[ExtractorInfo]:
        """Return every usable extractor by id."""
        with self._lock:
            loaded = [self._load(name) for name in sorted(self._names())]
        return [extractor.info for extractor in loaded if extractor is not None]

    def broken(self) -> list[BrokenExtractor]:
        """Return the entry points that cannot be used."""
        self.infos()
        return list(self._broken)

    def get(self, extractor_id: str) -> Extractor:
        """Return the extractor with this ``name_version`` and load no other. Raises :class:`UnknownExtractor`."""
        with self._lock:
            extractor = self._load(extractor_id) if extractor_id in self._names() else None
        if extractor is None:
            raise UnknownExtractor(extractor_id, [info.id for info in self.infos()])
        return extractor

    def find(self, name: str, version: str) -> Extractor:
        """Return the extractor that ``feature_extractor`` of a collection names. Raises :class:`UnknownExtractor`."""
        return self.get(f"{name}_{version}")

    def _names(self) -> dict[str, EntryPoint]:
        if self._found is None:
            self._found = {}
            for entry_point in sorted(self._source(), key=_rank):
                if entry_point.name not in self._found:
                    self._found[entry_point.name] = entry_point
                elif entry_point.value != self._found[entry_point.name].value:
                    owner = _distribution(self._found[entry_point.name])
                    self._report(entry_point, f"'{entry_point.name}' is provided by {owner} already")
        return self._found

    def _load(self, name: str) -> Extractor | None:
        if name not in self._loaded:
            self._loaded[name] = None
            entry_point = self._names()[name]
            try:
                self._loaded[name] = _instance(entry_point)
            except Exception as error:  # importing a plug-in may raise any exception, which must not affect the others
                self._report(entry_point, f"{type(error).__name__}: {error}")
        return self._loaded[name]

    def _report(self, entry_point: EntryPoint, reason: str) -> None:
        broken = BrokenExtractor(entry_point.name, _distribution(entry_point), reason)
        log.warning("extractor %s of %s is not usable: %s", broken.entry_point, broken.distribution, reason)
        self._broken.append(broken)


_AT = ("body", "feature_extractor", "parameters")


def validate_parameters(info: ExtractorInfo, parameters: Mapping[str, object]) -> dict[str, object]:
    """Return ``parameters`` with the defaults of the schema; the argument is not modified.

    Where the schema says ``integer``, 1000.0 becomes 1000: JSON has one number type, Python has two. Raises
    ``ValidationFailed`` with at most 20 issues, each with its location in the body of a collection.
    """
    from jsonschema import Draft202012Validator

    filled = cast("dict[str, object]", _as_meant(info.parameters_schema, dict(parameters)))
    errors = Draft202012Validator(info.parameters_schema).iter_errors(filled)
    faults = [
        ValidationIssue("extractor_parameter", (*_AT, *error.absolute_path), error.message[:500])
        for error in islice(errors, MAX_FAULTS)
    ]
    if faults:
        raise ValidationFailed(faults)
    return filled


def _as_meant(schema: object, value: object) -> object:
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, float) and value.is_integer() and _is_for_integers(schema.get("type")):
        return int(value)
    if isinstance(value, list):
        return [_as_meant(schema.get("items"), item) for item in value]
    if not isinstance(value, Mapping):
        return value
    filled = dict(value)
    properties = schema.get("properties", {})
    for name, rule in properties.items() if isinstance(properties, Mapping) else ():
        if name in filled:
            filled[name] = _as_meant(rule, filled[name])
        elif isinstance(rule, Mapping) and "default" in rule:
            filled[name] = deepcopy(rule["default"])
    return filled


def _is_for_integers(kind: object) -> bool:
    kinds = kind if isinstance(kind, list) else [kind]
    return "integer" in kinds and "number" not in kinds


def _instance(entry_point: EntryPoint) -> Extractor:
    loaded = entry_point.load()
    extractor = loaded() if isinstance(loaded, type) else loaded
    info = getattr(extractor, "info", None)
    if not isinstance(info, ExtractorInfo):
        raise TypeError("it has no 'info' of type ExtractorInfo")
    if not callable(getattr(extractor, "extract", None)):
        raise TypeError("it has no method 'extract'")
    if info.id != entry_point.name:
        raise ValueError(f"the entry point must be named '{info.id}', like the extractor")
    _check_schema(info.parameters_schema)
    return cast("Extractor", extractor)


def _check_schema(schema: Mapping[str, object]) -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(schema)


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else "an unknown distribution"


def _rank(entry_point: EntryPoint) -> tuple[bool, str, str]:
    name = _distribution(entry_point)
    return (name != OWN_DISTRIBUTION, name, entry_point.value)
