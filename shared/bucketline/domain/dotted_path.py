"""Dot paths into nested JSON: ``vendor.name``, ``items.0.price``."""

from collections.abc import Mapping, MutableMapping, Sequence


def get_path(value: object, path: str, default: object = None) -> object:
    """Return the value at ``path``, or ``default`` if there is none."""
    for step in path.split("."):
        if isinstance(value, Mapping):
            if step not in value:
                return default
            value = value[step]
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes) and step.isdigit():
            set_path = int(step)
            if set_path >= len(value):
                return default
            value = value[set_path]
        else:
            return default
    return value


def set_path(target: MutableMapping[str, object], path: str, value: object) -> None:
    """Set ``value`` at ``path``. Objects on the path are created where they are missing or another value is."""
    *steps, last = path.split(".")
    for step in steps:
        inner = target.get(step)
        if not isinstance(inner, MutableMapping):
            inner = {}
            target[step] = inner
        target = inner
    target[last] = value
